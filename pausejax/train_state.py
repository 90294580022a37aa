"""The train state: one pytree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.model import decoder


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Parameters, optimizer moments and two counters.

  Attributes:
    step: int32, number of steps, including skipped ones.
    num_skipped: int32, number of steps whose loss or gradient was not finite.
    model: the decoder, with float32 parameters.
    opt_state: optax's state.
  """

  step: jax.Array
  num_skipped: jax.Array
  model: decoder.Decoder
  opt_state: Any


def init_state(
  config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """Returns the state before the first step, which depends only on `seed`."""
  model = decoder.init(config, seed)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    num_skipped=jnp.zeros((), jnp.int32),
    model=model,
    opt_state=optimizer.init(model),
  )


def abstract(
  config: ModelConfig, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the state's shapes and shardings on the mesh, without arrays."""
  shapes = jax.eval_shape(lambda: init_state(config, optimizer, 0))
  return sharding.placed(shapes)


def init_on_mesh(
  config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """Returns a fresh state, initialized with its sharding on the mesh."""
  layout = jax.tree.map(lambda x: x.sharding, abstract(config, optimizer))
  make = jax.jit(
    lambda: init_state(config, optimizer, seed), out_shardings=layout
  )
  return make()


@jax.jit
def parameter_norm(model: Any) -> jax.Array:
  """Returns float32 [], the global norm; inf or nan if training diverged."""
  return optax.tree.norm(model)
