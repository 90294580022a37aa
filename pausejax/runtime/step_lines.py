"""A file of JSON lines, each of a step, in which every step occurs once.

On resume, the lines of steps that run again are dropped. While the disk is
full, lines are kept in memory.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pausejax import errors, files

Line = dict[str, Any]


class StepLines:
  """Appends lines to a file of an earlier start.

  Attributes:
    dropped: the dropped lines, of steps that run again. A run that starts over
      moves them to `<file>.replaced`.
    num_unreadable: number of lines moved to `<file>.unreadable`.
  """

  def __init__(
    self,
    path: pathlib.Path,
    parse: Callable[[bytes], Line | None],
    is_again: Callable[[Line], bool],
    *,
    starts_over: bool,
  ):
    """Opens the file, or makes it.

    Args:
      path: the file.
      parse: returns the object of a line, None if the line is not one.
      is_again: whether the run will write a line again.
      starts_over: whether no checkpoint of an earlier start exists.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    pairs = [(line, parse(line)) for line in lines if line.strip()]
    unreadable = [line for line, parsed in pairs if parsed is None]
    dropped = [(n, p) for n, p in pairs if p and is_again(p)]
    kept = [line for line, parsed in pairs if parsed and not is_again(parsed)]
    self.dropped = [parsed for _, parsed in dropped]
    self.num_unreadable = len(unreadable)
    self._starts_over = starts_over
    if unreadable:
      _append(path.with_name(path.name + ".unreadable"), unreadable)
    if dropped and starts_over:
      lines = [line for line, _ in dropped]
      _append(path.with_name(path.name + ".replaced"), lines)
    files.write(path, b"".join(line + b"\n" for line in kept))
    self._path = path
    self._file = path.open("ab", buffering=0)
    self._unwritten = b""

  def notes(self) -> list[str]:
    """Returns which lines the file lacks, and why."""
    name, notes = self._path.name, []
    num_dropped = len(self.dropped)
    if num_dropped and self._starts_over:
      notes.append(
        f"{num_dropped} rows of an earlier start, of which no checkpoint "
        f"exists, are now in {name}.replaced"
      )
    elif num_dropped:
      notes.append(f"{num_dropped} rows are replaced: their steps run again")
    if self.num_unreadable:
      notes.append(
        f"{self.num_unreadable} lines could not be read and are now in "
        f"{name}.unreadable"
      )
    return notes

  def write(self, line: Mapping[str, Any]) -> None:
    """Writes a line.

    While the disk is full, lines are kept in memory until the next call.

    Raises:
      UserError: the file was deleted or replaced.
    """
    was_full = bool(self._unwritten)
    self._unwritten += (json.dumps(line) + "\n").encode()
    if (error := self._flush()) and not was_full:
      print(
        f"pausejax: warning: cannot write {self._path}: {error}; its lines are "
        "kept in memory and written later",
        file=sys.stderr,
        flush=True,
      )

  def close(self) -> None:
    """Writes everything to disk.

    Raises:
      UserError: some lines could not be written.
    """
    if error := self._flush():
      raise errors.UserError(
        f"cannot write {self._path}: {error}; "
        f"{self._unwritten.count(10)} lines of it are lost"
      )
    os.fsync(self._file.fileno())
    self._file.close()

  def _flush(self) -> OSError | None:
    """Writes as much as possible; returns the error that stopped it."""
    if not self._is_there():
      raise errors.UserError(
        f"{self._path} was deleted or replaced while the run was writing it, "
        "so the run ends"
      )
    try:
      while self._unwritten:
        written = self._file.write(self._unwritten)
        self._unwritten = self._unwritten[written:]
    except OSError as e:
      return e
    return None

  def _is_there(self) -> bool:
    """Returns whether the path still names the open file."""
    try:
      return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
    except FileNotFoundError:
      return False


def _append(path: pathlib.Path, lines: Sequence[bytes]) -> None:
  """Appends lines to a file atomically."""
  before = path.read_bytes() if path.exists() else b""
  files.write(path, before + b"".join(line + b"\n" for line in lines))
