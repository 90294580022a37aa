"""The paper's four variants in a 2 x 2 table: pretraining by finetuning."""

import math
from collections.abc import Sequence

from pausejax.study import render
from pausejax.study.arms import Variant
from pausejax.study.plan import Study
from pausejax.study.report.markup import Html, join, tag
from pausejax.study.table import Row

_HEADS = ("standard", "pause")
_DARKEST = 45  # Percent of the color in the cell with the best score.


def grid_section(plan: Study | None, rows: Sequence[Row]) -> Html:
  """Returns one table per task, or nothing for other studies."""
  square = variant_grid(plan) if plan else None
  if plan is None or square is None:
    return join()
  squares = [
    _square(task, square, {r.variant: r for r in rows if r.task == task})
    for task in plan.tasks
  ]
  note = tag("p", "A stronger color is a better score within a task.")
  return join(note, tag("div", *squares, class_="squares"))


def variant_grid(plan: Study) -> list[list[Variant]] | None:
  """Returns the variants [pretraining][finetuning], standard before pause.

  Returns None unless the study has these four: two pretrainings, each finetuned
  without and with pauses. Variants with a filler are ignored.
  """
  names = _pretrainings(plan)
  square: dict[tuple[bool, bool], Variant] = {}
  for variant in plan.variants:
    if variant.pretraining not in names or variant.filler:
      continue
    key = variant.pretraining != names[0], _pauses(plan, variant)
    square.setdefault(key, variant)
  if len(square) < 4:
    return None
  return [[square[p, f] for f in (False, True)] for p in (False, True)]


def _pretrainings(plan: Study) -> list[str]:
  """Returns the pretraining of the first variant, and the first other one."""
  return list(dict.fromkeys(v.pretraining for v in plan.variants))[:2]


def _pauses(plan: Study, variant: Variant) -> bool:
  """Returns whether a variant is finetuned with pauses, by its config."""
  return all(plan.finetunings[name].has_pauses for name in variant.finetunings)


def _square(
  task: str, square: list[list[Variant]], rows: dict[str, Row]
) -> Html:
  means = [
    rows[v.name].mean for line in square for v in line if rows[v.name].seeds
  ]
  head = [
    tag("th", ""),
    *(tag("th", f"{h} finetuning", scope="col") for h in _HEADS),
  ]
  body = [
    tag(
      "tr",
      tag("th", f"{name} pretraining", scope="row"),
      *(_cell(rows[variant.name], means) for variant in line),
    )
    for name, line in zip(_HEADS, square, strict=True)
  ]
  metric = next((r.metric for r in rows.values() if r.metric), "")
  title = tag("h3", f"{task}: {metric}, %" if metric else task)
  return tag(
    "figure", title, tag("table", tag("tr", *head), *body, class_="square")
  )


def _cell(row: Row, means: Sequence[float]) -> Html:
  if not row.seeds or math.isnan(row.mean):
    return tag("td", tag("i", "missing"))
  low, high = min(means), max(means)
  share = (row.mean - low) / (high - low) if high > low else 0.0
  lines = [
    tag("b", render.format_mean_and_std(row.mean, row.std, len(row.seeds))),
    render.interval(row.score_interval),
    f"M={row.num_pauses}",
    row.variant,
  ]
  parts = [tag("div", line) for line in lines if line]
  return tag("td", *parts, style=f"--share: {share * _DARKEST:.0f}%")
