"""The results behind the rows of a table, and the comparison of two rows.

K candidates, P pretrainings, S finetuning seeds, U independent runs,
N examples.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pausejax.evaluation import bootstrap, intervals
from pausejax.evaluation import results as results_
from pausejax.runtime import phases
from pausejax.study.cells import seeds_label

_NO_GROUPS = (
  "an older version wrote its predictions, without groups, so every example "
  "counts as independent; evaluate again"
)


@dataclasses.dataclass(frozen=True)
class _Answers:
  """The answers of all runs of an arm; runs by seeds, examples by id, rising.

  Attributes:
    ids: of the examples.
    values_PSN: their scores; P is 1 without seeds of pretraining.
    groups: of the examples; None: the predictions have none.
  """

  ids: tuple[str, ...]
  values_PSN: np.ndarray
  groups: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Candidate:
  """The results of one finetuning under the condition of a variant.

  Attributes:
    finetuning: its name.
    by_seeds: seeds of the run, see `Cell.seeds` -> result, seeds rising.
  """

  finetuning: str
  by_seeds: dict[tuple[int, ...], dict]

  @functools.cached_property
  def mean(self) -> float:
    """The mean score, percent."""
    return float(np.mean(self.scores()))

  def labels(self) -> tuple[int | str, ...]:
    """Returns the label of the seeds of each run."""
    return tuple(seeds_label(seeds) for seeds in self.by_seeds)

  def metric(self) -> str:
    """Returns the name of the task's primary metric."""
    return next(iter(self.by_seeds.values()))["primary_metric"]

  def scores(self) -> list[float]:
    """Returns the score of each run, percent."""
    name = self.metric()
    return [result["metrics"][name] for result in self.by_seeds.values()]

  def digests(self) -> set[str]:
    """Returns the digests of the examples that the runs answered."""
    return {r.get("examples_sha256", "") for r in self.by_seeds.values()}

  def score_interval(self) -> tuple[float, float] | None:
    """Returns the 95% interval over examples, percent."""
    if self.answers is None:
      return None
    values_N = self.answers.values_PSN.mean(axis=(0, 1))
    low, high = intervals.of_score(values_N, self.answers.groups)
    return 100 * low, 100 * high

  def num_groups(self) -> int:
    """Returns the number of groups of examples; 0 if `answers` is None."""
    if self.answers is None:
      return 0
    return len({*(self.answers.groups or self.answers.ids)})

  @functools.cached_property
  def answers(self) -> _Answers | None:
    """The answers; None unless all runs answered the same examples.

    Pretrainings with unequal finetuning seeds have none either.
    """
    rows = [_by_id(result) for result in self.by_seeds.values()]
    ids = tuple(sorted(rows[0]))
    if len(self.digests()) > 1 or any(row.keys() != {*ids} for row in rows):
      return None
    num_pretrainings = len({seeds[:-1] for seeds in self.by_seeds})
    num_finetunings = len({seeds[-1] for seeds in self.by_seeds})
    if num_pretrainings * num_finetunings != len(rows):
      return None
    name = self.metric()
    values_UN = np.array(
      [[row[i]["values"][name] for i in ids] for row in rows]
    )
    values_PSN = values_UN.reshape(num_pretrainings, num_finetunings, len(ids))
    groups = tuple(rows[0][i].get("group", "") for i in ids)
    return _Answers(ids, values_PSN, groups if all(groups) else None)


@dataclasses.dataclass(frozen=True)
class Choice:
  """A variant's finetunings with the most runs, the best mean first.

  Attributes:
    variant: its name.
    candidates: at least one.
  """

  variant: str
  candidates: tuple[Candidate, ...]

  @property
  def best(self) -> Candidate:
    """The candidate that the table shows."""
    return self.candidates[0]

  def values_KPSN(self) -> np.ndarray | None:
    """Returns the scores; None unless all have answered the same examples."""
    answers = [c.answers for c in self.candidates if c.answers]
    same = len(answers) == len(self.candidates) and all(
      (a.ids, a.values_PSN.shape)
      == (answers[0].ids, answers[0].values_PSN.shape)
      for a in answers
    )
    return np.stack([a.values_PSN for a in answers]) if same else None


def comparison(arm: Choice, baseline: Choice) -> dict[str, Any]:
  """Returns the fields of a row that compare it with the baseline."""
  mine, theirs = arm.best, baseline.best
  if mine.by_seeds.keys() != theirs.by_seeds.keys():
    own, other = (" ".join(map(str, c.labels())) for c in (mine, theirs))
    remark = f"no difference: it has seeds {own}, {baseline.variant} {other}"
    return {"remark": remark}
  same = mine.digests() == theirs.digests()
  if not (
    same
    and mine.answers
    and theirs.answers
    and mine.answers.ids == theirs.answers.ids
  ):
    remark = "no difference: not all seeds of both answered the same examples"
    return {"remark": remark}
  difference = mine.mean - theirs.mean
  groups = mine.answers.groups or theirs.answers.groups
  pairs_UN = intervals.independent_runs(
    mine.answers.values_PSN - theirs.answers.values_PSN
  )
  counts = len(arm.candidates), len(baseline.candidates)
  interval = intervals.of_difference(pairs_UN, groups, num_candidates=counts)
  if interval is None:
    reason = (
      "one seed does not show the variation between seeds"
      if len(pairs_UN) == 1
      else "all examples are on one text"
    )
    return {"difference": difference, "remark": f"no interval: {reason}"}
  detectable = intervals.detectable_difference(
    pairs_UN, groups, num_candidates=counts[0]
  )
  return {
    "difference": difference,
    "interval": _percent(interval),
    "bootstrap": _percent(_bootstrap(arm, baseline, groups)),
    "detectable": detectable and 100 * detectable,
    "num_groups": len({*(groups or mine.answers.ids)}),
    "remark": "" if groups else _NO_GROUPS,
  }


def _bootstrap(
  arm: Choice, baseline: Choice, groups: Sequence[str] | None
) -> intervals.Interval | None:
  phases.advance()  # A table may have many.
  mine, theirs = arm.values_KPSN(), baseline.values_KPSN()
  if mine is None or theirs is None:
    return None
  return bootstrap.hierarchical_bootstrap(mine, theirs, groups)


def _percent(limits: intervals.Interval | None) -> intervals.Interval | None:
  return limits and (100 * limits[0], 100 * limits[1])


def _by_id(result: dict) -> dict[str, dict]:
  return {row["id"]: row for row in results_.predictions(result)}
