"""Batches that a run leaves out, such as those before a spike of the loss."""

import dataclasses
import re

from pausejax import errors

NONE = "none"


@dataclasses.dataclass(frozen=True)
class BatchSkips:
  """Ranges of batches that are not trained on.

  Batches are numbered from 1, like steps: without ranges, step n is trained on
  batch n.

  Attributes:
    ranges: (first, last) batch of each range, in order.
  """

  ranges: tuple[tuple[int, int], ...] = ()

  def batch(self, step: int) -> int:
    """Returns the number of the batch of a step."""
    number = step
    for first, last in self.ranges:
      if number >= first:
        number += last - first + 1
    return number

  def until(self, step: int) -> tuple[tuple[int, int], ...]:
    """Returns the ranges that steps up to this one have passed."""
    return tuple(r for r in self.ranges if r[0] <= self.batch(step))


def batch_skips(text: str) -> BatchSkips:
  """Returns the ranges of a text.

  Args:
    text: FIRST:LAST, both left out, separated by ","; "" or "none".

  Raises:
    UsageError: another form, or ranges that are not in order.
  """
  ranges: list[tuple[int, int]] = []
  if text == NONE:
    return BatchSkips()
  for part in filter(None, text.split(",")):
    found = re.fullmatch(r"([1-9][0-9]{0,17}):([1-9][0-9]{0,17})", part)
    first, last = map(int, found.groups()) if found else (0, 0)
    before = ranges[-1][1] if ranges else 0
    errors.require(
      before < first <= last,
      f"skip_batches: {part!r} is not FIRST:LAST with FIRST above {before} and "
      "at most LAST, as in '1201:1400,5001:5200'; 'none' leaves none out",
    )
    ranges.append((first, last))
  return BatchSkips(tuple(ranges))
