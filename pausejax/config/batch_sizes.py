"""The batch sizes of a run: one at first, others after later steps.

  batch_size          256                   rows from step 0 on
  later_batch_sizes   2000:512,6000:1024    rows from later steps on

Rows are numbered over the whole run: a batch begins where the one before it
ends, whatever their sizes.
"""

import bisect
import dataclasses

from pausejax import errors


@dataclasses.dataclass(frozen=True)
class BatchSizes:
  """The rows of the global batch at every step.

  Attributes:
    stages: (first step, rows), the first at step 0, in increasing order.
  """

  stages: tuple[tuple[int, int], ...]

  @property
  def sizes(self) -> tuple[int, ...]:
    """Every size once, smallest first."""
    return tuple(sorted({rows for _, rows in self.stages}))

  def field(self, rows: int) -> str:
    """Returns the field of the config that sets a size, for messages."""
    is_first = rows == self.stages[0][1]
    return "batch_size" if is_first else "later_batch_sizes"

  def rows(self, step: int) -> int:
    """Returns the rows of the batch of a step, counted from 0."""
    return next(n for first, n in reversed(self.stages) if first <= step)

  def first_row(self, step: int) -> int:
    """Returns the number of rows in all batches before a step."""
    ends = [first for first, _ in self.stages[1:]] + [step]
    return sum(
      rows * max(0, min(end, step) - first)
      for (first, rows), end in zip(self.stages, ends, strict=True)
    )

  def step_of(self, row: int) -> int:
    """Returns the step whose batch has a row, numbered over the whole run."""
    return bisect.bisect_right(range(2**31), row, key=self.first_row) - 1

  def summary(self) -> str:
    """Returns the sizes and their steps in words."""
    (_, first), *later = self.stages
    return ", ".join(
      [f"{first:,} rows", *(f"{n:,} after step {s:,}" for s, n in later)]
    )

  def later(self) -> str:
    """Returns the text that `batch_sizes` parses into the later stages."""
    return ",".join(f"{step}:{rows}" for step, rows in self.stages[1:])


def batch_sizes(first: int, later: str = "") -> BatchSizes:
  """Returns the batch sizes of a run.

  Args:
    first: rows from step 0 on.
    later: "" or STEP:ROWS, separated by ",", without spaces: runs are compared
      by this text.

  Raises:
    UsageError: another form, steps that do not increase, or no rows.
  """
  stages = [(0, first)]
  for part in filter(None, later.split(",")):
    step, _, rows = part.partition(":")
    before = stages[-1][0]
    errors.require(
      _is_number(step) and _is_number(rows) and before < int(step),
      f"later_batch_sizes: {part!r} is not STEP:ROWS with a step above "
      f"{before} and at least one row, as in '2000:512,6000:1024'",
    )
    stages.append((int(step), int(rows)))
  sizes = BatchSizes(tuple(stages))
  errors.require(
    later == sizes.later(),
    f"later_batch_sizes: write {later!r} as {sizes.later()!r}",
  )
  return sizes


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdecimal() and 0 < int(text[:11]) < 2**31
