"""Trials that may fail; each is written as a row of a JSON file when it ends.

A trial that does not fit, does not compile or lacks a package gets a row, too,
and the next trial follows; an interrupted run keeps the rows measured so far.
"""

import gc
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


class OutOfTime(Exception):
  """The time limit of the session is reached."""


class Session:
  """The trials of one process."""

  def __init__(
    self,
    path: pathlib.Path,
    part: str,
    seconds: float,
    names: Sequence[str] = (),
  ):
    """Starts the clock.

    Args:
      path: JSON file with the "rows" of all parts.
      part: the part that these rows belong to.
      seconds: time limit after which no trial starts.
      names: only trials with one of these in their name run; none: all.
    """
    self._path = path
    self._part = part
    self._end = time.monotonic() + seconds
    self._names = names

  def rows(self) -> list[Row]:
    """Returns all rows so far, including those of other parts."""
    return json.loads(self._path.read_text())["rows"]

  def trial(self, name: str, run: Callable[[], Row]) -> Row | None:
    """Returns the result of `run`, None if it failed; writes its row.

    A trial that was not asked for has no row, and its result is None.

    Raises:
      OutOfTime: the time limit is reached.
    """
    if self._names and not any(part in name for part in self._names):
      return None
    if time.monotonic() > self._end:
      raise OutOfTime
    start = time.monotonic()
    result, row = None, {}
    try:
      result = row = run()
    except ModuleNotFoundError as e:
      row = {"missing": f"{e.name} is not installed"}
    # Any other error of a trial is its result.
    except Exception as e:
      reason = str(e).strip().splitlines() or [""]
      row = {"failed": f"{type(e).__name__}: {reason[0][:200]}"}
    gc.collect()
    took = {"took_s": time.monotonic() - start}
    append(self._path, {"part": self._part, "name": name, **row, **took})
    return result


def append(path: pathlib.Path, row: Row) -> None:
  """Adds a row to the file, atomically, and prints it."""
  record = json.loads(path.read_text())
  record["rows"].append(row)
  write(path, record)
  is_shown = lambda k, v: k != "part" and not isinstance(v, list | dict)
  shown = (f"{k}={_short(v)}" for k, v in row.items() if is_shown(k, v))
  print(f"[{row['part']}]", *shown, flush=True)


def write(path: pathlib.Path, record: Row) -> None:
  """Writes the whole file atomically."""
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(record, indent=2) + "\n")
  temporary.replace(path)


def _short(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
