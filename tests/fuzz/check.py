"""Gives damaged files to a reader and counts what comes of them.

A file is refused with one line, or its value keeps what the reader promises and
is the same when it is read again. Anything else fails: another exception, a
second more than `_SECONDS`, a gigabyte more of memory.
"""

import collections
import contextlib
import pathlib
import resource
import signal
from collections.abc import Callable, Iterator

import hypothesis

from pausejax import errors
from tests.fuzz.mutations import damaged
from tests.fuzz.reader import Reader

_SECONDS = 10
_BYTES = 2**30
_MAX_MESSAGE = 2000  # Characters; some name all that is known.

Counts = collections.Counter[str]


def check(
  reader: Reader, folder: pathlib.Path, num: int, *, seed: int | None = None
) -> Counts:
  """Returns how many damaged files were "refused" and "accepted".

  Args:
    reader: the reader.
    folder: an empty folder.
    num: the number of files.
    seed: of the damages; None for the same ones every time.
  """
  path = reader.make(folder)
  whole = path.read_bytes()
  expected = repr(reader.read(path))
  counts: Counts = collections.Counter()

  def one(content: bytes) -> None:
    path.write_bytes(content)
    value = _read(reader, path)
    counts["refused" if value is None else "accepted"] += 1
    if value is not None:
      assert value == _read(reader, path)
      assert not reader.is_summed or value == expected

  _runner(one, whole, num, seed)()
  return counts


def _runner(
  one: Callable[[bytes], None], whole: bytes, num: int, seed: int | None
) -> Callable[[], None]:
  test = hypothesis.given(damaged(whole))(one)
  if seed is not None:
    test = hypothesis.seed(seed)(test)
  return hypothesis.settings(
    max_examples=num,
    derandomize=seed is None,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )(test)


def _read(reader: Reader, path: pathlib.Path) -> str | None:
  """Returns the value as text, None if the file is refused in one line."""
  try:
    with _limited():
      return repr(reader.read(path))
  except errors.UserError as e:
    assert reader.refuses, e.message
    assert "\n" not in e.message and len(e.message) <= _MAX_MESSAGE, e.message
    e.message.encode()  # No lone surrogate, so that any stream can print it.
    return None


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  """Ends what takes too long or too much memory with an exception."""

  def late(*_):
    raise TimeoutError(f"more than {_SECONDS} seconds")

  before = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  limit = pages * resource.getpagesize() + _BYTES
  handler = signal.signal(signal.SIGALRM, late)
  signal.alarm(_SECONDS)
  resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
