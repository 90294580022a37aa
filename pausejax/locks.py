"""File locks that prevent two processes from doing the same work.

The names of all lock files start with "lock".
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO

from pausejax import errors


@contextlib.contextmanager
def hold(path: pathlib.Path, message: str) -> Iterator[None]:
  """Holds the lock `path`, at most until the process ends.

  Raises:
    UserError: `message`, if another process holds the lock.
  """
  with _opened(path, "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(message) from None
    yield


def take(path: pathlib.Path) -> IO[str] | None:
  """Returns the locked file `path`, None if another process holds the lock.

  Its content is kept. The lock is released when every process that has the file
  open, including children that inherited it, has closed it or ended.
  """
  lock = _opened(path, "a+")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  return lock


@contextlib.contextmanager
def hold_when_free(path: pathlib.Path) -> Iterator[None]:
  """Waits until the lock `path` is free, and holds it."""
  with _opened(path, "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _opened(path: pathlib.Path, mode: str) -> IO[str]:
  """Opens a lock; raises OSError for a link, whose file would be changed."""
  follow = lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)
  return open(path, mode, opener=follow)


@contextlib.contextmanager
def unused_removed(folder: pathlib.Path, *unused: str) -> Iterator[None]:
  """On an error, removes what is new in a folder and holds no data.

  New folders that hold nothing but free locks are removed, and `folder` itself
  with its parents if they did not exist before. Nothing is removed while a
  process holds a lock in `folder`: new folders may be its own.

  Args:
    folder: the folder that the code inside writes to.
    *unused: names of other files that hold no data.

  Raises:
    OSError: the folder exists and cannot be listed.
  """
  new = [p for p in (folder, *folder.parents) if not p.exists()]
  before = set() if new else {*os.listdir(folder)}
  try:
    yield
  except BaseException:
    with contextlib.suppress(OSError):
      paths = [*folder.iterdir()]
      if any(_is_held(path) for path in paths):
        raise
      for path in paths:
        if path.name in before or _has_data(path, unused):
          continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
      for path in new:
        path.rmdir()
    raise


def _has_data(path: pathlib.Path, unused: tuple[str, ...]) -> bool:
  """Returns whether a file, or one below a folder, is data or a held lock."""
  if path.is_dir():
    return any(_has_data(p, unused) for p in path.iterdir())
  if not path.name.startswith("lock"):
    return path.name not in unused
  return _is_held(path)


def _is_held(path: pathlib.Path) -> bool:
  """Returns whether a path is a lock file that a process holds."""
  if not path.name.startswith("lock") or not path.is_file():
    return False
  lock = take(path)
  if lock:
    lock.close()
  return lock is None
