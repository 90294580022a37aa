"""The train step, compiled for devices that need not be there.

XLA's compilers ask only for a description of the hardware. They say what the
very step of a run needs and sends, with nothing allocated: the state and the
batch are shapes with shardings.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pausejax import errors, sharding, train_state
from pausejax import optimizer as optimizers
from pausejax.config import ModelConfig, TrainConfig
from pausejax.training import step

_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# How the TPU compiler says what a step that does not fit would have needed.
_REFUSED = re.compile(
  r"\(([\d.]+)([KMGT])\) exceeds available HBM|"
  r"memory space hbm\. Used ([\d.]+)([KMGT])"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What a compiler says of a run's step.

  Attributes:
    batch_size: rows of the global batch that it was asked about.
    needed_bytes: of a device's memory at the worst moment of the step, state
      and batch among them.
    hlo_text: the compiled step; "" where the compiler refused it, since it
      needs more than a device has. Refusing takes seconds, compiling minutes.
    seconds: that it took.
  """

  batch_size: int
  needed_bytes: int
  hlo_text: str
  seconds: float

  @property
  def is_refused(self) -> bool:
    """Whether the compiler stopped for want of memory."""
    return not self.hlo_text


def state_shapes(
  config: TrainConfig, model_config: ModelConfig, mesh: Mesh
) -> train_state.TrainState:
  """Returns the shapes and shardings of the run's state."""
  optimizer, _ = optimizers.make(config.optim, config.num_steps)
  return train_state.abstract(model_config, optimizer, mesh)


def bytes_per_device(tree: Any) -> int:
  """Returns what a device holds of a tree of shapes with shardings."""
  return sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(tree)
  )


def compile_step(
  config: TrainConfig,
  model_config: ModelConfig,
  mesh: Mesh,
  *,
  frees_memory: bool = True,
) -> Verdict:
  """Compiles the train step of a run.

  Args:
    config: the run.
    model_config: its model, whose last id is `<pause>`.
    mesh: of real devices or of described ones.
    frees_memory: whether the compiler's account of what lives when is to be
      believed (TPU, GPU); if not, all temporaries count at once (CPU).

  Raises:
    UserError: the compiler fails, and not for want of memory.
  """
  optimizer, schedule = optimizers.make(config.optim, config.num_steps)
  shapes = train_state.abstract(model_config, optimizer, mesh)
  train_step = step.jit_train_step(
    config,
    optimizer,
    schedule,
    pause_id=model_config.vocab_size - 1,
    layout=jax.tree.map(lambda x: x.sharding, shapes),
    mesh=mesh,
  )
  began = time.monotonic()
  with jax.set_mesh(mesh):
    lowered = train_step.lower(shapes, batch_shapes(config, mesh))
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      needed, text = _refused_bytes(e), ""
    else:
      memory = compiled.memory_analysis()
      assert memory is not None
      text = compiled.as_text() or ""
      at_once = memory.argument_size_in_bytes + memory.temp_size_in_bytes
      needed = memory.peak_memory_in_bytes if frees_memory else at_once
  return Verdict(
    batch_size=config.batch_size,
    needed_bytes=needed,
    hlo_text=text,
    seconds=time.monotonic() - began,
  )


def batch_shapes(config: TrainConfig, mesh: Mesh) -> dict[str, Any]:
  """Returns the shapes of a batch as `data/batch.py` makes it."""
  dtypes = {
    "tokens": jnp.int32,
    "targets": jnp.int32,
    "loss_mask": jnp.bool_,
    "positions": jnp.int32,
    "segment_ids": jnp.int32,
  }
  if config.model["prefix_attention"] == "bidirectional":
    dtypes["in_prefix"] = jnp.bool_
  shape, layout = (
    (config.batch_size, config.data.seq_len),
    sharding.batch_sharding(mesh),
  )
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
    for name, dtype in dtypes.items()
  }


def _refused_bytes(error: Exception) -> int:
  """Returns what the compiler would have needed."""
  if match := _REFUSED.search(str(error)):
    number, unit = [part for part in match.groups() if part]
    return int(float(number) * _BYTES[unit])
  raise errors.UserError(
    "the compiler of this topology refuses the step: "
    + str(error).strip().splitlines()[0]
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

  What a step needs grows by the same amount with every `unit` rows, so two
  verdicts give the line. A compiler that refuses is asked about a batch far
  too large, since refusing is quick, and then about the first that should not
  fit.

  Args:
    first: the verdict on the run's own batch.
    ask: batch size -> verdict.
    unit: rows that a batch size must be a multiple of.
    held_bytes: of a device, by the state alone.
    available_bytes: of a device.
    refuses: whether the compiler refuses what does not fit (TPU).
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
  """Returns the rows at which the line through two verdicts meets the limit."""
  slope = (b.needed_bytes - a.needed_bytes) / (b.batch_size - a.batch_size)
  return int(a.batch_size + (available_bytes - a.needed_bytes) / slope)
