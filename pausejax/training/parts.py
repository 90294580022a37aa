"""The parts of a run, checked on the devices before its data is read."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from pausejax import optimizer as optimizers
from pausejax import sharding, train_state
from pausejax.config import ModelConfig, TrainConfig
from pausejax.training import ahead, step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """The parts of a run that depend on its config and the devices only.

  Attributes:
    model: the config of the decoder.
    optimizer: the optimizer, with its schedule.
    schedule: the learning rate at each step.
    host: (index, count): the part of each batch that this process reads.
    abstract: shapes and shardings of the state.
    train_step: jitted (state, batch) -> (state, metrics), already traced.
  """

  model: ModelConfig
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  host: tuple[int, int]
  abstract: train_state.TrainState
  train_step: Callable[..., Any]


def make_parts(config: TrainConfig, vocab_size: int) -> Parts:
  """Returns the parts of a run; takes seconds, and allocates nothing.

  Args:
    config: the config of the run.
    vocab_size: number of ids of its tokenizer; the pauses are the last ones.

  Raises:
    UsageError: the batch or the model does not divide over the mesh, optax has
      no such optimizer, or the attention implementation does not support the
      model's options.
  """
  model = config.model_config(vocab_size)
  optimizer, schedule = optimizers.make_optimizer(
    config.optim, config.num_steps
  )
  sharding.check_run(config, model)
  abstract = ahead.state_shapes(config, model, optimizer)
  train_step = step.jit_train_step(
    config,
    optimizer,
    schedule,
    pause_id=vocab_size - config.data.num_pause_ids,
    layout=jax.tree.map(lambda x: x.sharding, abstract),
  )
  # Tracing raises the errors of unsupported options.
  for rows in config.batch_sizes.sizes:
    sized = dataclasses.replace(config, batch_size=rows, later_batch_sizes="")
    train_step.trace(abstract, ahead.batch_shapes(sized))
  return Parts(
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    host=sharding.host_part(jax.process_index()),
    abstract=abstract,
    train_step=train_step,
  )
