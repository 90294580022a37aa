"""Baselines without a model: chance, and the most common answer."""

import collections
import dataclasses
from collections.abc import Sequence

_LEAST = 5.0  # Percent; rarer answers are not a useful baseline.


@dataclasses.dataclass(frozen=True)
class Level:
  """The name of a baseline and its score in percent."""

  label: str
  percent: float


def levels_of(rows: Sequence[dict]) -> list[Level]:
  """Returns the levels of a task's primary metric, from its predictions.

  With options: choosing at random, and always choosing the most frequent label
  if all examples have the same number of options. Without options: always
  giving the most frequent answer, if that scores 5% or more.
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
  levels = [Level("chance", chance)]
  if len({*sizes}) == 1:
    labels = collections.Counter(row["label"] for row in rows)
    level = _most_common("most common label", labels, len(rows))
    levels += [level] if level else []
  return levels


def _most_common(
  label: str, counts: collections.Counter, n: int
) -> Level | None:
  if not counts:
    return None
  return Level(label, 100.0 * counts.most_common(1)[0][1] / n)
