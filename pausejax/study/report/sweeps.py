"""The metric against the number of pauses at inference, a line per arm."""

import collections
import dataclasses
import statistics
from collections.abc import Sequence

from pausejax import errors, metrics
from pausejax.evaluation import results
from pausejax.prompt_pauses import PromptPauses
from pausejax.study import table
from pausejax.study.report.runs import StudyRun

# Pauses of a run that was not finetuned on the task.
_USUAL = PromptPauses(num_pauses=0)


@dataclasses.dataclass(frozen=True)
class Score:
  """A metric at one point.

  Attributes:
    mean: mean over seeds, percent (a perplexity is not scaled).
    std: sample standard deviation over seeds, 0 for a single seed.
    interval: 95% interval over examples of the mean over seeds, percent; None
      for a perplexity, and if the predictions are missing.
  """

  mean: float
  std: float
  interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Point:
  """The scores of an arm at one number of pauses.

  Attributes:
    num_pauses: M at inference.
    primary: the score of the task's primary metric.
    scores: metric -> score, including the primary one.
    seeds: seeds that were evaluated.
    n: number of examples of each.
    costs: FLOPs and seconds, as in a row of the table.
  """

  num_pauses: int
  primary: Score
  scores: dict[str, Score]
  seeds: tuple[int, ...]
  n: int
  costs: dict[str, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Line:
  """An arm with one pause position and filler.

  Attributes:
    label: the arm, and the settings that differ from its finetuning.
    metric: the task's primary metric.
    num_pauses_finetuned: M in finetuning; None if the task was not finetuned.
    points: in order of their number of pauses.
  """

  label: str
  metric: str
  num_pauses_finetuned: int | None
  points: tuple[Point, ...]


def tasks(runs: Sequence[StudyRun]) -> list[str]:
  """Returns the tasks that any run was evaluated on, sorted."""
  return sorted({r["task"] for run in runs for r in run.results})


def sweep_lines(runs: Sequence[StudyRun], task: str) -> list[Line]:
  """Returns every line of a task, in the order of the runs."""
  by_line = collections.defaultdict(dict)
  for run in runs:
    for result in sorted(run.results, key=lambda r: r["step"]):
      if result["task"] == task:
        condition = result["num_pauses"], run.seed
        by_line[run.arm, _condition(result)][condition] = result
  several = (
    len({r["split"] for by in by_line.values() for r in by.values()}) > 1
  )
  return [
    _line(arm + _spelled(condition, several), by)
    for (arm, condition), by in by_line.items()
  ]


def is_as_finetuned(result: dict) -> bool:
  """Returns whether a result was measured as its run was finetuned."""
  own = _finetuned(result)
  return own is not None and PromptPauses.from_saved(result).is_like(own)


def _finetuned(result: dict) -> PromptPauses | None:
  """Returns the pauses that a run was finetuned with, None without the task."""
  own = result["finetuned"]
  return own and PromptPauses.from_saved(own)


def _condition(result: dict) -> tuple[str, ...]:
  """Returns the split, and all settings but M that differ from finetuning."""
  pauses = PromptPauses.from_saved(result)
  return result["split"], *pauses.changes_from(_finetuned(result) or _USUAL)


def _spelled(condition: tuple[str, ...], several: bool) -> str:
  more = condition if several else condition[1:]
  return f" ({', '.join(more)})" if more else ""


def _line(label: str, by_condition: dict) -> Line:
  first = next(iter(by_condition.values()))
  metric = first["primary_metric"]
  by_m = collections.defaultdict(dict)
  for (m, seed), result in sorted(by_condition.items()):
    by_m[m][seed] = result
  for result in by_condition.values():
    if metric not in result["metrics"]:
      raise errors.UserError(
        f"{result['path']} has no {metric!r}, the primary metric of other "
        "results of the task; evaluate again"
      )
  points = [_point(m, by_seed, metric) for m, by_seed in by_m.items()]
  was = first["finetuned"]
  return Line(label, metric, was and was["num_pauses"], tuple(points))


def _point(m: int, by_seed: dict[int, dict], metric: str) -> Point:
  evaluated = list(by_seed.values())
  intervals = (
    results.score_intervals(rows) if (rows := mean_rows(evaluated)) else {}
  )
  names = [
    n
    for n in evaluated[0]["metrics"]
    if all(n in r["metrics"] for r in evaluated)
  ]
  scores = {
    name: Score(
      *metrics.mean_and_std([r["metrics"][name] for r in evaluated]),
      intervals.get(name),
    )
    for name in names
  }
  n = evaluated[0]["n"]
  return Point(
    m, scores[metric], scores, tuple(by_seed), n, table.costs(evaluated)
  )


def mean_rows(evaluated: Sequence[dict]) -> list[dict]:
  """Returns the predictions, each value the mean over the results.

  Empty if predictions are missing or are not of the same examples.
  """
  if not all(map(results.has_predictions, evaluated)):
    return []
  first, *others = (
    {row["id"]: row for row in results.predictions(result)}
    for result in evaluated
  )
  if any(rows.keys() != first.keys() for rows in others):
    return []
  return [
    {
      **row,
      "values": {
        name: statistics.fmean(
          rows[i]["values"].get(name, value) for rows in (first, *others)
        )
        for name, value in row["values"].items()
      },
    }
    for i, row in first.items()
  ]
