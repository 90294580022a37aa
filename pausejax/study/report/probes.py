"""What the pauses of each run do, as `pausejax probe` measured it."""

from typing import Any

from pausejax.probe import verdict
from pausejax.study import render
from pausejax.study.report import chart, dots, heat, markup
from pausejax.study.report.contents import Report
from pausejax.study.report.markup import Html, tag

_LEAST = 5.0  # Points: a map of smaller drops has weaker colors.
_DECISIVE = ("cut", "mean", "transplant")
_UNITS = {"accuracy": "points", "log_likelihood": "nats"}
HEAD = [
  "run",
  "task",
  "split",
  "M",
  "n",
  "accuracy, %",
  *(f"{kind}: drop, {unit}" for kind in _DECISIVE for unit in _UNITS.values()),
  "verdict",
]


def probes_section(report: Report) -> Html:
  """Returns verdict and pictures of every probe."""
  parts = [
    _probe(run.id, result) for run in report.runs for result in run.probes
  ]
  if not parts:
    return tag("p", "No run was probed (pausejax probe).", class_="missing")
  note = (
    "A drop is the value without a lesion minus the value under it, with a 95% "
    "bootstrap interval over examples. Layers and heads count from 0, pauses "
    "from 1. Color: orange if the value is negative."
  )
  rules = {r["rule"]: None for run in report.runs for r in run.probes}
  lines = [tag("p", note), *(tag("p", f"Rule: {rule}") for rule in rules)]
  return markup.join(*lines, *parts)


def probe_rows(report: Report) -> list[list[str]]:
  """Returns what was probed, the decisive drops and the verdict, for tables."""
  return [
    [
      run.id,
      result["task"],
      result["split"],
      _pauses(result),
      f"{result['n']:,}",
      f"{result['accuracy']['mean']:.2f}",
      *(
        verdict.format_drop(verdict.Drop(**result["lesions"][kind][quantity]))
        for kind in _DECISIVE
        for quantity in _UNITS
      ),
      result["verdict"],
    ]
    for run in report.runs
    for result in run.probes
  ]


def _probe(name: str, it: dict[str, Any]) -> Html:
  level = it["accuracy"]
  interval = render.interval((level["low"], level["high"]))
  title = f"{name}: {it['task']} {it['split']}, M={_pauses(it)}"
  text = (
    f". Accuracy {level['mean']:.2f}% {interval} without a lesion, "
    f"n={it['n']:,}; {it['reason']}."
  )
  drawings = [
    _figure("every pause in every layer", _lesions(it)),
    _figure("only the first j pauses", _kept(it)),
    *(
      _figure(f"{kind}, by layer and pause", _map(kind, rows))
      for kind, rows in it["by_layer_and_pause"].items()
    ),
    _figure("logit lens", _lens(it)),
    _figure("attention", _attention(it)),
  ]
  return tag(
    "div",
    tag("h3", title),
    tag("p", tag("b", it["verdict"]), text),
    tag("div", *drawings, class_="charts"),
  )


def _pauses(it: dict[str, Any]) -> str:
  """Returns M as text; only pauses after every token are probed at M = 0."""
  if it["num_pauses"]:
    return str(it["num_pauses"])
  return f"0, {it.get('pauses_behind_tokens', 'pauses')} after every token"


def _figure(title: str, drawing: Html) -> Html:
  return tag("figure", tag("figcaption", title), drawing)


def _lesions(it: dict[str, Any]) -> Html:
  rows = []
  for style, (kind, effect) in enumerate(it["lesions"].items()):
    drop = verdict.Drop(**effect["accuracy"])
    text = f"{kind}: {verdict.format_drop(drop)} points"
    nats = verdict.format_drop(verdict.Drop(**effect["log_likelihood"]))
    limits = drop.low, drop.high
    title = f"{text}, {nats} nats"
    rows.append(dots.Dot(text, style, drop.mean, limits, title))
  return dots.svg(
    rows,
    title="Drop in accuracy under each lesion",
    x_label="drop in accuracy, points",
    levels=[(0.0, "no drop")],
  )


def _kept(it: dict[str, Any]) -> Html:
  marks = []
  for point in it["kept"]:
    level = point["accuracy"]
    limits = level["low"], level["high"]
    text = f"{point['num_kept']} pauses: {level['mean']:.2f}%"
    marks.append(
      chart.Mark(point["num_kept"], level["mean"], text, whisker=limits)
    )
  line = tuple((mark.x, mark.y) for mark in marks)
  return chart.Chart(
    title="Accuracy with only the first pauses",
    x_label="pauses that can be attended to, j",
    y_label="accuracy, %",
    series=[chart.Series("accuracy", 0, line, tuple(marks))],
  ).svg()


def _map(kind: str, effects: list[list[dict]]) -> Html:
  drops = [
    [verdict.Drop(**e["accuracy"]) for e in of_layer] for of_layer in effects
  ]
  largest = max(abs(d.mean) for of_layer in drops for d in of_layer)
  most = max(_LEAST, largest)
  return heat.heat_map(
    [[d.mean for d in of_layer] for of_layer in drops],
    title=f"Drop in accuracy under {kind} by layer and pause",
    x_label=f"pause; strongest color: {most:.1f} points",
    y_label="layer",
    rows=[*map(str, range(len(drops)))],
    columns=_numbers(len(drops[0])),
    most=most,
    notes=[[verdict.format_drop(d) for d in of_layer] for of_layer in drops],
  )


def _lens(it: dict[str, Any]) -> Html:
  shares = it["lens"]["accuracy"]
  return heat.heat_map(
    shares,
    title="How often the logit lens shows the answer's first token",
    x_label="pause; strongest color: always the answer's first token",
    y_label="input of layer; output",
    rows=[*map(str, range(len(shares) - 1)), "out"],
    columns=_numbers(len(shares[0])),
    most=100.0,
    notes=[[f"mostly {t!r}" for t in row] for row in it["lens"]["top"]],
  )


def _attention(it: dict[str, Any]) -> Html:
  count = it["num_probed"]
  sums = [
    [100 * sum(head[:count]) for head in heads]
    for heads in it["attention"]["by_head"]
  ]
  evenly = [100 * sum(layer[:count]) for layer in it["attention"]["even"]]
  # Layers differ if only some have a window.
  shares = " to ".join(dict.fromkeys(f"{s:.1f}" for s in sorted(evenly)))
  return heat.heat_map(
    sums,
    title="Attention of the reading position to the probed pauses",
    x_label=f"head; strongest color: 100%; evenly spread: {shares}%",
    y_label="layer",
    rows=[*map(str, range(len(sums)))],
    columns=[*map(str, range(len(sums[0])))],
    most=100.0,
  )


def _numbers(count: int) -> list[str]:
  return [str(m) for m in range(1, count + 1)]
