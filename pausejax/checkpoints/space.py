"""Checks of disk space and write access, before and during a run."""

import errno
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from pausejax import errors
from pausejax.checkpoints import folders
from pausejax.config import CheckpointConfig

_OVERHEAD = 150_000  # Bytes of names, digests, and parts of blocks.


def step_size(named: Mapping[str, Any]) -> int:
  """Returns an approximate upper bound of the size of a step, in bytes."""
  return _OVERHEAD + sum(x.size * x.dtype.itemsize for x in named.values())


def require_space(
  folder: pathlib.Path, step_bytes: int, config: CheckpointConfig
) -> None:
  """Creates the folder; checks that it is writable and has space.

  Args:
    folder: the folder of the checkpoints.
    step_bytes: the size of one step.
    config: how many steps are kept; one more exists during a save.

  Raises:
    UserError: the folder is not writable, or one step does not fit.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b"x")
  except OSError as e:
    raise errors.UserError(
      f"cannot write {folder}: {e.strerror}; make it writable, or name another "
      "--workdir"
    ) from e
  free = shutil.disk_usage(folder).free
  if free < step_bytes:
    raise errors.UserError(
      f"no space for a checkpoint in {folder}: {figures(folder, step_bytes)}; "
      "make space, or name a --workdir on another disk"
    )
  num_kept = config.keep + 1
  missing = max(0, num_kept - len(folders.numbered(folder)))
  if free < missing * step_bytes:
    print(
      f"pausejax: warning: checkpoint.keep={config.keep} needs space for "
      f"{num_kept} checkpoints in {folder}, {missing} more than exist: "
      f"{figures(folder, step_bytes)}",
      file=sys.stderr,
      flush=True,
    )


def require_now(folder: pathlib.Path, step_bytes: int) -> None:
  """Raises OSError unless a step of the size of the last one fits.

  Called before a save, because a disk that fills up during a save also makes
  other writers fail.
  """
  steps = folders.numbered(folder)
  last = _OVERHEAD + _on_disk(folder / str(steps[-1])) if steps else 0
  if shutil.disk_usage(folder).free < (last or step_bytes):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def figures(folder: pathlib.Path, step_bytes: int) -> str:
  """Returns the needed and the free space, for a message."""
  try:
    free = size_text(shutil.disk_usage(folder).free)
  except OSError:
    free = "an unknown amount"
  return f"a checkpoint takes up to {size_text(step_bytes)}, {free} free"


def reason(error: Exception) -> str:
  """Returns why a save failed, in one line."""
  line = errors.first_line(error) or repr(error)
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
    if os.strerror(code) in line:
      return os.strerror(code)
  return line[:200]


def _on_disk(path: pathlib.Path) -> int:
  return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def size_text(count: int) -> str:
  """Returns a number of bytes in the largest unit that fits."""
  unit, scale = next(
    (u, s)
    for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1))
    if count >= s or s == 1
  )
  return f"{count / scale:.1f} {unit}"
