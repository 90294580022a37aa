"""The metric against the number of pauses at inference, an arm a line."""

import collections
import dataclasses
from collections.abc import Sequence

from pausejax import metrics
from pausejax.evaluation.page.runs import Run

PAUSE = "<pause>"
# How a run waits that was not finetuned on the task.
_USUAL = {"position": "append", "filler": ""}


@dataclasses.dataclass(frozen=True)
class Point:
  """A mean over seeds, in percent, at one number of pauses."""

  num_pauses: int
  mean: float
  std: float
  seeds: tuple[int, ...]
  n: int


@dataclasses.dataclass(frozen=True)
class Line:
  """An arm under one way to wait.

  Attributes:
    label: the arm, and what is not as finetuned.
    metric: the task's first.
    num_pauses_finetuned: M_ft, None if it was not finetuned on the task.
    points: in order of their number of pauses.
  """

  label: str
  metric: str
  num_pauses_finetuned: int | None
  points: tuple[Point, ...]


def tasks(runs: Sequence[Run]) -> list[str]:
  """Returns the tasks that any run was evaluated on, sorted."""
  return sorted({r["task"] for run in runs for r in run.results})


def lines(runs: Sequence[Run], task: str) -> list[Line]:
  """Returns every line of a task, in the order of the runs."""
  found = collections.defaultdict(dict)
  for run in runs:
    for result in sorted(run.results, key=lambda r: r["step"]):
      if result["task"] == task:
        condition = result["num_pauses"], run.seed
        found[run.arm, _condition(result)][condition] = result
  several = len({r["split"] for by in found.values() for r in by.values()}) > 1
  return [
    _line(arm + _spelled(condition, several), by)
    for (arm, condition), by in found.items()
  ]


def is_as_finetuned(result: dict) -> bool:
  """Returns whether a result was measured as its run was finetuned."""
  return result["finetuned"] is not None and _waits(result) == _waits(
    result["finetuned"]
  )


def _waits(how: dict) -> tuple[int, str, str]:
  """Returns (M, position, filler); without pauses, the others mean nothing."""
  m = how["num_pauses"]
  return (m, how["position"], how["filler"] or PAUSE) if m else (0, "", "")


def _condition(result: dict) -> tuple[str, str, str]:
  """Returns (split, position, filler), the last two "" where as finetuned."""
  was = result["finetuned"]
  position, filler = result["position"], result["filler"]
  if result["num_pauses"] == 0 or position == (was or _USUAL)["position"]:
    position = ""
  usual = (was or _USUAL)["filler"] or PAUSE
  filler = "" if result["num_pauses"] == 0 or filler == usual else filler
  return result["split"], position, filler


def _spelled(condition: tuple[str, str, str], several: bool) -> str:
  split, position, filler = condition
  more = [split] if several else []
  more += [position] if position else []
  more += [f"filler {filler!r}"] if filler else []
  return f" ({', '.join(more)})" if more else ""


def _line(label: str, by_condition: dict) -> Line:
  first = next(iter(by_condition.values()))
  metric = next(iter(first["metrics"]))
  by_m = collections.defaultdict(dict)
  for (m, seed), result in sorted(by_condition.items()):
    by_m[m][seed] = result
  points = [_point(m, by_seed, metric) for m, by_seed in by_m.items()]
  was = first["finetuned"]
  return Line(label, metric, was and was["num_pauses"], tuple(points))


def _point(m: int, by_seed: dict[int, dict], metric: str) -> Point:
  scores = [result["metrics"][metric] for result in by_seed.values()]
  n = next(iter(by_seed.values()))["n"]
  return Point(m, *metrics.mean_and_std(scores), tuple(by_seed), n)
