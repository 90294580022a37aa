"""What a run is made of, checked on the devices before its data is touched."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from pausejax import optimizer as optimizers
from pausejax import sharding, train_state
from pausejax.config import ModelConfig, TrainConfig
from pausejax.training import ahead, step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """The parts of a run that its config and the devices decide.

  Attributes:
    model: the shape of the decoder.
    optimizer: with its schedule.
    schedule: the learning rate at each step.
    mesh: all devices.
    host: (index, count): the part of each batch that this process reads.
    abstract: shapes and shardings of the state.
    train_step: jitted (state, batch) -> (state, metrics), traced already.
  """

  model: ModelConfig
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  mesh: Mesh
  host: tuple[int, int]
  abstract: train_state.TrainState
  train_step: Callable[..., Any]


def make(config: TrainConfig, vocab_size: int) -> Parts:
  """Returns the parts of a run; takes seconds, and allocates nothing.

  Args:
    config: the run.
    vocab_size: ids of its tokenizer, `<pause>` being the last.

  Raises:
    UsageError: the devices do not make the mesh, the batch or the model does
      not divide over it, optax has no such optimizer, or the attention cannot
      do what the model asks for.
  """
  model = config.model_config(vocab_size)
  optimizer, schedule = optimizers.make(config.optim, config.num_steps)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_run(mesh, config, model)
  with jax.set_mesh(mesh):
    abstract = train_state.abstract(model, optimizer, mesh)
    train_step = step.jit_train_step(
      config,
      optimizer,
      schedule,
      pause_id=vocab_size - 1,
      layout=jax.tree.map(lambda x: x.sharding, abstract),
      mesh=mesh,
    )
    # What cannot be computed fails here.
    train_step.trace(abstract, ahead.batch_shapes(config, mesh))
  return Parts(
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    mesh=mesh,
    host=sharding.host_part(mesh, jax.process_index()),
    abstract=abstract,
    train_step=train_step,
  )
