"""The paper's table, from the results of a study.

A variant is a pretraining and one or more finetunings, of which the one with
the best mean is shown (the paper reports the better of M = 10 and 50, chosen on
the reported score). Values are percent; a row is the mean and the sample
standard deviation over seeds, and its difference to the first variant with the
interval that `ABOUT_INTERVAL` describes.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import metrics
from pausejax.evaluation import results
from pausejax.prompt_pauses import PromptPauses
from pausejax.study.arms import Variant
from pausejax.study.cells import Cell
from pausejax.study.comparison import Candidate, Choice, comparison
from pausejax.study.plan import Study

# Shown below the table in every format.
ABOUT_INTERVAL = (
  "[low, high] is a 95% interval of the expected difference to the first "
  "variant. It covers finetuning seeds (paired) and examples (grouped by text) "
  "and is corrected for the choice of the best M (Bonferroni). It covers the "
  "variation between pretraining runs only if they have several seeds."
)

ABOUT_DETECTABLE = (
  "MDE is the minimum detectable effect: the true improvement that such a "
  "study finds with a power of 80% (5%, two-sided)."
)

ABOUT_SCORE = (
  "± is the sample standard deviation over seeds; the brackets after a score "
  "are its 95% interval over examples (Wilson) for these seeds."
)

ABOUT_COST = (
  "GFLOP and ms are those of one example, means over runs: the forward pass "
  "over its prompt, pauses and answer, and the median over batches of the time "
  "of a batch divided by its examples; - if a result has none."
)

# Goyal et al. (2024), table 1: 1B model, mean and deviation over 5 finetunings.
PAPER = {
  "squad": {"StdPT_StdFT": (36.4, 2.5), "PausePT_PauseFT": (55.9, 1.0)},
  "commonsense_qa": {
    "StdPT_StdFT": (26.9, 2.9),
    "PausePT_PauseFT": (34.8, 1.2),
  },
  "natural_questions": {
    "StdPT_StdFT": (23.6, 1.2),
    "PausePT_PauseFT": (26.9, 0.4),
  },
  "lambada": {"StdPT_StdFT": (16.4, 1.7), "PausePT_PauseFT": (18.8, 0.1)},
  "web_questions": {"StdPT_StdFT": (13.7, 2.1), "PausePT_PauseFT": (16.0, 1.6)},
  "coqa": {"StdPT_StdFT": (29.9, 1.0), "PausePT_PauseFT": (31.6, 0.5)},
  "gsm8k": {"StdPT_StdFT": (7.5, 0.5), "PausePT_PauseFT": (8.5, 0.9)},
  "piqa": {"StdPT_StdFT": (73.3, 0.2), "PausePT_PauseFT": (74.2, 0.2)},
  "hellaswag": {"StdPT_StdFT": (37.8, 0.1), "PausePT_PauseFT": (37.8, 0.2)},
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One variant on one task.

  Attributes:
    task: its name.
    metric: the task's primary metric.
    variant: its name in the study.
    finetuning: the best one, "" if there is no result yet.
    num_pauses: M at inference.
    mean: over seeds, percent.
    std: sample deviation over seeds; 0 for a single one.
    seeds: of each run that has a result, see `Cell.label`.
    num_seeds_planned: number of runs of the study.
    n: number of examples of each result.
    difference: mean minus that of the first variant, None without it.
    interval: (low, high) of the difference, see `ABOUT_INTERVAL`.
    paper: (mean, deviation) of the paper's 1B model, None if not reported.
    num_candidates: number of finetunings of which it is the best.
    num_groups: groups of examples in the intervals; 0 if the runs did not
      answer the same examples.
    remark: why the difference or interval is missing, or a problem with it.
    bootstrap: (low, high) of the difference by a hierarchical bootstrap, see
      `evaluation/bootstrap.py`.
    detectable: minimum detectable effect, see `ABOUT_DETECTABLE`.
    flops_per_example: mean over runs, see `ABOUT_COST`; None: an old result.
    seconds_per_example: likewise, or too few batches.
    score_interval: (low, high) of the mean, see `ABOUT_SCORE`; None where the
      seeds did not answer the same examples.
  """

  task: str
  metric: str
  variant: str
  finetuning: str
  num_pauses: int
  mean: float
  std: float
  seeds: tuple[int | str, ...]
  num_seeds_planned: int
  n: int
  difference: float | None
  interval: tuple[float, float] | None
  paper: tuple[float, float] | None
  num_candidates: int = 1
  num_groups: int = 0
  remark: str = ""
  score_interval: tuple[float, float] | None = None
  bootstrap: tuple[float, float] | None = None
  detectable: float | None = None
  flops_per_example: float | None = None
  seconds_per_example: float | None = None


def build(study: Study, evaluated: Mapping[str, Sequence[dict]]) -> list[Row]:
  """Returns the rows, task by task, in the study's order of variants.

  Args:
    study: the plan.
    evaluated: cell id -> its results, from `results.read_results`.
  """
  rows = []
  for task in study.tasks:
    arms = {v.name: _choice(study, task, v, evaluated) for v in study.variants}
    baseline = next(iter(arms.values()), None)
    rows += [
      _row(study, task, name, arm, baseline) for name, arm in arms.items()
    ]
  return rows


def matches(result: Mapping[str, Any], variant: Variant) -> bool:
  """Returns whether a result was measured under the variant's condition."""
  pauses = PromptPauses.from_saved(result)
  if variant.filler:
    return pauses.token == variant.filler and pauses.num_pauses > 0
  return pauses == PromptPauses.from_saved(result["finetuned"])


def costs(evaluated: Sequence[dict]) -> dict[str, float | None]:
  """Returns the fields of a row that are its costs."""
  names = ("flops_per_example", "seconds_per_example")
  return {name: results.mean_of(evaluated, name) for name in names}


def _choice(
  study: Study, task: str, variant: Variant, evaluated
) -> Choice | None:
  """Returns the finetunings with the most runs; None without results."""
  arms = collections.defaultdict(dict)
  split = study.split_of(task)
  for cell in study.finetunings_of(task):
    if not _belongs(cell, variant):
      continue
    # Of several checkpoints, the last one is used.
    for result in sorted(evaluated.get(cell.id, ()), key=lambda r: r["step"]):
      same = (result["task"], result["split"]) == (task, split)
      if same and matches(result, variant):
        arms[cell.finetuning, result["num_pauses"]][cell.seeds] = result
  candidates = [
    Candidate(finetuning, dict(sorted(by_seeds.items())))
    for (finetuning, _), by_seeds in arms.items()
  ]
  most = max((len(c.by_seeds) for c in candidates), default=0)
  candidates = [c for c in candidates if len(c.by_seeds) == most]
  candidates.sort(key=lambda c: -c.mean)
  return Choice(variant.name, tuple(candidates)) if candidates else None


def _belongs(cell: Cell, variant: Variant) -> bool:
  return (
    cell.pretraining == variant.pretraining
    and cell.finetuning in variant.finetunings
  )


def _row(study: Study, task, name, arm: Choice | None, baseline) -> Row:
  paper = PAPER.get(task, {}).get(name)
  planned = len(study.seeds) * max(1, len(study.pretrain_seeds))
  if arm is None:
    nan = float("nan")
    return Row(
      task, "", name, "", 0, nan, nan, (), planned, 0, None, None, paper
    )
  best = arm.best
  mean, std = metrics.mean_and_std(best.scores())
  first = next(iter(best.by_seeds.values()))
  row = Row(
    task=task,
    metric=best.metric(),
    variant=name,
    finetuning=best.finetuning,
    num_pauses=first["num_pauses"],
    mean=mean,
    std=std,
    seeds=best.labels(),
    num_seeds_planned=planned,
    n=first["n"],
    difference=None,
    interval=None,
    paper=paper,
    num_candidates=len(arm.candidates),
    score_interval=best.score_interval(),
    num_groups=best.num_groups(),
    **costs([*best.by_seeds.values()]),
  )
  if baseline is None or arm is baseline:
    return row
  return dataclasses.replace(row, **comparison(arm, baseline))
