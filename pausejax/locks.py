"""File locks that prevent two processes from doing the same work."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator
from typing import IO

from pausejax import errors


@contextlib.contextmanager
def hold(path: pathlib.Path, message: str) -> Iterator[None]:
  """Holds the lock `path`, at most until the process ends.

  Raises:
    UserError: `message`, if another process holds the lock.
  """
  with path.open("w") as lock:
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
  lock = path.open("a+")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  return lock


@contextlib.contextmanager
def hold_when_free(path: pathlib.Path) -> Iterator[None]:
  """Waits until the lock `path` is free, and holds it."""
  with path.open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
