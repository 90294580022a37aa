"""Metrics as JSON lines, always, and as TensorBoard events on request.

`metrics.jsonl` has one line per logged step. Numbers are written so that
reading them back gives the same bits. Numbers that are not finite are written
as strings, since JSON cannot represent them.
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from pausejax import errors, files
from pausejax.runtime import distributed, metric_rows

Number = int | float


class Silent:
  """The writer of every process other than process 0; writes nothing."""

  def notes(self) -> list[str]:
    """Returns an empty list."""
    return []

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def open_writer(
  workdir: pathlib.Path,
  step: int,
  tensorboard: bool,
  *,
  evaluation_due: bool,
  every: int,
) -> "MetricWriter | Silent":
  """Returns a `MetricWriter` in process 0 and a `Silent` in the others."""
  if distributed.process_index() > 0:
    return Silent()
  return MetricWriter(
    workdir, step, tensorboard, evaluation_due=evaluation_due, every=every
  )


class MetricWriter:
  """Appends to `<workdir>/metrics.jsonl`, without repeated steps on resume.

  Attributes:
    num_dropped: number of dropped rows of steps that run again. A run that
      starts over moves them to `metrics.jsonl.replaced`.
    num_unreadable: number of lines moved to `metrics.jsonl.unreadable`.
    gaps: (first, last) of each range of steps whose rows are missing.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    tensorboard: bool,
    *,
    evaluation_due: bool = False,
    every: int = 1,
  ):
    """Opens the files.

    Args:
      workdir: the run's folder.
      step: the step resumed from, 0 if none; rows of later steps are dropped,
        since those steps run again.
      tensorboard: also write events to `<workdir>/tensorboard`.
      evaluation_due: the held-out loss of `step` is measured again, so its row
        is dropped, too.
      every: the largest number of steps between two rows so far.

    Raises:
      UserError: `tensorboard` is set but tensorboardX is not installed.
    """
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    lines = [line for line in lines if line.strip()]
    rows = [metric_rows.parse_row(line) for line in lines]
    pairs = list(zip(lines, rows, strict=True))
    unreadable = [line for line, row in pairs if row is None]
    kept = [
      (n, r) for n, r in pairs if r and not _is_again(r, step, evaluation_due)
    ]
    dropped = [
      line for line, r in pairs if r and _is_again(r, step, evaluation_due)
    ]
    self.num_unreadable = len(unreadable)
    self.num_dropped = len(dropped)
    self._starts_over = step == 0
    self.gaps = metric_rows.gaps([row for _, row in kept], step, every)
    if unreadable:
      _append(path.with_name(path.name + ".unreadable"), unreadable)
    if dropped and self._starts_over:
      _append(path.with_name(path.name + ".replaced"), dropped)
    files.write(path, b"".join(line + b"\n" for line, _ in kept))
    self._path = path
    self._file = path.open("ab", buffering=0)
    self._unwritten = b""
    self._events = _open_events(workdir, step) if tensorboard else None

  def notes(self) -> list[str]:
    """Returns at most one line: which rows the file lacks, and why."""
    notes = []
    if self.num_dropped and self._starts_over:
      notes.append(
        f"{self.num_dropped} rows of an earlier start, of which no checkpoint "
        "exists, are now in metrics.jsonl.replaced"
      )
    elif self.num_dropped:
      notes.append(
        f"{self.num_dropped} rows are replaced: their steps run again"
      )
    if self.num_unreadable:
      notes.append(
        f"{self.num_unreadable} lines could not be read and are now in "
        "metrics.jsonl.unreadable"
      )
    if self.gaps:
      steps = ", ".join(
        f"{a} to {b}" if a < b else f"{a}" for a, b in self.gaps
      )
      notes.append(f"the rows of these steps are missing: {steps}")
    return ["metrics.jsonl: " + "; ".join(notes)] if notes else []

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Writes the metrics of a step as one line.

    While the disk is full, lines are kept in memory until the next call.

    Raises:
      UserError: the file was deleted or replaced.
    """
    finite = {k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}
    line = json.dumps({"step": step, **finite}) + "\n"
    was_full = bool(self._unwritten)
    self._unwritten += line.encode()
    if (error := self._flush()) and not was_full:
      print(
        f"pausejax: warning: cannot write {self._path}: {error}; its lines are "
        "kept in memory and written later",
        file=sys.stderr,
        flush=True,
      )
    if self._events is not None:
      for key, value in metrics.items():
        self._events.add_scalar(key, value, step)

  def close(self) -> None:
    """Writes everything to disk.

    Raises:
      UserError: some lines could not be written.
    """
    if error := self._flush():
      raise errors.UserError(
        f"cannot write {self._path}: {error}; "
        f"{self._unwritten.count(10)} lines of metrics are lost"
      )
    os.fsync(self._file.fileno())
    self._file.close()
    if self._events is not None:
      self._events.close()

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


def _is_again(row: metric_rows.Row, step: int, evaluation_due: bool) -> bool:
  """Returns whether the run will write the row again."""
  is_repeated = evaluation_due and row["step"] == step and "eval_loss" in row
  return row["step"] > step or is_repeated


def _append(path: pathlib.Path, lines: Sequence[bytes]) -> None:
  """Appends lines to a file atomically."""
  before = path.read_bytes() if path.exists() else b""
  files.write(path, before + b"".join(line + b"\n" for line in lines))


def _open_events(workdir: pathlib.Path, step: int):
  try:
    import tensorboardX
  except ImportError as e:
    raise errors.UserError(
      "log.tensorboard needs the extra: make env EXTRA=tensorboard, or pip "
      "install '.[tensorboard]' in the clone"
    ) from e
  return tensorboardX.SummaryWriter(
    str(workdir / "tensorboard"), purge_step=step + 1
  )
