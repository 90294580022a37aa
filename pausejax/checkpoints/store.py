"""Checkpoints of one run: save, find, check, restore.

  checkpoints/<step>/params     the model's parameters
  checkpoints/<step>/opt_state  moments and counters
  checkpoints/<step>/data       the place in the data, a file per process
  checkpoints/<step>/meta       meta.json: config, tokenizer, versions, digests

The four are one commit: Orbax writes under a temporary name and renames. Orbax
trusts any folder with a number for a name, and keeps no checksum of arrays;
both are made up for here. A folder that is no whole checkpoint, and one whose
digests do not match, is set aside, never deleted, and the next older one is
taken.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pausejax import errors
from pausejax.checkpoints import folders, leaves, retention
from pausejax.runtime import distributed
from pausejax.settings import CheckpointConfig
from pausejax.training.state import TrainState

FORMAT = 1
_TRASH = "trash"


class _Files(ocp.CheckpointHandler):
  """Keeps small files as they are, in an item of the commit."""

  def save(self, directory: epath.Path, args: "_SaveFiles") -> None:
    for name, content in args.files.items():
      (directory / name).write_bytes(content)

  def restore(self, directory: epath.Path, args: "_RestoreFiles"):
    del args
    return {f.name: f.read_bytes() for f in directory.iterdir()}


@ocp.args.register_with_handler(_Files, for_save=True)
@dataclasses.dataclass
class _SaveFiles(ocp.args.CheckpointArgs):
  files: Mapping[str, bytes]


@ocp.args.register_with_handler(_Files, for_restore=True)
@dataclasses.dataclass
class _RestoreFiles(ocp.args.CheckpointArgs):
  pass


@dataclasses.dataclass(frozen=True)
class Restored:
  """What a checkpoint held, and a line that says which one it was and why."""

  state: TrainState
  data: dict[str, bytes]
  meta: dict[str, Any]
  reason: str


class Store:
  """The checkpoints below one folder."""

  def __init__(self, folder: epath.Path, config: CheckpointConfig | None):
    """Names the folder; it is made by the first save.

    Args:
      folder: `<workdir>/checkpoints`.
      config: what to keep; None only reads, next to a run that may be saving.
    """
    self._folder = folder
    self._config = config
    self._manager: ocp.CheckpointManager | None = None
    self._before_skipped = retention.NewestUpTo()

  def save(
    self,
    state: TrainState,
    *,
    data: Mapping[str, bytes],
    meta: Mapping[str, Any],
    num_skipped: int = 0,
  ) -> None:
    """Starts writing a checkpoint of the state's step and returns.

    The arrays are copied before this returns, so the next step may reuse their
    memory. The write before it is waited for, and its failure raised here.

    Args:
      state: the state after a step.
      data: the data iterator's `state()`, files of this process.
      meta: goes to meta.json, with format, step and leaf digests added.
      num_skipped: steps up to this one that were skipped in a row; the newest
        checkpoint from before them is kept.
    """
    self.wait()
    step = int(state.step)
    items = _items(state)
    named = {**items["params"], **items["opt_state"]}
    meta = {
      "format": FORMAT,
      "step": step,
      **meta,
      "leaves": leaves.describe(named),
      "digests": _as_lists(leaves.digests(named)),
    }
    process = f"process_{jax.process_index()}-"
    content = {folders.META: json.dumps(meta, indent=1).encode()}
    self._before_skipped.step = step - num_skipped
    saved = self._open().save(
      step,
      metrics=_scored(meta.get("answers", {})),
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(leaves.nest(items["params"])),
        opt_state=ocp.args.StandardSave(leaves.nest(items["opt_state"])),
        data=_SaveFiles({process + n: c for n, c in data.items()}),
        meta=_SaveFiles(content if jax.process_index() == 0 else {}),
      ),
    )
    if not saved:
      raise errors.UserError(
        f"{self._folder}: step {step} was not saved, a newer one is there"
      )

  def wait(self) -> None:
    """Waits until the last save is on disk; raises if it failed."""
    if self._manager is None:
      return
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    self._empty_trash()

  def close(self) -> None:
    """Waits for the last save and lets go of the folder."""
    self.wait()
    if self._manager is not None:
      self._manager.close()
      self._manager = None

  def restore(self, abstract: TrainState) -> Restored | None:
    """Returns the newest whole checkpoint, or None if there is none at all.

    Args:
      abstract: shapes, dtypes and shardings that the checkpoint must have.

    Raises:
      UserError: checkpoints are there but none is whole, or the newest has
        other leaves than `abstract` (the message is a table of them).
    """
    # What process 0 sees: the others may see its changes late, or half done.
    there = self._find() if jax.process_index() == 0 else None
    steps, notes = distributed.everyone(there)[0]
    found = ", ".join(map(str, steps)) or "none"
    for step in reversed(steps):
      restored, broken = self._restore_step(step, abstract)
      if restored is not None:
        reason = f"newest whole checkpoint (found: {found})"
        reason = "; ".join([reason, *notes])
        return dataclasses.replace(restored, reason=reason)
      notes.append(self._set_aside(str(step), broken))
    if steps:
      raise errors.UserError(
        f"{self._folder}: no checkpoint is whole ({'; '.join(notes)}); start "
        "again in another --workdir"
      )
    return None

  def restore_params(self, abstract_model: Any, step: int) -> Any:
    """Returns the model of a step, parameters only.

    Raises:
      UserError: the leaves differ from those of `abstract_model`.
    """
    named = {f"model/{n}": x for n, x in leaves.flatten(abstract_model).items()}
    saved = self.meta(step)["leaves"]
    leaves.require_same(
      {n: d for n, d in saved.items() if n.startswith("model/")},
      leaves.describe(named),
    )
    params = ocp.args.StandardRestore(leaves.nest(named))
    with ocp.CheckpointManager(self._folder, options=_reading()) as manager:
      found = manager.restore(step, args=ocp.args.Composite(params=params))
    return leaves.unflatten(
      abstract_model, leaves.flatten(found["params"]["model"])
    )

  def set_aside_after(self, step: int) -> tuple[int | None, list[int]]:
    """Moves the checkpoints of later steps away if an older one stays.

    All processes call it together.

    Returns:
      The newest step up to `step`, None if there is none, and what was moved.
    """
    self.wait()
    found = self._find()[0] if jax.process_index() == 0 else None
    steps: list[int] = distributed.everyone(found)[0]
    newest = max((s for s in steps if s <= step), default=None)
    later = [s for s in steps if s > step and newest is not None]
    for s in later:
      self._set_aside(str(s), "")
    return newest, later

  def meta(self, step: int) -> dict[str, Any]:
    """Returns meta.json of a step."""
    return folders.meta(self._folder, step)

  def _find(self) -> tuple[list[int], list[str]]:
    """Returns the whole steps, and notes of what had to be set aside."""
    if not self._folder.exists():
      return [], []
    steps, odd = folders.find(self._folder)
    return steps, [self._set_aside(*entry) for entry in odd]

  def _restore_step(self, step, abstract) -> tuple[Restored | None, str]:
    """Returns (what the step holds, "") or (None, why it is broken)."""
    meta = self.meta(step)
    items = _items(abstract)
    named = {**items["params"], **items["opt_state"]}
    leaves.require_same(meta["leaves"], leaves.describe(named))
    found, broken = self._read(step, items)
    if found is None:
      return None, broken
    arrays = leaves.flatten({**found["params"], **found["opt_state"]})
    digests = _as_lists(leaves.digests(arrays))
    wrong = [n for n in digests if digests[n] != meta["digests"][n]]
    if wrong:
      return None, f"digest of {wrong[0]} ({len(wrong)} in all) does not match"
    data = _files_of_process(found["data"])
    return Restored(leaves.unflatten(abstract, arrays), data, meta, ""), ""

  def _read(self, step: int, items) -> tuple[Any, str]:
    """Returns (the items of a step, "") or (None, why some process cannot).

    Each process reads for itself, so that none waits in a barrier for one that
    failed; then all hear of it.
    """
    found, broken = None, ""
    try:
      with ocp.CheckpointManager(self._folder, options=_reading()) as manager:
        found = manager.restore(
          step,
          args=ocp.args.Composite(
            params=ocp.args.StandardRestore(leaves.nest(items["params"])),
            opt_state=ocp.args.StandardRestore(leaves.nest(items["opt_state"])),
            data=_RestoreFiles(),
          ),
        )
    except Exception as e:
      broken = f"it cannot be read: {str(e).strip().splitlines()[0][:200]}"
    broken = next(filter(None, distributed.everyone(broken)), "")
    return (None, broken) if broken else (found, "")

  def _set_aside(self, name: str, why: str) -> str:
    """Moves a folder out of Orbax's sight; returns a note of it."""
    if jax.process_index() == 0:
      aside = self._folder.parent / "set_aside"
      aside.mkdir(exist_ok=True)
      count = sum(1 for p in aside.iterdir() if p.name.startswith(f"{name}-"))
      (self._folder / name).rename(aside / f"{name}-{count}")
    return f"{name} was set aside: {why}"

  def _open(self) -> ocp.CheckpointManager:
    """Returns the Orbax manager that writes, made when first needed."""
    if self._manager is None:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._empty_trash()
      self._manager = ocp.CheckpointManager(
        self._folder, options=_writing(self._config, self._before_skipped)
      )
    return self._manager

  def _empty_trash(self) -> None:
    trash = self._folder / _TRASH
    if jax.process_index() == 0 and trash.exists():
      trash.rmtree()


def _reading() -> ocp.CheckpointManagerOptions:
  """Returns options under which this process reads without the others."""
  index = jax.process_index()
  return ocp.CheckpointManagerOptions(
    read_only=True,
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=index,
      active_processes={index},
      barrier_sync_key_prefix=f"process_{index}",
    ),
  )


def _files_of_process(files: Mapping[str, bytes]) -> dict[str, bytes]:
  """Returns the files that this process saved.

  One that was not there then takes those of process 0. Where the place in the
  data depends on the process, its fingerprint refuses another number of them.
  """
  names = [f"process_{i}-" for i in (jax.process_index(), 0)]
  own = next(
    (p for p in names if any(n.startswith(p) for n in files)), names[1]
  )
  return {
    n.removeprefix(own): content
    for n, content in files.items()
    if n.startswith(own)
  }


def _writing(
  config: CheckpointConfig, before_skipped: retention.NewestUpTo
) -> ocp.CheckpointManagerOptions:
  return ocp.CheckpointManagerOptions(
    preservation_policy=retention.policy(config, before_skipped),
    # Scores are written only where Orbax may rank by them.
    best_fn=(lambda metrics: metrics["score"]) if config.keep_best else None,
    save_decision_policy=ocp.checkpoint_managers.FixedIntervalPolicy(1),
    cleanup_tmp_directories=True,
    # Renamed before it is deleted: a deletion cut short must not leave
    # something that looks like a checkpoint.
    todelete_subdir=_TRASH,
  )


def _scored(answers: Mapping[str, float]) -> dict[str, float] | None:
  """Returns what Orbax keeps beside a checkpoint to rank it."""
  found = retention.score(answers)
  return None if found is None else {"score": found}


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
  """Returns the named leaves of the two array items of a commit."""
  named = leaves.flatten(state)
  params = {n: x for n, x in named.items() if n.startswith("model/")}
  rest = {n: x for n, x in named.items() if n not in params}
  return {"params": params, "opt_state": rest}


def _as_lists(digests: Mapping[str, jax.Array]) -> dict[str, list[int]]:
  host = jax.device_get(dict(digests))
  return {n: np.asarray(d).tolist() for n, d in host.items()}
