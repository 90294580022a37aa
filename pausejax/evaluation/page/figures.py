"""The charts of the page: pauses at inference, and losses."""

from collections.abc import Sequence

from pausejax.evaluation import render
from pausejax.evaluation.page import chart, markup
from pausejax.evaluation.page.curves import AXES, Curve, Sample
from pausejax.evaluation.page.markup import Html, tag
from pausejax.evaluation.page.report import Report
from pausejax.evaluation.page.sweeps import Line, Point


def sweeps(report: Report) -> Html:
  """Returns a chart a task: metric against M at inference."""
  if not report.sweeps:
    return tag("p", "Nothing was evaluated yet.", class_="missing")
  labels = [line.label for lines in report.sweeps.values() for line in lines]
  styles = _styles(labels)
  charts = [
    _sweep(report, task, lines, styles) for task, lines in report.sweeps.items()
  ]
  note = (
    "Mean over seeds, whiskers of one sample deviation, drawn side by side "
    "where they would meet. A ring marks the M "
    "that an arm was finetuned with. An arm is its pretraining and its "
    "finetuning; what is not as finetuned stands in brackets."
  )
  return markup.join(tag("p", note), tag("div", *charts, class_="charts"))


def curves(report: Report) -> Html:
  """Returns charts of losses with a switch for what they are drawn against."""
  if not any(curve.loss for curve in report.curves):
    return tag("p", "No run has taken a step yet.", class_="missing")
  styles = _styles([curve.run.arm for curve in report.curves])
  radios = [
    _radio(i, name, text) for i, (name, text) in enumerate(AXES.items())
  ]
  charts = [_losses(*group, styles) for group in _by_task(report.curves)]
  most = max(curve.num_lines_averaged for curve in report.curves)
  note = (
    "Nats a target, pauses never counted. Lines: training loss"
    + (
      f", each point the mean of up to {most} measurements. "
      if most > 1
      else ". "
    )
    + "Markers: some losses of held-out text, if measured; else the end of "
    "the run. Seeds of an arm look the same."
  )
  return tag(
    "div",
    tag("p", note),
    *(field for field, _ in radios),
    tag("div", "against: ", *(label for _, label in radios), class_="tabs"),
    tag("div", *charts, class_="charts"),
    class_="switch",
    role="group",
    aria_label="Loss curves",
  )


def _sweep(
  report: Report, task: str, lines: Sequence[Line], styles: dict[str, int]
) -> Html:
  series = [
    chart.Series(
      line.label,
      styles[line.label],
      tuple((p.num_pauses, p.mean) for p in line.points),
      tuple(_sweep_mark(line, p) for p in line.points),
    )
    for line in lines
  ]
  row = report.baseline(task)
  level = (row.mean, f"{row.variant} {row.mean:.1f}") if row else None
  drawing = chart.Chart(
    title=f"{task}: {lines[0].metric} against pauses at inference",
    x_label="pauses at inference, M",
    y_label=f"{lines[0].metric}, %",
    series=series,
    level=level,
  )
  about = f"dashed across: {level[1]}" if level else ""
  return tag(
    "figure",
    tag("figcaption", tag("h3", task), about),
    drawing.svg(),
    chart.legend(series),
    _numbers(lines),
  )


def _sweep_mark(line: Line, point: Point) -> chart.Mark:
  text = render.mean_and_std(point.mean, point.std, len(point.seeds))
  return chart.Mark(
    point.num_pauses,
    point.mean,
    f"{line.label}, M={point.num_pauses}: {text} "
    f"({len(point.seeds)} seeds, n={point.n:,})",
    spread=point.std,
    ring=point.num_pauses == line.num_pauses_finetuned,
  )


def _numbers(lines: Sequence[Line]) -> Html:
  """Returns the chart's numbers as a table, folded away."""
  counts = sorted({p.num_pauses for line in lines for p in line.points})
  body = []
  for line in lines:
    at = {p.num_pauses: p for p in line.points}
    cells = [
      render.mean_and_std(at[m].mean, at[m].std, len(at[m].seeds))
      if m in at
      else ""
      for m in counts
    ]
    body.append([line.label, *cells])
  head = ["arm", *(f"M={m}" for m in counts)]
  table = markup.table(f"{lines[0].metric}, %", head, body)
  return tag("details", tag("summary", "numbers"), table)


def _radio(index: int, name: str, text: str) -> tuple[Html, Html]:
  field = markup.void(
    "input",
    type="radio",
    name="axis",
    id=f"by-{name}",
    checked=index == 0,
  )
  return field, tag("label", text, for_=f"by-{name}")


def _by_task(curves: Sequence[Curve]) -> list[tuple[str, list[Curve]]]:
  groups: dict[str, list[Curve]] = {}
  for curve in curves:
    if curve.loss:
      groups.setdefault(curve.run.task, []).append(curve)
  return list(groups.items())


def _losses(task: str, curves: list[Curve], styles: dict[str, int]) -> Html:
  """Returns one chart an axis, of which CSS shows one."""
  drawings = []
  for axis, text in AXES.items():
    series = [_curve(curve, axis, styles[curve.run.arm]) for curve in curves]
    drawing = chart.Chart(
      title=f"{task}: loss against {text}",
      x_label=text,
      y_label="loss, nats",
      series=series,
    )
    drawings.append(tag("div", drawing.svg(), class_=f"by by-{axis}"))
  arms = dict.fromkeys(curve.run.arm for curve in curves)
  looks = [chart.Series(arm, styles[arm], (), ()) for arm in arms]
  caption = tag("figcaption", tag("h3", task))
  return tag("figure", caption, *drawings, chart.legend(looks))


def _curve(curve: Curve, axis: str, style: int) -> chart.Series:
  name = curve.run.id
  marks = [_mark(name, "held-out loss", s, axis) for s in curve.held_out]
  if not marks:
    marks = [_mark(name, "last loss", curve.loss[-1], axis)]
  line = tuple((s.x[axis], s.loss) for s in curve.loss)
  return chart.Series(name, style, line, tuple(marks))


def _mark(name: str, what: str, sample: Sample, axis: str) -> chart.Mark:
  at = f"{chart.short(sample.x[axis])} {AXES[axis]}"
  return chart.Mark(
    sample.x[axis], sample.loss, f"{name}: {what} {sample.loss:.3f} at {at}"
  )


def _styles(labels: Sequence[str]) -> dict[str, int]:
  """Returns label -> number of its look, the same in every chart."""
  return {label: i for i, label in enumerate(dict.fromkeys(labels))}
