"""The charts of the page: pauses at inference, and losses."""

from collections.abc import Sequence

from pausejax.study import render
from pausejax.study.report import chart, dots, markup
from pausejax.study.report.contents import Report
from pausejax.study.report.curves import AXES, QUANTITIES, Curve, Sample
from pausejax.study.report.markup import Html, tag
from pausejax.study.report.sweeps import Line, Point, Score


def sweeps(report: Report) -> Html:
  """Returns one chart per task: metric against M at inference."""
  if not report.sweeps:
    return tag("p", "Nothing was evaluated yet.", class_="missing")
  labels = [line.label for lines in report.sweeps.values() for line in lines]
  styles = _styles(labels)
  charts = [
    _sweep(report, task, lines, styles) for task, lines in report.sweeps.items()
  ]
  note = (
    "Mean over seeds. Whiskers: 95% interval over examples (Wilson); arms are "
    "drawn side by side. A ring marks the M that an arm was finetuned with. An "
    "arm is a pretraining and a finetuning; settings that differ from the "
    "finetuning are in parentheses."
  )
  return markup.join(tag("p", note), tag("div", *charts, class_="charts"))


def curves(report: Report) -> Html:
  """Returns charts of losses with a switch for the x axis."""
  if not any(curve.loss for curve in report.curves):
    return tag("p", "No run has taken a step yet.", class_="missing")
  styles = _styles([curve.run.arm for curve in report.curves])
  radios = [
    _radio(i, name, text) for i, (name, text) in enumerate(AXES.items())
  ]
  charts = [_losses(*group, styles) for group in _by_task(report.curves)]
  most = max(curve.num_lines_averaged for curve in report.curves)
  note = (
    "Nats per target; pauses are never counted. Lines: training loss"
    + (
      f", each point the mean of up to {most} measurements. "
      if most > 1
      else ". "
    )
    + "Markers: held-out losses if measured, else the last loss. Seeds of an "
    "arm have the same style."
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
      tuple((p.num_pauses, p.primary.mean) for p in line.points),
      tuple(_sweep_mark(line, p) for p in line.points),
    )
    for line in lines
  ]
  row = report.baseline(task)
  levels = [(row.mean, f"{row.variant} {row.mean:.1f}")] if row else []
  levels += [
    (level.percent, f"{level.label} {level.percent:.1f}")
    for level in report.levels[task]
  ]
  name = f"{lines[0].metric}, %"
  if len({p.num_pauses for line in lines for p in line.points}) == 1:
    drawing = dots.svg(
      _dots(lines, styles), title=f"{task}: {name}", x_label=name, levels=levels
    )
    return tag("figure", tag("figcaption", tag("h3", task)), drawing)
  drawing = chart.Chart(
    title=f"{task}: {lines[0].metric} against pauses at inference",
    x_label="pauses at inference, M",
    y_label=name,
    series=series,
    levels=levels,
  ).svg()
  return tag(
    "figure",
    tag("figcaption", tag("h3", task)),
    drawing,
    chart.legend(series),
  )


def _dots(lines: Sequence[Line], styles: dict[str, int]) -> list[dots.Dot]:
  """Returns the points of lines that have the same single M."""
  return [
    dots.Dot(
      label=f"{line.label}, M={point.num_pauses}",
      style=styles[line.label],
      value=point.primary.mean,
      interval=point.primary.interval,
      title=_sweep_mark(line, point).title,
    )
    for line in lines
    for point in line.points
  ]


def _sweep_mark(line: Line, point: Point) -> chart.Mark:
  text = spelled(point.primary, len(point.seeds))
  return chart.Mark(
    point.num_pauses,
    point.primary.mean,
    f"{line.label}, M={point.num_pauses}: {text} "
    f"({len(point.seeds)} seeds, n={point.n:,})",
    whisker=point.primary.interval,
    ring=point.num_pauses == line.num_pauses_finetuned,
  )


def metrics(report: Report) -> Html:
  """Returns a table per task: every metric of every arm at every M."""
  if not report.sweeps:
    return tag("p", "Nothing was evaluated yet.", class_="missing")
  tables = [
    _metrics(task, lines, report) for task, lines in report.sweeps.items()
  ]
  return markup.join(*tables)


def _metrics(task: str, lines: Sequence[Line], report: Report) -> Html:
  names = dict.fromkeys(
    name for line in lines for p in line.points for name in p.scores
  )
  body = [
    [
      line.label,
      f"{point.num_pauses}",
      *(
        spelled(point.scores[name], len(point.seeds))
        if name in point.scores
        else ""
        for name in names
      ),
      f"{point.n:,}",
      f"{len(point.seeds)}",
    ]
    for line in lines
    for point in line.points
  ]
  known = "; ".join(
    f"{level.label} {level.percent:.1f}" for level in report.levels[task]
  )
  caption = f"{task}: percent" + (
    f"; without a model: {known}" if known else ""
  )
  return markup.html_table(caption, ["arm", "M", *names, "n", "runs"], body)


def spelled(score: Score, num_seeds: int) -> str:
  """Returns "24.9 \u00b1 1.1 [23.1, 26.8]"."""
  text = render.format_mean_and_std(score.mean, score.std, num_seeds)
  return f"{text} {render.interval(score.interval)}".rstrip()


def training_charts(report: Report) -> Html:
  """Returns a chart of each quantity of the training steps, task by task."""
  styles = _styles([curve.run.arm for curve in report.curves])
  figures = [
    _quantity(task, name, curves, styles)
    for task, curves in _by_task(report.curves)
    for name in QUANTITIES
  ]
  return tag("div", *filter(None, figures), class_="charts")


def _quantity(
  task: str, name: str, curves: list[Curve], styles: dict[str, int]
) -> Html:
  """Returns the chart of a quantity, "" if no run of the task has it."""
  series = [
    chart.Series(curve.run.id, styles[curve.run.arm], points, ())
    for curve in curves
    if (points := curve.quantity(name))
  ]
  if not series:
    return Html("")
  label = QUANTITIES[name]
  drawing = chart.Chart(
    title=f"{task}: {label} against steps",
    x_label="steps",
    y_label=label,
    series=series,
  )
  arms = {c.run.id: c.run.arm for c in curves}
  looks = [chart.Series(arms[s.label], s.style, (), ()) for s in series]
  caption = tag("figcaption", tag("h3", f"{task}: {label}"))
  return tag("figure", caption, drawing.svg(), chart.legend(looks))


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
  """Returns one chart per axis, of which CSS shows one."""
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
  """Returns label -> number of its style, the same in every chart."""
  return {label: i for i, label in enumerate(dict.fromkeys(labels))}
