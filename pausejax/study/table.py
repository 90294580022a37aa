"""The paper's table, from the results of a study.

A variant is a pretraining and one or more finetunings, of which the one with
the best mean is shown (the paper reports the better of M = 10 and 50, chosen on
the reported score). Values are percent; a row is the mean and the sample
standard deviation over seeds, and its difference to the first variant with the
interval that `ABOUT_INTERVAL` describes.

S seeds, N examples.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pausejax import metrics
from pausejax.evaluation import intervals
from pausejax.evaluation import results as results_
from pausejax.prompt_pauses import PromptPauses
from pausejax.study.arms import Variant
from pausejax.study.plan import Cell, Study

# Shown below the table in every format.
ABOUT_INTERVAL = (
  "[low, high] is a 95% interval of the expected difference to the first "
  "variant. It covers finetuning seeds (paired) and examples (grouped by text) "
  "and is corrected for the choice of the best M (Bonferroni). It does not "
  "cover the variation between pretraining runs."
)

ABOUT_SCORE = (
  "± is the sample standard deviation over seeds; the brackets after a score "
  "are its 95% interval over examples (Wilson) for these seeds."
)

_NO_GROUPS = (
  "an older version wrote its predictions, without groups, so every example "
  "counts as independent; evaluate again"
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
    seeds: seeds that have a result.
    num_seeds_planned: number of seeds of the study.
    n: number of examples of each result.
    difference: mean minus that of the first variant, None without it.
    interval: (low, high) of the difference, see `ABOUT_INTERVAL`.
    paper: (mean, deviation) of the paper's 1B model, None if not reported.
    num_candidates: number of finetunings of which it is the best.
    num_groups: groups of examples in the interval; 0 without an interval.
    remark: why the difference or interval is missing, or a problem with it.
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
  seeds: tuple[int, ...]
  num_seeds_planned: int
  n: int
  difference: float | None
  interval: tuple[float, float] | None
  paper: tuple[float, float] | None
  num_candidates: int = 1
  num_groups: int = 0
  remark: str = ""
  score_interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class _Answers:
  """The answers of all seeds of an arm; examples sorted by id."""

  ids: tuple[str, ...]
  values_SN: np.ndarray
  groups: tuple[str, ...] | None  # None: the predictions have none.


@dataclasses.dataclass(frozen=True)
class _Arm:
  """The results of one finetuning under the condition of a variant, by seed.

  Attributes:
    variant: its name.
    finetuning: its name.
    by_seed: seed -> result, seeds rising.
    num_candidates: finetunings with as many seeds, itself included.
  """

  variant: str
  finetuning: str
  by_seed: dict[int, dict]
  num_candidates: int = 1

  def metric(self) -> str:
    return next(iter(self.by_seed.values()))["primary_metric"]

  def score_interval(self) -> tuple[float, float] | None:
    if self.answers is None:
      return None
    values_N = self.answers.values_SN.mean(axis=0)
    low, high = intervals.of_score(values_N, self.answers.groups)
    return 100 * low, 100 * high

  def scores(self) -> list[float]:
    name = self.metric()
    return [result["metrics"][name] for result in self.by_seed.values()]

  def digests(self) -> set[str]:
    return {r.get("examples_sha256", "") for r in self.by_seed.values()}

  @functools.cached_property
  def answers(self) -> _Answers | None:
    """The answers, None if the seeds did not answer the same examples."""
    rows = [_by_id(result) for result in self.by_seed.values()]
    ids = tuple(sorted(rows[0]))
    if len(self.digests()) > 1 or any(row.keys() != {*ids} for row in rows):
      return None
    name = self.metric()
    values_SN = np.array(
      [[row[i]["values"][name] for i in ids] for row in rows]
    )
    groups = tuple(rows[0][i].get("group", "") for i in ids)
    return _Answers(ids, values_SN, groups if all(groups) else None)


def build(study: Study, evaluated: Mapping[str, Sequence[dict]]) -> list[Row]:
  """Returns the rows, task by task, in the study's order of variants.

  Args:
    study: the plan.
    evaluated: cell id -> its results, from `results.read_results`.
  """
  rows = []
  for task in study.tasks:
    arms = {v.name: _best(study, task, v, evaluated) for v in study.variants}
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


def _best(study: Study, task: str, variant: Variant, evaluated) -> _Arm | None:
  """Returns the best mean among the arms with the most seeds."""
  arms = collections.defaultdict(dict)
  split = study.split_of(task)
  for cell in study.finetunings_of(task):
    if not _belongs(cell, variant):
      continue
    # Of several checkpoints, the last one is used.
    for result in sorted(evaluated.get(cell.id, ()), key=lambda r: r["step"]):
      same = (result["task"], result["split"]) == (task, split)
      if same and matches(result, variant):
        arms[cell.finetuning, result["num_pauses"]][cell.seed] = result
  candidates = [
    _Arm(variant.name, finetuning, dict(sorted(by_seed.items())))
    for (finetuning, _), by_seed in arms.items()
  ]
  most = max((len(arm.by_seed) for arm in candidates), default=0)
  candidates = [arm for arm in candidates if len(arm.by_seed) == most]
  if not candidates:
    return None
  best = max(candidates, key=lambda arm: np.mean(arm.scores()))
  return dataclasses.replace(best, num_candidates=len(candidates))


def _belongs(cell: Cell, variant: Variant) -> bool:
  return (
    cell.pretraining == variant.pretraining
    and cell.finetuning in variant.finetunings
  )


def _row(study: Study, task, name, arm: _Arm | None, baseline) -> Row:
  paper = PAPER.get(task, {}).get(name)
  planned = len(study.seeds)
  if arm is None:
    nan = float("nan")
    return Row(
      task, "", name, "", 0, nan, nan, (), planned, 0, None, None, paper
    )
  mean, std = metrics.mean_and_std(arm.scores())
  first = next(iter(arm.by_seed.values()))
  row = Row(
    task=task,
    metric=arm.metric(),
    variant=name,
    finetuning=arm.finetuning,
    num_pauses=first["num_pauses"],
    mean=mean,
    std=std,
    seeds=tuple(arm.by_seed),
    num_seeds_planned=planned,
    n=first["n"],
    difference=None,
    interval=None,
    paper=paper,
    num_candidates=arm.num_candidates,
    score_interval=arm.score_interval(),
  )
  if baseline is None or arm is baseline:
    return row
  return dataclasses.replace(row, **_comparison(arm, baseline))


def _comparison(arm: _Arm, baseline: _Arm) -> dict[str, Any]:
  """Returns the fields of a row that compare it with the baseline."""
  if arm.by_seed.keys() != baseline.by_seed.keys():
    own, other = (" ".join(map(str, a.by_seed)) for a in (arm, baseline))
    remark = f"no difference: it has seeds {own}, {baseline.variant} {other}"
    return {"remark": remark}
  mine, theirs = arm.answers, baseline.answers
  same = arm.digests() == baseline.digests()
  if not (same and mine and theirs and mine.ids == theirs.ids):
    remark = "no difference: not all seeds of both answered the same examples"
    return {"remark": remark}
  difference = float(np.mean(arm.scores()) - np.mean(baseline.scores()))
  groups = mine.groups or theirs.groups
  interval = intervals.of_difference(
    mine.values_SN - theirs.values_SN,
    groups,
    num_candidates=(arm.num_candidates, baseline.num_candidates),
  )
  if interval is None:
    reason = (
      "one seed does not show the variation between seeds"
      if len(arm.by_seed) == 1
      else "all examples are on one text"
    )
    return {"difference": difference, "remark": f"no interval: {reason}"}
  low, high = interval
  return {
    "difference": difference,
    "interval": (100 * low, 100 * high),
    "num_groups": len({*(groups or mine.ids)}),
    "remark": "" if groups else _NO_GROUPS,
  }


def _by_id(result: dict) -> dict[str, dict]:
  return {row["id"]: row for row in results_.predictions(result)}
