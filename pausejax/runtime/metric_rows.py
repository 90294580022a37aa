"""The rows of `metrics.jsonl`, which every reader reads in the same way.

A line is a row if it is a JSON object with a whole number `step`, and its
values are numbers or, where a number is not finite, "nan", "inf" or "-inf".
Anything else (half a line after a power failure, a line of another program) is
counted and reported, never an error, and costs no other line.
"""

import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

_NOT_FINITE = ("nan", "inf", "-inf")


def read(path: pathlib.Path) -> list[Row]:
  """Returns the rows of a file; says on stderr how many lines are none.

  A last line without its line feed may still be being written: it is left out
  and not counted.
  """
  rows, count = scan(path)
  if count:
    print(
      f"pausejax: {path}: {count} unreadable lines left out", file=sys.stderr
    )
  return rows


def scan(path: pathlib.Path) -> tuple[list[Row], int]:
  """Returns the rows of a file as `read` does, and the lines that are none."""
  *lines, last = path.read_bytes().split(b"\n")
  rows = [parse(line) for line in lines if line.strip()]
  whole = [row for row in [*rows, parse(last)] if row is not None]
  return whole, rows.count(None)


def parse(line: bytes) -> Row | None:
  """Returns the row on a line, None if there is none."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # Not JSON, or not UTF-8.
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int:
    return None
  return row if all(map(_is_value, row.values())) else None


def _is_value(value: object) -> bool:
  if isinstance(value, int):
    return abs(value) < 2**63  # No program here writes a larger one.
  return isinstance(value, float) or value in _NOT_FINITE


def gaps(
  rows: Iterable[Row], step: int, every: int
) -> Sequence[tuple[int, int]]:
  """Returns (first, last) of each range of steps whose rows are missing.

  Args:
    rows: what is left of the file.
    step: the last step that should be there.
    every: the largest number of steps between two rows.
  """
  there = sorted({r["step"] for r in rows if "loss" in r and r["step"] <= step})
  return [
    (before + 1, after - 1)
    for before, after in zip([0, *there], [*there, step + 1], strict=True)
    if after - before > every
  ]
