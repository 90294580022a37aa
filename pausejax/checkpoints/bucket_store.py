"""Checkpoints of a run whose folder is mirrored in a bucket.

Orbax writes a step to the local folder; the thread that waited for it copies
the step to the bucket, and the step counts as saved when it is complete there.
If the processes share no folder, each has only its part of a step here.
"""

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax

from pausejax.buckets import copies
from pausejax.buckets import mirror as mirrors
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import arrays, folders, restoring
from pausejax.checkpoints.store import Store
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
      mirror: copies to the bucket; None in a process that shares the folder
        of the first.
    """
    is_shared = mirror is None or mirror.is_shared
    super().__init__(folder, config, is_shared=is_shared)
    self._place, self._mirror = f"{url}/{CHECKPOINTS}", mirror
    if mirror is not None:
      copy = self._copy if is_shared else self._copy_part
      self._writer = _CopyingWriter(
        functools.partial(copy, mirror), is_shared=is_shared
      )

  def _copy(self, mirror: mirrors.Mirror, step: int) -> None:
    """Copies a step to the bucket once it is intact."""
    folders.read_step(self._folder, step)

    def copy() -> None:
      mirror.delete_step(step)
      mirror.commit(step, mirror.upload_step(step))

    mirrors.retried(copy, f"write step {step} to {self._place}")

  def _copy_part(self, mirror: mirrors.Mirror, step: int) -> None:
    """Copies what this process has of a step; the first one completes it."""
    process, what = jax.process_index(), f"write step {step} to {self._place}"
    sizes = mirrors.retried(lambda: mirror.upload_step(step, process), what)
    if process > 0:
      shutil.rmtree(self._folder / str(step))
      distributed.publish(f"step {step}", sizes)
      return
    for of_other in distributed.published_by_others(f"step {step}"):
      sizes |= of_other
    mirrors.retried(
      lambda: mirror.fetch_step(step, arrays=False),
      f"read step {step} of {self._place}",
    )
    folders.read_step(self._folder, step)
    mirrors.retried(lambda: mirror.commit(step, sizes), what)

  def _restore(self, step: int, abstract: TrainState) -> restoring.Restored:
    if self._mirror is not None:
      with folders.readable(self._folder / str(step)):
        self._mirror.fetch_step(step)
    distributed.all_gather("fetched")
    return super()._restore(step, abstract)

  def _set_aside(self, step: int, why: str) -> str:
    if not self._is_shared and jax.process_index() > 0:
      shutil.rmtree(self._folder / str(step), ignore_errors=True)
    return super()._set_aside(step, why)

  def _move_aside(self, step: int, why: str) -> None:
    name = folders.move_aside(self._folder, step, why).name
    if self._mirror is not None:
      with copies.writing(self._mirror.url):
        self._mirror.set_aside(step, name, {folders.REASON: f"{why}\n"})

  def _delete(self) -> None:
    super()._delete()
    if self._mirror is not None:
      self._mirror.delete_missing()

  def _saved(self) -> str:
    if not self._is_shared and jax.process_index() > 0:
      return "pausejax checkpoint ls lists the saved steps"
    return super()._saved()

  def _fail(self, step: int, error: Exception) -> None:
    if self._mirror is not None:
      with contextlib.suppress(OSError):  # Nobody can read the lease now.
        self._mirror.require_lease()
    # It may be complete here, but the bucket has what counts.
    if self._has_folder():
      shutil.rmtree(self._folder / str(step), ignore_errors=True)
    if isinstance(error, OSError) and error.strerror:
      error = OSError(error.strerror)
    super()._fail(step, error)


class _CopyingWriter(arrays.ArrayWriter):
  """Writes a step and then copies it, both in the background."""

  def __init__(self, copy: Callable[[int], None], *, is_shared: bool):
    super().__init__(is_shared=is_shared)
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
