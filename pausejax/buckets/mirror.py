"""The folder of a run that trains here, mirrored in a bucket.

The run works on a local folder, as any other run, and the bucket has what
counts: the folder is emptied and filled from the bucket at the start, each step
is copied there when it is complete, and small files every few seconds.

If not all processes share this folder, every one has its own, with its part of
each step. All copy their parts, and process 0, which holds the lease, marks the
step as complete when it has heard from all others.
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from pausejax import errors, files
from pausejax.buckets import copies, layout, lease, parts
from pausejax.buckets.objects import Objects

_T = TypeVar("_T")

_RETRY_SECONDS = 60.0  # How long a write to the bucket is tried again.
_PAUSE_SECONDS = 3.0
_AT_ONCE = 16  # Objects of a step between two looks at the lease.


class Mirror:
  """Copies between the folder of one run and the bucket.

  Attributes:
    url: the URL of the run.
    is_shared: whether all processes use the folder; True at first.
  """

  def __init__(self, url: str, folder: pathlib.Path):
    """Copies nothing yet.

    Args:
      url: the URL of the run.
      folder: its local folder.
    """
    self.url, self._folder, self._objects = url, folder, Objects(url)
    self.is_shared = True
    self._lease: lease.Lease | lease.FollowedLease | None = None
    self._pushed: dict[str, tuple[int, int]] = {}
    self._parts = [
      parts.PartWriter(self._objects, folder / file) for file in layout.PARTED
    ]
    # Two: lines are copied by the thread that renews the lease, which must not
    # wait for a large file.
    self._pushing_files = threading.Lock()
    self._pushing_lines = threading.Lock()
    self._is_open = False  # Whether the run writes its files.

  @contextlib.contextmanager
  def hold(self) -> Iterator[None]:
    """Holds the lease; fills the folder first, and copies all in the end."""
    with lease.hold_lease(self._objects, self._push_lines) as self._lease:
      with copies.reading(self.url):
        self._delete_incomplete()
        self.pull()
      try:
        yield
      except errors.UserError:
        with contextlib.suppress(OSError, errors.UserError):
          self._push_last()
        raise
      with copies.writing(self.url):
        retried(self._push_last, f"write the last lines of {self.url}")

  def _push_last(self) -> None:
    if self._is_open:
      self.require_lease()
      self.push()

  def pull(self) -> None:
    """Empties the folder and fills it from the bucket, without arrays."""
    for path in self._folder.iterdir():
      if path.name != "lock":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = self._objects.sizes()
    steps = set(layout.committed_steps(names))
    small = [n for n in names if layout.is_small(n)]
    small += [n for n in names if _step(n) in steps and not layout.is_array(n)]
    more = set(layout.FOR_TRAINING)
    if f"{layout.SEGMENTS}/index.json" not in names:
      more.discard(layout.SEGMENTS)  # It is not complete.
    small += [n for n in names if n.split("/")[0] in more]
    self._download(small)
    start = f"{layout.ASIDE}/"
    for aside in {n.split("/")[1] for n in names if n.startswith(start)}:
      (self._folder / start / aside).mkdir(parents=True, exist_ok=True)
    for file in layout.PARTED:
      if content := parts.join_parts(self._objects, file, names):
        files.write(self._folder / file, content)
    for path in self._files():
      name = path.relative_to(self._folder).as_posix()
      if stat := _stat(path):
        self._pushed[name] = stat

  def begin(self) -> None:
    """From now on, the small files of the run are copied as they change."""
    self._is_open = True

  def require_lease(self) -> None:
    """Raises UserError if another run has taken the folder."""
    assert self._lease is not None
    self._lease.require()

  @property
  def lease_key(self) -> str:
    """The key of the lease that this process holds."""
    assert isinstance(self._lease, lease.Lease)
    return self._lease.key

  def follow(self, key: str) -> None:
    """From now on, the lease with this key, of another process, counts."""
    self._lease = lease.FollowedLease(self._objects, key)

  def fetch_step(self, step: int, *, arrays: bool = True) -> None:
    """Downloads what the folder lacks of a step, with or without arrays."""
    names = layout.of_step(self._step_names(step), step)
    wanted = [n for n in names if arrays or not layout.is_array(n)]
    self._download(n for n in wanted if not (self._folder / n).exists())

  def fetch(self, top: str) -> None:
    """Downloads what the folder lacks of one of its folders."""
    names = self._objects.sizes(top)
    self._download(n for n in names if not (self._folder / n).exists())

  def upload_step(self, step: int, process: int = 0) -> dict[str, int]:
    """Copies what this process has of a step; returns name -> size in bytes.

    Args:
      step: the step.
      process: the index of this process; of what all write, only the first
        one's is copied.

    Raises:
      UserError: another run has taken the folder.
      OSError: the bucket cannot be written.
    """
    paths = _below(self._folder / layout.step_name(step))
    names = {path.relative_to(self._folder).as_posix(): path for path in paths}
    if process:
      own = [n for n in names if layout.is_of_process(n, process)]
      names = {name: names[name] for name in own}
    for start in range(0, len(names), _AT_ONCE):
      self.require_lease()
      some = [*names][start : start + _AT_ONCE]
      self._objects.upload({name: names[name] for name in some})
    return {name: path.stat().st_size for name, path in names.items()}

  def commit(self, step: int, sizes: Mapping[str, int]) -> None:
    """Marks a step as complete in the bucket.

    Args:
      step: the step.
      sizes: what `upload_step` returned, of all processes.

    Raises:
      UserError: another run has taken the folder.
      OSError: the bucket cannot be written.
    """
    self.push()
    self.require_lease()
    content = json.dumps(sizes, indent=1) + "\n"
    mark = layout.step_name(step, layout.COMMITTED)
    self._objects.write(mark, content.encode())

  def delete_step(self, step: int) -> None:
    """Deletes what the bucket has of a step that will be written again."""
    self.require_lease()
    self._delete_step(step)

  def delete_missing(self) -> None:
    """Deletes the steps in the bucket that the folder no longer has."""
    here = {p.name for p in (self._folder / layout.CHECKPOINTS).iterdir()}
    self.require_lease()
    for step in layout.committed_steps(self._objects.sizes(layout.CHECKPOINTS)):
      if str(step) not in here:
        self._delete_step(step)

  def set_aside(self, step: int, name: str, more: Mapping[str, str]) -> None:
    """Moves a step to set_aside/NAME in the bucket, with more text files."""
    self.require_lease()
    names = layout.of_step(self._step_names(step), step)
    start, target = layout.step_name(step), f"{layout.ASIDE}/{name}/"
    self._objects.copy({n: target + n.removeprefix(start) for n in names})
    for file, text in more.items():
      self._objects.write(target + file, text.encode())
    self._delete_step(step)

  def push(self) -> None:
    """Copies the files that have changed; raises OSError.

    The index of a store is copied last, since it marks a complete one.
    """
    self._push_lines()
    with self._pushing_files:
      paths = {p.relative_to(self._folder).as_posix(): p for p in self._files()}
      all_stats = {n: _stat(path) for n, path in paths.items()}
      stats = {n: stat for n, stat in all_stats.items() if stat}
      changed = [n for n, stat in stats.items() if self._pushed.get(n) != stat]
      for is_index in (False, True):
        now = [n for n in changed if n.endswith("index.json") == is_index]
        self._objects.upload({name: paths[name] for name in now})
      self._pushed |= {name: stats[name] for name in changed}

  def _push_lines(self) -> None:
    """Copies new lines of metrics and samples."""
    if self._is_open:
      with self._pushing_lines:
        for part in self._parts:
          part.push()

  def _files(self) -> Iterator[pathlib.Path]:
    """Yields the files of the run besides checkpoints and lines."""
    for path in self._folder.iterdir():
      name = f"{path.name}/" if path.is_dir() else path.name
      if path.name in layout.FOR_TRAINING or layout.is_small(name):
        yield from _below(path)

  def _delete_incomplete(self) -> None:
    names = self._objects.sizes()
    steps = {None, *layout.committed_steps(names)}
    self._objects.delete(n for n in names if _step(n) not in steps)

  def _download(self, names: Iterable[str]) -> None:
    wanted = [n for n in names if not n.endswith(f"/{layout.COMMITTED}")]
    self._objects.download({name: self._folder / name for name in wanted})

  def _delete_step(self, step: int) -> None:
    """Deletes a step, its mark first: without it the step does not exist."""
    self._objects.delete([layout.step_name(step, layout.COMMITTED)])
    self._objects.delete(layout.of_step(self._step_names(step), step))

  def _step_names(self, step: int) -> list[str]:
    return list(self._objects.sizes(layout.step_name(step).rstrip("/")))


def retried(write: Callable[[], _T], what: str) -> _T:
  """Returns what a function returns; repeats it while the bucket is away.

  Args:
    write: the function.
    what: what it does, for the line that reports the first failure.

  Raises:
    OSError: it failed for a minute.
  """
  deadline, was_away = time.monotonic() + _RETRY_SECONDS, False
  while True:
    try:
      return write()
    except OSError as e:
      if time.monotonic() > deadline:
        raise
      if not was_away:
        print(
          f"pausejax: warning: cannot {what}: {e.strerror or e}; trying again "
          f"for {_RETRY_SECONDS:.0f} s",
          file=sys.stderr,
          flush=True,
        )
      was_away = True
      time.sleep(_PAUSE_SECONDS)


def _step(name: str) -> int | None:
  """Returns the step that an object belongs to, None if to none."""
  top, _, rest = name.partition("/")
  number = rest.split("/")[0]
  is_step = top == layout.CHECKPOINTS and number.isdecimal()
  return int(number) if is_step else None


def _below(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns a file, or the files below a folder."""
  if path.is_file():
    return [path]
  paths = (p for p in path.rglob("*") if p.is_file())
  return sorted(p for p in paths if not p.name.startswith("lock"))


def _stat(path: pathlib.Path) -> tuple[int, int] | None:
  """Returns what changes with a file, None if the file is gone."""
  try:
    stat = os.stat(path)
  except FileNotFoundError:
    return None
  return stat.st_mtime_ns, stat.st_size
