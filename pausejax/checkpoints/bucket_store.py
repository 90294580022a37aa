"""Checkpoints of a run whose folder is mirrored in a bucket.

Orbax writes a step to the local folder; the thread that waited for it copies
the step to the bucket, and the step counts as saved when it is complete there.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax

from pausejax.buckets import copies
from pausejax.buckets import mirror as mirrors
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import arrays, folders
from pausejax.checkpoints.store import Restored, Store
from pausejax.config import CheckpointConfig
from pausejax.runtime import distributed
from pausejax.train_state import TrainState


class BucketStore(Store):
  """The checkpoints in the local folder of a run and in its bucket."""

  def __init__(
    self,
    folder: os.PathLike,
    config: CheckpointConfig,
    url: str,
    mirror: mirrors.Mirror | None,
  ):
    """Makes a store; does not access the folder yet.

    Args:
      folder: `<local folder of the run>/checkpoints`.
      config: how many steps to keep.
      url: the URL of the run.
      mirror: copies to the bucket; None in all processes but the first.
    """
    super().__init__(folder, config)
    self._place, self._mirror = f"{url}/{CHECKPOINTS}", mirror
    if mirror is not None:
      self._writer = _CopyingWriter(self._copy)

  def _copy(self, step: int) -> None:
    """Copies a step to the bucket once it is intact."""
    assert self._mirror is not None
    commit = self._mirror.commit
    folders.read_step(self._folder, step)
    mirrors.retried(lambda: commit(step), f"step {step} to {self._place}")

  def _restore_step(
    self, step: int, abstract: TrainState
  ) -> tuple[Restored | None, str]:
    if self._mirror is not None:
      with folders.readable(self._folder / str(step)):
        self._mirror.fetch_step(step)
    distributed.all_gather("fetched")
    return super()._restore_step(step, abstract)

  def _move_aside(self, step: int, why: str) -> None:
    name = folders.move_aside(self._folder, step, why).name
    if self._mirror is not None:
      with copies.writing(self._mirror.url):
        self._mirror.set_aside(step, name, {folders.REASON: f"{why}\n"})

  def _delete(self) -> None:
    super()._delete()
    if self._mirror is not None:
      self._mirror.delete_missing()

  def _fail(self, step: int, error: Exception) -> None:
    if self._mirror is not None:
      with contextlib.suppress(OSError):  # Nobody can read the lease now.
        self._mirror.require_lease()
    # It may be complete here, but the bucket has what counts.
    if jax.process_index() == 0:
      shutil.rmtree(self._folder / str(step), ignore_errors=True)
    if isinstance(error, OSError) and error.strerror:
      error = OSError(error.strerror)
    super()._fail(step, error)


class _CopyingWriter(arrays.ArrayWriter):
  """Writes a step and then copies it, both in the background."""

  def __init__(self, copy: Callable[[int], None]):
    super().__init__()
    self._copy = copy
    self._pool = futures.ThreadPoolExecutor(1, "copy")
    self._copied: futures.Future[None] | None = None

  def start(
    self,
    path: Any,
    arrays: Mapping[str, Mapping[str, jax.Array]],
    files: Mapping[str, Mapping[str, bytes]],
  ) -> None:
    super().start(path, arrays, files)
    self._copied = self._pool.submit(self._finish, int(path.name))

  def _finish(self, step: int) -> None:
    super().wait()
    self._copy(step)

  def wait(self) -> None:
    if self._copied is not None:
      copied, self._copied = self._copied, None
      copied.result()
