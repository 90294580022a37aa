"""Spikes of the loss or of the gradient norm: found without a host sync.

A step is a spike if its loss or gradient norm is more than sigma standard
deviations above the mean of the last 128 steps, once there are 64 of them. That
is `SkipStepOptimizer` of OLMo-core (olmo_core/optim/skip_step_optimizer.py,
rolling_interval_length 128, sigma_factor 6), whose defaults Levanter shares.
Spikes enter the window, too, so a lasting change of level soon counts as
normal. Values that are not finite do not.

N the values of the window.
"""

import dataclasses

import jax
import jax.numpy as jnp

WINDOW = 128  # Steps.
_NEEDED = WINDOW // 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpikeWindow:
  """The losses and gradient norms of the last steps, a part of the state.

  Attributes:
    losses_N: float32 [128], step i at i % 128.
    grad_norms_N: float32 [128], the same.
    count: int32, the number of steps so far whose values were finite.
  """

  losses_N: jax.Array
  grad_norms_N: jax.Array
  count: jax.Array

  def is_spike(
    self, loss: jax.Array, grad_norm: jax.Array, sigma: float
  ) -> jax.Array:
    """Returns bool [], whether the values of a step are a spike.

    Args:
      loss: float32 [], the mean loss of the step.
      grad_norm: float32 [], its gradient norm before clipping.
      sigma: the number of standard deviations.
    """
    is_high = self._is_high(self.losses_N, loss, sigma)
    is_high |= self._is_high(self.grad_norms_N, grad_norm, sigma)
    return is_high & (self.count >= _NEEDED)

  def _is_high(self, values_N, value, sigma: float) -> jax.Array:
    num = jnp.clip(self.count, 2, WINDOW).astype(jnp.float32)
    known_N = jnp.arange(WINDOW) < self.count
    mean = jnp.sum(jnp.where(known_N, values_N, 0.0)) / num
    squares_N = jnp.where(known_N, (values_N - mean) ** 2, 0.0)
    deviation = jnp.sqrt(jnp.sum(squares_N) / (num - 1.0))
    return value > mean + sigma * deviation

  def added(
    self, loss: jax.Array, grad_norm: jax.Array, is_finite: jax.Array
  ) -> "SpikeWindow":
    """Returns the window after a step; the same if it was not finite."""
    place = self.count % WINDOW
    put = lambda values_N, value: values_N.at[place].set(
      jnp.where(is_finite, value, values_N[place])
    )
    return SpikeWindow(
      losses_N=put(self.losses_N, loss),
      grad_norms_N=put(self.grad_norms_N, grad_norm),
      count=self.count + is_finite,
    )


def empty_window() -> SpikeWindow:
  """Returns the window before the first step."""
  zeros_N = jnp.zeros(WINDOW, jnp.float32)
  return SpikeWindow(zeros_N, zeros_N, jnp.zeros((), jnp.int32))
