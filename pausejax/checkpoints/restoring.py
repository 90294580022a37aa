"""Restores one step of a run: its whole state, or only its parameters.

All processes call these functions together. Nothing is moved.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pausejax import errors
from pausejax.checkpoints import (
  arrays,
  earlier_states,
  folders,
  leaves,
  step_files,
)
from pausejax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Restored:
  """The contents of a checkpoint, and a line on why it was chosen."""

  state: TrainState
  data: dict[str, bytes]
  meta: dict[str, Any]
  reason: str


def restore_state(
  folder: pathlib.Path, step: int, abstract: TrainState
) -> Restored:
  """Returns the checkpoint of a step.

  Args:
    folder: `<workdir>/checkpoints`.
    step: the step.
    abstract: shapes, dtypes and shardings that the checkpoint must have.

  Raises:
    CheckpointUnusable: the step is damaged.
    UserError: the leaves differ from those of `abstract`.
  """
  try:
    return restore_intact(folder, step, abstract)
  except folders.Damaged as e:
    folders.refuse(folder, step, str(e))


def restore_params(
  folder: pathlib.Path,
  step: int,
  abstract_model: Any,
  *,
  average: bool = False,
) -> Any:
  """Returns the model of a step, without optimizer state.

  Args:
    folder: `<workdir>/checkpoints`.
    step: the step.
    abstract_model: its shapes, dtypes and shardings.
    average: read the average of the parameters in their place.

  Raises:
    CheckpointUnusable: the step is damaged.
    UserError: the leaves differ from those of `abstract_model`, or a value is
      not finite.
  """
  item, prefix = ("average",) * 2 if average else ("params", "model")
  named = leaves.flatten(abstract_model)
  named = {f"{prefix}/{n}": x for n, x in named.items()}
  meta = folders.require_step(folder, step).meta
  saved = meta["leaves"]
  leaves.require_same_leaves(
    {n: d for n, d in saved.items() if n.startswith(f"{prefix}/")},
    leaves.shapes_and_dtypes(named),
  )
  try:
    params = arrays.read_arrays(
      folder / str(step), {item: named}, meta["digests"]
    )
  except folders.Damaged as e:
    folders.refuse(folder, step, str(e))
  named = {n.removeprefix(f"{prefix}/"): x for n, x in params.items()}
  _require_finite(named, f"{folder}/{step}")
  return leaves.unflatten(abstract_model, named)


def _require_finite(params: Mapping[str, jax.Array], place: str) -> None:
  all_finite = jax.jit(
    lambda named: {n: jnp.isfinite(x).all() for n, x in named.items()}
  )
  wrong = [n for n, is_finite in all_finite(params).items() if not is_finite]
  if wrong:
    names = ", ".join(sorted(wrong))
    raise errors.UserError(
      f"{place}: values of {names} are NaN or infinite, and were so when they "
      "were saved; use another step"
    )


def restore_intact(
  folder: pathlib.Path, step: int, abstract: TrainState
) -> Restored:
  """Returns the checkpoint of a step; all processes raise the same Damaged."""
  small = _read_small(folder, step)
  items = step_files.items(abstract)
  restored, note = earlier_states.read_leaves(
    folder / str(step), items, small.meta
  )
  state = leaves.unflatten(abstract, restored)
  if int(state.step) != step:
    raise folders.Damaged(f"its state is of step {int(state.step)}")
  return Restored(state, step_files.of_process(small.data), small.meta, note)


def _read_small(folder: pathlib.Path, step: int) -> folders.Small:
  """Reads the small files of a step; raises Damaged in all processes."""
  small, broken = None, ""
  try:
    with folders.readable(folder / str(step)):
      small = folders.read_step(folder, step)
  except folders.Damaged as e:
    broken = str(e)
  arrays.require_all_intact(broken)
  assert small is not None
  return small
