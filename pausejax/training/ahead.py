"""Compiles the train step ahead of time, for devices that need not exist.

XLA's compilers need only a description of the hardware. They report how much
memory the step of a run needs and what it communicates. Nothing is allocated:
the state and the batch are shapes with shardings.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import errors, sharding, train_state
from pausejax import optimizer as optimizers
from pausejax.config import ModelConfig, TrainConfig
from pausejax.training import step

_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# How the TPU compiler reports the memory of a step that does not fit.
_REFUSED = re.compile(
  r"\(([\d.]+)([KMGT])\) exceeds available HBM|"
  r"memory space hbm\. Used ([\d.]+)([KMGT])"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What a compiler reports about a run's step.

  Attributes:
    batch_size: rows of the global batch.
    needed_bytes: peak memory per device during the step, including the state
      and the batch.
    hlo_text: the compiled step; "" if the compiler refused it because it needs
      more memory than a device has. A refusal takes seconds, a compilation
      minutes.
    seconds: time that the compiler took.
  """

  batch_size: int
  needed_bytes: int
  hlo_text: str
  seconds: float

  @property
  def is_refused(self) -> bool:
    """Whether the compiler refused the step for lack of memory."""
    return not self.hlo_text


def state_shapes(
  config: TrainConfig,
  model_config: ModelConfig,
  optimizer: optax.GradientTransformation,
) -> train_state.TrainState:
  """Returns the shapes and shardings of the run's state."""
  return train_state.abstract(
    model_config,
    optimizer,
    has_average=config.optim.has_average,
    finds_spikes=config.optim.finds_spikes,
  )


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes per device of a tree of shapes with shardings."""
  return sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(tree)
  )


def compile_step(
  config: TrainConfig,
  model_config: ModelConfig,
  *,
  frees_memory: bool = True,
) -> Verdict:
  """Compiles the train step of a run for the mesh in scope.

  Args:
    config: the config of the run.
    model_config: its model, whose last ids are the pauses.
    frees_memory: whether to use the compiler's peak memory (TPU, GPU); if
      False, the sizes of all temporaries are added up (CPU).

  Raises:
    UserError: the compiler fails for a reason other than lack of memory.
  """
  optimizer, schedule = optimizers.make_optimizer(
    config.optim, config.num_steps
  )
  shapes = state_shapes(config, model_config, optimizer)
  train_step = step.jit_train_step(
    config,
    optimizer,
    schedule,
    pause_id=model_config.vocab_size - config.data.num_pause_ids,
    layout=jax.tree.map(lambda x: x.sharding, shapes),
  )
  lowered = train_step.lower(shapes, batch_shapes(config))
  return compile_lowered(
    lowered, batch_size=config.batch_size, frees_memory=frees_memory
  )


def compile_lowered(
  lowered: jax.stages.Lowered, *, batch_size: int, frees_memory: bool = True
) -> Verdict:
  """Compiles a train step, which need not be that of a run.

  Args:
    lowered: the step.
    batch_size: rows of its global batch.
    frees_memory: as in `compile_step`.

  Raises:
    UserError: as `compile_step`.
  """
  began = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    needed, text = _refused_bytes(e), ""
  else:
    memory = compiled.memory_analysis()
    assert memory is not None
    text = compiled.as_text() or ""
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    needed = memory.peak_memory_in_bytes if frees_memory else total
  return Verdict(
    batch_size=batch_size,
    needed_bytes=needed,
    hlo_text=text,
    seconds=time.monotonic() - began,
  )


def batch_shapes(config: TrainConfig) -> dict[str, Any]:
  """Returns the shapes and dtypes of the batches of `data/batch.py`."""
  dtypes = {
    "tokens": jnp.int32,
    "targets": jnp.int32,
    "loss_mask": jnp.bool_,
    "positions": jnp.int32,
    "segment_ids": jnp.int32,
  }
  if config.model["prefix_attention"] == "bidirectional":
    dtypes["in_prefix"] = jnp.bool_
  shape = config.batch_size, config.data.seq_len
  layout = sharding.batch_sharding()
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
    for name, dtype in dtypes.items()
  }


def _refused_bytes(error: Exception) -> int:
  """Returns the bytes that a refused step would have needed."""
  if match := _REFUSED.search(str(error)):
    number, unit = [part for part in match.groups() if part]
    return int(float(number) * _BYTES[unit])
  line = errors.first_line(error)
  raise errors.UserError(
    f"the compiler of this topology refuses the step: {line}"
  ) from error


def largest_batch(
  first: Verdict,
  ask: Callable[[int], Verdict],
  *,
  unit: int,
  held_bytes: int,
  available_bytes: int,
  refuses: bool,
) -> tuple[int, list[Verdict]]:
  """Returns the largest batch that fits, and the verdicts that bound it.

  The memory of a step grows linearly with the batch size, so two verdicts
  determine it. If the compiler refuses steps that do not fit, the second
  verdict is on a batch that is far too large, since a refusal is quick, and a
  third is on the smallest batch that is predicted not to fit.

  Args:
    first: the verdict on the run's own batch.
    ask: batch size -> verdict.
    unit: the batch size must be a multiple of it.
    held_bytes: memory of the state per device.
    available_bytes: memory per device.
    refuses: whether the compiler refuses steps that do not fit (TPU).
  """
  growth = max(first.needed_bytes - held_bytes, 1) * unit / first.batch_size
  many = 2 * first.batch_size // unit
  if refuses and not first.is_refused:
    many = max(many, math.ceil(2 * available_bytes / growth))
  verdicts = [first, ask(many * unit)]
  fitting = _fitting(first, verdicts[1], available_bytes) // unit * unit
  known = {verdict.batch_size for verdict in verdicts}
  if refuses and fitting > 0 and fitting + unit not in known:
    verdicts.append(ask(fitting + unit))
    if verdicts[-1].is_refused:
      line = _fitting(first, verdicts[-1], available_bytes) // unit * unit
      fitting = min(line, fitting)
    else:
      fitting += unit
  return max(fitting, 0), verdicts


def _fitting(a: Verdict, b: Verdict, available_bytes: int) -> int:
  """Returns the batch size that fits exactly, by a linear fit."""
  if a.needed_bytes == b.needed_bytes:  # Both numbers may be rounded.
    fits = a.needed_bytes <= available_bytes
    return max(a.batch_size, b.batch_size) if fits else 0
  slope = (b.needed_bytes - a.needed_bytes) / (b.batch_size - a.batch_size)
  return int(a.batch_size + (available_bytes - a.needed_bytes) / slope)
