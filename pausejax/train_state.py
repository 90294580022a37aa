"""The train state: one pytree of arrays."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.model import decoder
from pausejax.spikes import SpikeWindow, empty_window


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Parameters, optimizer state, two counters, and optional statistics.

  Attributes:
    step: int32, number of steps, including skipped ones.
    num_skipped: int32, number of steps that were skipped: their loss or
      gradient was not finite, or a spike.
    model: the decoder, with float32 parameters.
    opt_state: optax's state.
    average: the average of the parameters after each step (`updated_average`);
      None without `optim.ema_decay`.
    spikes: the recent losses; None without `optim.skip_spikes`.
  """

  step: jax.Array
  num_skipped: jax.Array
  model: decoder.Decoder
  opt_state: Any
  average: decoder.Decoder | None = None
  spikes: SpikeWindow | None = None

  def parameters(self, *, average: bool) -> decoder.Decoder:
    """Returns the parameters after the last step, or their average."""
    if not average:
      return self.model
    assert self.average is not None, "the config was checked"
    return self.average


def fresh_state(
  model: decoder.Decoder,
  optimizer: optax.GradientTransformation,
  *,
  has_average: bool = False,
  finds_spikes: bool = False,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    model: the parameters to start from.
    optimizer: initializes the moments.
    has_average: whether the run averages its parameters.
    finds_spikes: whether it skips spikes.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    num_skipped=jnp.zeros((), jnp.int32),
    model=model,
    opt_state=optimizer.init(model),
    average=model if has_average else None,
    spikes=empty_window() if finds_spikes else None,
  )


def init_state(
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  seed: int,
  *,
  has_average: bool = False,
  finds_spikes: bool = False,
) -> TrainState:
  """Returns the state before the first step, which depends only on `seed`."""
  model = decoder.init(config, seed)
  return fresh_state(
    model, optimizer, has_average=has_average, finds_spikes=finds_spikes
  )


def abstract(
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  *,
  has_average: bool = False,
  finds_spikes: bool = False,
) -> TrainState:
  """Returns the state's shapes and shardings on the mesh, without arrays."""
  make = functools.partial(
    init_state,
    config,
    optimizer,
    0,
    has_average=has_average,
    finds_spikes=finds_spikes,
  )
  return sharding.placed(jax.eval_shape(make))


def init_on_mesh(
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  seed: int,
  *,
  has_average: bool = False,
  finds_spikes: bool = False,
) -> TrainState:
  """Returns a fresh state, initialized with its sharding on the mesh."""
  kept = {"has_average": has_average, "finds_spikes": finds_spikes}
  shapes = abstract(config, optimizer, **kept)
  make = functools.partial(init_state, config, optimizer, seed, **kept)
  layout = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(make, out_shardings=layout)()


def updated_average(
  average: decoder.Decoder,
  model: decoder.Decoder,
  count: jax.Array,
  decay: float,
) -> decoder.Decoder:
  """Returns the exponential moving average after one more step.

  After n steps with parameters p_1 to p_n it is

    sum_i decay^(n - i) p_i / sum_i decay^(n - i),

  Adam's bias-corrected moving average (Kingma & Ba, 2015, section 3), applied
  to parameters: the initial ones have no weight.

  Args:
    average: the average before the step, float32.
    model: the parameters p_n after the step.
    count: int32 [], n, the steps so far that were not skipped.
    decay: between 0 and 1; 0 gives p_n.
  """
  if not decay:
    return model
  log_decay = math.log(decay)
  # 1 - decay^n would cancel for a decay near 1.
  weight = math.expm1(log_decay) / jnp.expm1(count * log_decay)
  return jax.tree.map(lambda a, p: a + weight * (p - a), average, model)


@jax.jit
def parameter_norm(model: Any) -> jax.Array:
  """Returns float32 [], the global norm; inf or nan if training diverged."""
  return optax.tree.norm(model)
