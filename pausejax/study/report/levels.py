"""Scores that need no model: chance, and the most common answer."""

import collections
import dataclasses
from collections.abc import Sequence

_LEAST = 5.0  # Percent; below it an answer is common to no purpose.


@dataclasses.dataclass(frozen=True)
class Level:
  """A score in percent, and how it is reached."""

  label: str
  percent: float


def find(rows: Sequence[dict]) -> list[Level]:
  """Returns the levels of a task's first metric, from its predictions.

  With options: choosing at random, and always choosing the place that is right
  most often, where all examples have equally many options. Without: always
  giving the answer that is right most often, if that is 5% or more.
  """
  if not rows:
    return []
  if "options" in rows[0]:
    return _of_options(rows)
  answers = collections.Counter(
    answer for row in rows for answer in set(row.get("references", ()))
  )
  level = _most_common("most common answer", answers, len(rows))
  return [level] if level and level.percent >= _LEAST else []


def _of_options(rows: Sequence[dict]) -> list[Level]:
  sizes = [len(row["options"]) for row in rows]
  chance = 100.0 * sum(1 / size for size in sizes) / len(rows)
  found = [Level("chance", chance)]
  if len({*sizes}) == 1:
    labels = collections.Counter(row["label"] for row in rows)
    level = _most_common("most common label", labels, len(rows))
    found += [level] if level else []
  return found


def _most_common(
  label: str, counts: collections.Counter, n: int
) -> Level | None:
  if not counts:
    return None
  return Level(label, 100.0 * counts.most_common(1)[0][1] / n)
