"""Checkpoints of one run: saves steps, and restores the newest intact one.

  checkpoints/<step>/params     the model's parameters
  checkpoints/<step>/opt_state  moments and counters
  checkpoints/<step>/average    the average of the parameters, if there is one
  checkpoints/<step>/spikes     the recent losses, if spikes are skipped
  checkpoints/<step>/data       the position in the data, one file per process
  checkpoints/<step>/meta       meta.json: config, tokenizer, versions, digests

They are committed together. Every value has a digest, since Orbax stores
none for arrays: leaves have one that is computed on the device (`leaves.py`),
files have a SHA-256 (`folders.py`). A step that is proven to be damaged is set
aside, never deleted, and the next older one is restored; if no step is intact,
nothing is moved and the run is refused.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from pausejax import errors
from pausejax.buckets.layout import ASIDE
from pausejax.checkpoints import (
  arrays,
  folders,
  leaves,
  restoring,
  retention,
  space,
  step_files,
)
from pausejax.config import CheckpointConfig
from pausejax.runtime import distributed
from pausejax.train_state import TrainState

MAX_FAILURES = 3  # Consecutive failed saves after which the run ends.


class Store:
  """The checkpoints in one folder."""

  def __init__(
    self,
    folder: os.PathLike,
    config: CheckpointConfig,
    *,
    is_shared: bool = True,
  ):
    """Makes a store; does not access the folder yet.

    Args:
      folder: `<workdir>/checkpoints`.
      config: how many steps to keep.
      is_shared: whether all processes use this folder.
    """
    self._folder = pathlib.Path(folder)
    self._place = str(folder)  # Its name in messages.
    self._config = config
    self._is_shared = is_shared
    self._writer = arrays.ArrayWriter(is_shared=is_shared)
    self._opened: int | None = None  # File descriptor of the folder.
    self._size = 0  # Bytes of a step.
    self._pending: int | None = None  # The step that is being written.
    self._last_finite = 0
    self._failures = 0  # Consecutive failed saves.

  def prepare(self, abstract: TrainState) -> None:
    """Creates the folder, and checks that steps can be written there.

    Args:
      abstract: shapes and dtypes of the states to save.

    Raises:
      UserError: the folder is not writable, or has no space for one step.
    """
    self._size = space.step_size(leaves.flatten(abstract))
    if self._has_folder():
      retention.empty_trash(self._folder)
      space.require_space(self._folder, self._size, self._config)
    distributed.all_gather("prepared")
    # While it is open, no other folder can have its inode.
    with folders.readable(self._folder):
      self._opened = os.open(self._folder, os.O_RDONLY)

  def save(
    self,
    state: TrainState,
    *,
    data: Mapping[str, bytes],
    meta: Mapping[str, Any],
    num_skipped: int = 0,
  ) -> None:
    """Starts writing a checkpoint of the state's step and returns.

    Waits for the previous save first. The arrays are copied before this
    returns, so the next step may reuse their memory. A step that cannot be
    written is reported on standard error, and training may continue: earlier
    steps are kept.

    Args:
      state: the state after a step.
      data: the data iterator's `state()`, the files of this process.
      meta: fields of meta.json; format, step and digests are added.
      num_skipped: consecutive skipped steps up to this one; the newest
        checkpoint from before them is kept.

    Raises:
      UserError: the workdir was deleted, or several consecutive saves failed.
    """
    self.wait()
    step = int(state.step)
    if self._opened is None:
      self.prepare(state)
    self._last_finite = step - num_skipped
    items = step_files.items(state)
    data = step_files.named_by_process(data)
    content = step_files.meta_files(
      step, meta, items, data, is_shared=self._is_shared
    )
    self._require_folder()
    try:
      if self._has_folder():
        space.require_now(self._folder, self._size)
      self._writer.start(
        self._folder / str(step),
        items,
        {"data": data, "meta": content if jax.process_index() == 0 else {}},
      )
      self._pending = step
    except Exception as e:
      self._fail(step, e)

  def wait(self) -> None:
    """Waits until the last save is on disk and intact; deletes old steps.

    Raises:
      UserError: the workdir was deleted, or several consecutive saves failed.
    """
    if self._pending is None:
      return
    step, self._pending = self._pending, None
    try:
      self._writer.wait()
      if jax.process_index() == 0:
        # A step counts as saved only if it can be read back.
        folders.read_step(self._folder, step)
    except Exception as e:
      self._fail(step, e)
      return
    self._failures = 0
    if jax.process_index() == 0:
      self._delete_old()

  def close(self) -> None:
    """Waits for the last save and releases the folder.

    Raises:
      UserError: the last save failed.
    """
    self.wait()
    if self._failures:
      raise errors.UserError(
        f"the last step was not saved; {self._saved()}; make space or repair "
        "the folder, and start the same command again"
      )
    self._writer.close()
    if self._opened is not None:
      os.close(self._opened)
      self._opened = None

  def restore(self, abstract: TrainState) -> restoring.Restored | None:
    """Returns the newest intact checkpoint, or None if there are none.

    Args:
      abstract: shapes, dtypes and shardings that the checkpoint must have.

    Raises:
      CheckpointUnusable: checkpoints exist or were set aside, and none is
        intact, or one has a newer format. Nothing was moved.
      UserError: a file cannot be read, or the newest intact checkpoint has
        other leaves than `abstract` (the message has a table of them).
    """
    # Process 0 decides: the others may see its changes late or in part.
    listing = self._list() if jax.process_index() == 0 else None
    steps, aside = distributed.all_gather(listing)[0]
    damaged: dict[int, str] = {}
    for step in reversed(steps):
      try:
        restored = self._restore(step, abstract)
      except folders.Damaged as e:
        damaged[step] = str(e)
        continue
      available = ", ".join(map(str, steps))
      notes = [self._set_aside(s, why) for s, why in damaged.items()]
      reason = f"newest intact checkpoint (available: {available})"
      reason = "; ".join(filter(None, [reason, restored.reason, *notes]))
      return dataclasses.replace(restored, reason=reason)
    if steps or aside:
      self._refuse(damaged, aside)
    return None

  def set_aside_after(
    self, step: int, why: str = ""
  ) -> tuple[int | None, list[int]]:
    """Sets the checkpoints after `step` aside if an older one exists.

    All processes call it together.

    Args:
      step: the newest step to keep.
      why: the reason to record, by default that training diverged.

    Returns:
      (the newest step up to `step`, or None; the steps that were moved).
    """
    self.wait()
    listed = self._list()[0] if jax.process_index() == 0 else None
    steps: list[int] = distributed.all_gather(listed)[0]
    newest = max((s for s in steps if s <= step), default=None)
    later = [s for s in steps if s > step and newest is not None]
    for s in later:
      self._set_aside(s, why or f"training diverged after step {step}")
    return newest, later

  def _has_folder(self) -> bool:
    """Returns whether this process looks after a folder."""
    return jax.process_index() == 0 or not self._is_shared

  def _list(self) -> tuple[list[int], list[str]]:
    with folders.readable(self._folder):
      return folders.numbered(self._folder), folders.set_aside(self._folder)

  def _restore(self, step: int, abstract: TrainState) -> restoring.Restored:
    """Returns a step; all processes raise the same Damaged."""
    return restoring.restore_intact(self._folder, step, abstract)

  def _set_aside(self, step: int, why: str) -> str:
    """Moves a damaged step to `set_aside`; returns a note for the user."""
    if jax.process_index() == 0:
      self._move_aside(step, why)
    return f"{step} was set aside: {why}"

  def _move_aside(self, step: int, why: str) -> None:
    folders.move_aside(self._folder, step, why)

  def _refuse(self, damaged: Mapping[int, str], aside: list[str]) -> NoReturn:
    folder, parent = self._place, self._place.rpartition("/")[0]
    steps = [f"{folder}/{step}: {why}" for step, why in damaged.items()]
    steps += [f"{parent}/{ASIDE}/{name}" for name in aside]
    raise errors.CheckpointUnusable(
      f"no checkpoint is intact ({'; '.join(steps)}); nothing was changed; put "
      "an intact step back with pausejax checkpoint repair, or name another "
      f"--workdir, or remove {folder} and {parent}/{ASIDE} to start over at "
      "step 0"
    )

  def _delete_old(self) -> None:
    try:
      self._delete()
    except OSError as e:
      _say(f"warning: old steps in {self._place} were not deleted: {e}")

  def _delete(self) -> None:
    retention.delete_old(self._folder, self._config, self._last_finite)

  def _fail(self, step: int, error: Exception) -> None:
    """Reports why a step was not saved; raises if training should end."""
    self._failures += 1
    self._writer.close()
    self._require_folder()
    retention.empty_trash(self._folder)  # The space counts as free.
    message = (
      f"step {step} was not saved in {self._place}: {space.reason(error)} "
      f"({space.figures(self._folder, self._size)})"
    )
    # The others would wait in Orbax for a process that failed.
    if self._failures == MAX_FAILURES or jax.process_count() > 1:
      raise errors.UserError(
        f"{message}; failed saves in a row: {self._failures}; {self._saved()}"
      ) from error
    _say(f"{message}; training continues until the next save")

  def _saved(self) -> str:
    steps = ", ".join(map(str, folders.numbered(self._folder)))
    return f"saved steps: {steps or 'none'}"

  def _require_folder(self) -> None:
    """Raises unless the folder is the one that the run started with."""
    if not self._is_there():
      raise errors.UserError(
        f"{self._place} was deleted or replaced while the run was using it; "
        "nothing more can be saved there"
      )

  def _is_there(self) -> bool:
    if self._opened is None:
      return True
    try:
      return os.path.samestat(self._folder.stat(), os.fstat(self._opened))
    except OSError:
      return False


def _say(line: str) -> None:
  print(f"pausejax: {line}", file=sys.stderr, flush=True)
