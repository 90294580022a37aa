"""Metrics as JSON lines, always, and as TensorBoard events on request.

One line a step in `metrics.jsonl`. Numbers are written so that reading them
back gives the same bits; what is not finite is written as a string, since JSON
has no word for it.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping

from pausejax import errors, files
from pausejax.runtime import distributed

Number = int | float


class Silent:
  """Writes nothing: what a process other than 0 has in its place."""

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def open_writer(
  workdir: pathlib.Path, step: int, tensorboard: bool, *, owed: bool
) -> "MetricWriter | Silent":
  """Returns the `MetricWriter` of the run, in process 0 alone."""
  if distributed.process_index() > 0:
    return Silent()
  return MetricWriter(workdir, step, tensorboard, owed=owed)


class MetricWriter:
  """Appends to `<workdir>/metrics.jsonl`; after a resume no step is twice."""

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    tensorboard: bool,
    *,
    owed: bool = False,
  ):
    """Opens the files.

    Args:
      workdir: the run's folder.
      step: the step resumed from, 0 if none; lines of later steps, and a last
        line cut short, are dropped, since those steps are taken again.
      tensorboard: also write events below `<workdir>/tensorboard`.
      owed: the held-out loss of `step` is measured again, so drop that, too.

    Raises:
      UserError: tensorboardX is asked for but not installed.
    """
    path = workdir / "metrics.jsonl"
    self.num_dropped = _drop_lines_after(path, step, owed)
    self._file = path.open("a", encoding="utf-8")
    self._events = _open_events(workdir, step) if tensorboard else None

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Writes the metrics of a step as one line."""
    finite = {k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}
    self._file.write(json.dumps({"step": step, **finite}) + "\n")
    self._file.flush()
    if self._events is not None:
      for key, value in metrics.items():
        self._events.add_scalar(key, value, step)

  def close(self) -> None:
    """Flushes everything to disk."""
    os.fsync(self._file.fileno())
    self._file.close()
    if self._events is not None:
      self._events.close()


def _drop_lines_after(path: pathlib.Path, step: int, owed: bool) -> int:
  """Rewrites the file without what is to come again; returns how many lines."""
  if not path.exists():
    return 0
  lines = path.read_bytes().splitlines(keepends=True)
  kept = [line for line in lines if _is_kept(line, step, owed)]
  files.write(path, b"".join(kept))
  return len(lines) - len(kept)


def _is_kept(line: bytes, step: int, owed: bool) -> bool:
  try:
    row = json.loads(line)
  except ValueError:  # Neither JSON nor, after a crash, always UTF-8.
    return False
  again = owed and row["step"] == step and "eval_loss" in row
  return line.endswith(b"\n") and row["step"] <= step and not again


def _open_events(workdir: pathlib.Path, step: int):
  try:
    import tensorboardX
  except ImportError as e:
    raise errors.UserError(
      "log.tensorboard needs the extra: pip install 'pausejax[tensorboard]'"
    ) from e
  return tensorboardX.SummaryWriter(
    str(workdir / "tensorboard"), purge_step=step + 1
  )
