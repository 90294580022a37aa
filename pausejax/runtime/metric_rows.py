"""The reader of `metrics.jsonl`, shared by all programs.

A line is a row if it is a JSON object with an integer `step` whose values are
numbers or, for numbers that are not finite, "nan", "inf" or "-inf". Any other
line (half a line after a power failure, a line of another program) is counted
and reported; it is not an error and does not affect other lines.
"""

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pausejax import files, json_files

Row = dict[str, Any]

_SAMPLE = [("step", int), ("prompt", str), ("num_pauses", int), ("text", str)]
_MAX_BYTES = 2**32  # Millions of rows.
_NOT_FINITE = ("nan", "inf", "-inf")


def read_rows(path: pathlib.Path) -> list[Row]:
  """Returns the rows of a file; prints the number of other lines on stderr.

  A last line without a line feed may be incomplete: it is left out and not
  counted unless it is a row.
  """
  rows, count = scan(path)
  if count:
    print(
      f"pausejax: {path}: {count} unreadable lines left out", file=sys.stderr
    )
  return rows


def scan(path: pathlib.Path) -> tuple[list[Row], int]:
  """Returns (rows of a file as in `read_rows`, number of other lines)."""
  *lines, last = files.read_bounded(path, _MAX_BYTES).split(b"\n")
  rows = [parse_row(line) for line in lines if line.strip()]
  whole = [row for row in [*rows, parse_row(last)] if row is not None]
  return whole, rows.count(None)


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the rows of a file as arrays [number of rows], by name.

  "step" is int64, all others are float64, NaN where a row lacks the value.
  """
  rows = read_rows(path)
  names = dict.fromkeys(name for row in rows for name in row)
  columns = {
    name: np.array([float(row.get(name, "nan")) for row in rows])
    for name in names
  }
  return {**columns, "step": np.array([row["step"] for row in rows], np.int64)}


def parse_row(line: bytes) -> Row | None:
  """Returns the row on a line, None if the line is not a row."""
  row = _of_step(line)
  return row if row and all(map(_is_value, row.values())) else None


def parse_sample(line: bytes) -> Row | None:
  """Returns the sample on a line of samples.jsonl, None if it is not one."""
  row = _of_step(line) or {}
  types = [(name, type(value)) for name, value in row.items()]
  return row if types == _SAMPLE else None


def _of_step(line: bytes) -> Row | None:
  """Returns the JSON object of a line if it has a step."""
  try:
    row = json_files.loads(line)
  except ValueError:  # Not JSON, or not UTF-8.
    return None
  has_step = isinstance(row, dict) and type(row.get("step")) is int
  return row if has_step else None


def _is_value(value: object) -> bool:
  if isinstance(value, int):
    return abs(value) < 2**63  # No program here writes a larger one.
  return isinstance(value, float) or value in _NOT_FINITE


def gaps(
  rows: Iterable[Row], step: int, every: int
) -> Sequence[tuple[int, int]]:
  """Returns (first, last) of each range of steps whose rows are missing.

  Args:
    rows: the rows that were kept.
    step: the last step that should have a row.
    every: the largest number of steps between two rows.
  """
  there = sorted({r["step"] for r in rows if "loss" in r and r["step"] <= step})
  return [
    (before + 1, after - 1)
    for before, after in zip([0, *there], [*there, step + 1], strict=True)
    if after - before > every
  ]
