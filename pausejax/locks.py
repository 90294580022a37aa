"""A file lock that keeps two processes from doing the same work."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator
from typing import IO

from pausejax import errors


@contextlib.contextmanager
def alone(path: pathlib.Path, message: str) -> Iterator[None]:
  """Holds the lock `path`; it goes with the process, however that ends.

  Raises:
    UserError: `message`; another process holds it.
  """
  with path.open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(message) from None
    yield


def take(path: pathlib.Path) -> IO[str] | None:
  """Returns the locked file `path`, None if another process holds the lock.

  Its content is kept. The lock goes when every process that has the file open,
  children that inherited it among them, has closed it or ended.
  """
  lock = path.open("a+")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  return lock


@contextlib.contextmanager
def in_turn(path: pathlib.Path) -> Iterator[None]:
  """Holds the lock `path`, once whoever has it lets go."""
  with path.open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
