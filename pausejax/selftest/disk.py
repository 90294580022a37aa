"""Checks the folder of a run: writes, locks, space and times of files."""

import fcntl
import hashlib
import os
import pathlib
import random
import shutil
import stat
import time

from pausejax import errors, files, locks
from pausejax.checkpoints import space
from pausejax.selftest import failure

NEEDED_BYTES = 100_000_000  # Of runs, their copies and compiled programs.
_PROBE_BYTES = 2**23
_CLOCK_SECONDS = 10.0  # Larger differences are reported.


def check_disk(folder: pathlib.Path) -> str:
  """Writes, syncs, renames, reads and locks files; returns a summary.

  Raises:
    UserError: the disk fails, is full, or returns other bytes.
  """
  free = shutil.disk_usage(folder).free
  if free < NEEDED_BYTES:
    raise failure.failed(
      "disk",
      f"{folder} has {space.size_text(free)} free, the selftest needs "
      f"{space.size_text(NEEDED_BYTES)}",
      "nothing was tested",
      "make space, or name a --workdir on another disk",
    )
  path = folder / "probe"
  try:
    _write_and_read(path)
    _lock(path)
  except OSError as e:
    raise explained(e, folder) from e
  path.unlink()
  return (
    f"disk: {space.size_text(_PROBE_BYTES)} written, synced, renamed and read "
    f"back, modes and locks work, {space.size_text(free)} free"
  )


def explained(error: OSError, folder: pathlib.Path) -> errors.UserError:
  """Returns the failure of the disk that an OSError stands for."""
  return failure.failed(
    "disk",
    f"{error.filename or folder}: {error.strerror or error}",
    "a run there could not save or resume",
    "repair the disk, or name a --workdir on another one",
  )


def _write_and_read(path: pathlib.Path) -> None:
  content = random.Random(0).randbytes(_PROBE_BYTES)
  temporary = path.with_name("probe.tmp")
  descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
  with open(descriptor, "wb") as file:
    file.write(content)
    file.flush()
    _drop(descriptor)
  temporary.rename(path)
  files.sync_folder(path.parent)
  mode = stat.S_IMODE(path.stat().st_mode)
  if mode != 0o600:
    raise failure.failed(
      "disk",
      f"{path} was created with mode 600 and has {mode:o}",
      "other users may read what a run writes",
      "mount the file system with permissions",
    )
  read = path.read_bytes()
  if hashlib.sha256(read).digest() != hashlib.sha256(content).digest():
    pairs = zip(read, content, strict=False)
    differ = (i for i, (a, b) in enumerate(pairs) if a != b)
    first = next(differ, min(len(read), len(content)))
    raise failure.failed(
      "disk",
      f"{path} does not hold the bytes that were written (first at {first:,} "
      f"of {len(content):,})",
      "the disk or its cable, controller or memory corrupts data",
      "use another disk, and have this one checked",
    )


def drop_cached(folder: pathlib.Path) -> None:
  """Makes later reads of all files come from the device, not from memory."""
  for path in folder.rglob("*"):
    if path.is_file():
      with path.open("rb") as file:
        _drop(file.fileno())


def _drop(descriptor: int) -> None:
  os.fsync(descriptor)
  if hasattr(os, "posix_fadvise"):
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _lock(path: pathlib.Path) -> None:
  """Raises unless a second lock of a file is refused."""
  with path.open() as first:
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = locks.take(path)
    if second is not None:
      second.close()
      raise failure.failed(
        "disk",
        f"two processes can lock {path}",
        "two runs could use one --workdir at the same time",
        "mount the file system with flock, or name another --workdir",
      )


def check_clock(folder: pathlib.Path) -> str:
  """Compares the clocks of this machine and of the file system.

  Returns:
    A summary. A clock that is off is no failure: steps are ordered by number.
  """
  samples = [time.monotonic() for _ in range(10_000)]
  if samples != sorted(samples):
    raise failure.failed(
      "clock",
      "time.monotonic() ran backwards",
      "timeouts between processes would be wrong",
      "have the machine checked",
    )
  path = folder / "clock"
  path.write_bytes(b"x")
  apart = path.stat().st_mtime - time.time()
  path.unlink()
  note = (
    "; WARNING: set it by NTP, since times in logs and metrics will not agree"
    if abs(apart) > _CLOCK_SECONDS
    else ""
  )
  return f"clock: monotonic; times of files are {apart:+.2f} s from it{note}"
