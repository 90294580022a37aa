"""The paper's table, from the results of a study.

A variant is a pretraining and one or more finetunings, of which the best by
mean counts (the paper reports the better of M = 10 and 50, chosen on the very
score that it reports). Values are percent; a row is the mean and the sample
standard deviation over seeds, and its difference to the first variant with a
95% interval: a paired bootstrap over examples of their means over seeds.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pausejax import metrics
from pausejax.evaluation import results as results_
from pausejax.evaluation.study import Cell, Study, Variant

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
    metric: the task's first.
    variant: its name in the study.
    finetuning: the one that was best, "" if there is no result yet.
    num_pauses: M at inference.
    mean: over seeds, percent.
    std: sample deviation over seeds; 0 for a single one.
    seeds: those that have a result.
    num_seeds_planned: how many the study wants.
    n: examples of each result.
    difference: mean minus that of the first variant, None without it.
    interval: 95% interval of the difference.
    paper: (mean, deviation) of the paper's 1B model, if it gives them.
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


@dataclasses.dataclass(frozen=True)
class _Found:
  """The results of one arm under the condition of a variant, by seed."""

  finetuning: str
  by_seed: dict[int, dict]

  def metric(self) -> str:
    return next(iter(next(iter(self.by_seed.values()))["metrics"]))

  def scores(self) -> list[float]:
    name = self.metric()
    return [result["metrics"][name] for result in self.by_seed.values()]


def build(study: Study, found: Mapping[str, Sequence[dict]]) -> list[Row]:
  """Returns the rows, task by task, in the study's order of variants.

  Args:
    study: the plan.
    found: cell id -> the results of its evaluations, from `results.read`.
  """
  rows = []
  for task in study.tasks:
    arms = {v.name: _best(study, task, v, found) for v in study.variants}
    baseline = next(iter(arms.values()), None)
    rows += [
      _row(study, task, name, arm, baseline) for name, arm in arms.items()
    ]
  return rows


def matches(result: Mapping[str, Any], variant: Variant) -> bool:
  """Returns whether a result was measured under the variant's condition."""
  was = result["finetuned"]
  if variant.filler:
    return result["filler"] == variant.filler and result["num_pauses"] > 0
  same = (was["num_pauses"], was["position"], was["filler"] or "<pause>")
  return same == (result["num_pauses"], result["position"], result["filler"])


def _best(study: Study, task: str, variant: Variant, found) -> _Found | None:
  """Returns the arm with the best mean; arms with more seeds come first."""
  arms = collections.defaultdict(dict)
  split = study.split_of(task)
  for cell in study.finetunings_of(task):
    if not _belongs(cell, variant):
      continue
    # Of several checkpoints the last one counts.
    for result in sorted(found.get(cell.id, ()), key=lambda r: r["step"]):
      same = (result["task"], result["split"]) == (task, split)
      if same and matches(result, variant):
        arms[cell.finetuning, result["num_pauses"]][cell.seed] = result
  candidates = [_Found(key[0], by_seed) for key, by_seed in arms.items()]
  return max(
    candidates,
    key=lambda f: (len(f.by_seed), np.mean(f.scores())),
    default=None,
  )


def _belongs(cell: Cell, variant: Variant) -> bool:
  return (
    cell.pretraining == variant.pretraining
    and cell.finetuning in variant.finetunings
  )


def _row(study: Study, task, name, arm: _Found | None, baseline) -> Row:
  paper = PAPER.get(task, {}).get(name)
  planned = len(study.seeds)
  if arm is None:
    nan = float("nan")
    return Row(
      task, "", name, "", 0, nan, nan, (), planned, 0, None, None, paper
    )
  mean, std = metrics.mean_and_std(arm.scores())
  difference, interval = None, None
  if baseline is not None and arm is not baseline:
    difference, interval = _difference(arm, baseline)
  first = next(iter(arm.by_seed.values()))
  return Row(
    task=task,
    metric=arm.metric(),
    variant=name,
    finetuning=arm.finetuning,
    num_pauses=first["num_pauses"],
    mean=mean,
    std=std,
    seeds=tuple(sorted(arm.by_seed)),
    num_seeds_planned=planned,
    n=first["n"],
    difference=difference,
    interval=interval,
    paper=paper,
  )


def _difference(
  arm: _Found, baseline: _Found
) -> tuple[float, tuple[float, float] | None]:
  """Returns the difference of the means in percent, and its interval.

  There is none where the two did not answer the same examples.
  """
  mine, theirs = _mean_values(arm), _mean_values(baseline)
  difference = float(np.mean(arm.scores()) - np.mean(baseline.scores()))
  if mine.keys() != theirs.keys():
    return difference, None
  differences = np.array([mine[i] - theirs[i] for i in mine])
  low, high = metrics.bootstrap_interval(100 * differences, seed=0)
  return difference, (low, high)


def _mean_values(arm: _Found) -> dict[str, float]:
  """Returns example id -> its metric, averaged over seeds."""
  values = collections.defaultdict(list)
  name = arm.metric()
  for result in arm.by_seed.values():
    for row in results_.predictions(result):
      values[row["id"]].append(row["values"][name])
  return {i: float(np.mean(v)) for i, v in values.items()}
