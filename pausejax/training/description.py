"""Describes a run: lines for the terminal, meta.json for checkpoints."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax

from pausejax import optimizer, schedules, sharding
from pausejax.checkpoints.restoring import Restored
from pausejax.data.pipeline import RunData
from pausejax.model import products
from pausejax.model.decoder import Decoder
from pausejax.runtime import accelerators, provenance, tables
from pausejax.train_state import TrainState
from pausejax.training import compiler_options
from pausejax.training.inputs import Inputs, reads_pauses


def run_meta(
  inputs: Inputs, data: dict[str, Any], restored: Restored | None
) -> dict[str, Any]:
  """Returns the fields of meta.json that describe the run.

  Args:
    inputs: the inputs of the run.
    data: the fingerprint of its batches.
    restored: the checkpoint that it resumes from, if any.
  """
  config, initial = inputs.config, inputs.initial
  first = initial and {"workdir": initial.place, "step": initial.step}
  before = restored or initial
  seen = before is not None and before.meta["pauses_seen"]
  rollbacks = [*(restored.meta.get("rollbacks", []) if restored else [])]
  if inputs.rollback:
    rollbacks.append(dataclasses.asdict(inputs.rollback))
  return {
    "config": inputs.values,
    "model": {"vocab_size": inputs.tokenizer.vocab_size, **config.model},
    "tokenizer": inputs.tokenizer.fingerprint(),
    "pause_id": inputs.tokenizer.pause_id,
    "initial": first or (restored and restored.meta.get("initial")),
    "pauses_seen": seen or reads_pauses(config),
    "data": data,
    **({"rollbacks": rollbacks} if rollbacks else {}),
    **environment(config.model["dtype"]),
  }


def environment(dtype: str) -> dict[str, Any]:
  """Returns the fields of meta.json on devices, dtype and versions."""
  return {
    "mesh": dict(sharding.current_mesh().shape),
    "compute_dtype": products.compute_dtype(dtype),
    "versions": provenance.versions(),
    "commit": provenance.commit(),
    "devices": provenance.device_summary(),
  }


def size_line(model: Decoder, restored: Restored | None) -> str:
  """Returns the number of parameters, the devices and the compute dtype."""
  count = sum(x.size for x in jax.tree.leaves(model))
  device, dtype = jax.devices()[0], products.compute_dtype(model.config.dtype)
  mesh = dict(sharding.current_mesh().shape)
  before = restored and restored.meta.get("compute_dtype", dtype)
  return (
    f"{count:,} parameters on {jax.device_count()} {device.device_kind} "
    f"device(s), mesh {mesh}, computing in {dtype}"
    + (f" (the checkpoint: in {before})" if before not in (None, dtype) else "")
  )


def start_lines(
  inputs: Inputs,
  data: RunData,
  state: TrainState,
  restored: Restored | None,
) -> Iterator[str]:
  """Yields summaries of the data, the model and the optimizer."""
  config = inputs.config
  yield from data.summary
  yield size_line(state.model, restored)
  if line := compiler_options.options_line():
    yield line
  flags = os.environ.get("XLA_FLAGS", "")
  if note := accelerators.rounding_note(jax.default_backend(), flags):
    yield note
  yield from tables.table_lines(optimizer.treatments(config.optim, state.model))
  if config.later_batch_sizes:
    yield f"batch sizes: {config.batch_sizes.summary()}"
  branch = restored is not None and inputs.initial is not None
  yield from schedules.schedule_notes(
    config.optim, config.num_steps, branch * int(state.step)
  )
  if num_first := config.optim.pause_only_steps:
    yield f"the first {num_first:,} steps train only the row of <pause>"
