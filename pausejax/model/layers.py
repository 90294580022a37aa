"""Norms, activations and rotary position embeddings, as functions of arrays.

NNX's norm modules own their scale; here the scales of all layers are stacked in
one array that `lax.scan` slices, so a function is what a block can call.

B batch, T tokens, N heads, H head_dim, R pairs that rotate.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pausejax.config import ModelConfig


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """Scales the last axis to unit root mean square (Zhang & Sennrich, 2019).

  Computed in float32, returned in the dtype of `x`.
  """
  return _norm(x, scale, None, eps, False)


def layer_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array | None, eps: float
) -> jax.Array:
  """Scales the last axis to mean 0 and variance 1 (Ba et al., 2016).

  Computed in float32, returned in the dtype of `x`.
  """
  return _norm(x, scale, bias, eps, True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x, scale, bias, eps, is_centered):
  return _scaled(x, scale, bias, *_moments(x, eps, is_centered))


def _norm_forward(x, scale, bias, eps, is_centered):
  # Kept for the backward pass. Without the barrier, XLA on GPUs computes them
  # again in each kernel that needs them, and stores the normalized input in
  # float32 for the gradient of the scale.
  moments = jax.lax.optimization_barrier(_moments(x, eps, is_centered))
  return _scaled(x, scale, bias, *moments), (x, scale, bias, *moments)


def _norm_backward(eps, is_centered, saved, dy):
  del eps
  x, scale, bias, mean, rate = saved
  y = (x.astype(jnp.float32) - mean) * rate
  dy = dy.astype(jnp.float32)
  batch = tuple(range(x.ndim - 1))
  dscale = jnp.sum(dy * y, batch)
  dbias = None if bias is None else jnp.sum(dy, batch)
  average = functools.partial(jnp.mean, axis=-1, keepdims=True)
  dy = dy * scale
  dx = dy - y * average(dy * y) - (average(dy) if is_centered else 0.0)
  return (rate * dx).astype(x.dtype), dscale, dbias


_norm.defvjp(_norm_forward, _norm_backward)


def _moments(x, eps, is_centered):
  """Returns the mean, 0 if not centered, and one over the deviation."""
  y = x.astype(jnp.float32)
  average = functools.partial(jnp.mean, axis=-1, keepdims=True)
  mean = average(y) if is_centered else jnp.zeros((1,) * x.ndim, jnp.float32)
  return mean, jax.lax.rsqrt(average(jnp.square(y - mean)) + eps)


def _scaled(x, scale, bias, mean, rate):
  y = (x.astype(jnp.float32) - mean) * rate * scale
  return (y if bias is None else y + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pointwise(
  function: Callable[..., jax.Array], *args: jax.Array
) -> jax.Array:
  """Returns a function of each element, computed in float32.

  Only the arguments are kept for the backward pass, which computes the function
  again: on a GPU, reading and writing more takes longer.

  Args:
    function: of float32 arrays of one shape.
    *args: its arguments, all in one dtype, which the result has, too.
  """
  return function(*_float32(args)).astype(args[0].dtype)


def _pointwise_forward(function, *args):
  return pointwise(function, *args), args


def _pointwise_backward(function, args, dy):
  # Without the barrier, XLA keeps what both passes compute.
  y, pull_back = jax.vjp(
    function, *_float32(jax.lax.optimization_barrier(args))
  )
  slopes = pull_back(jnp.ones_like(y))
  # Multiplied in the dtype of the arguments. From a float32 product that is
  # rounded last, XLA sums the gradient of a bias in a second kernel.
  return tuple(dy * slope.astype(dy.dtype) for slope in slopes)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _float32(arrays):
  return [x.astype(jnp.float32) for x in arrays]


def rope(x_BTNH: jax.Array, angles_BTR: jax.Array) -> jax.Array:
  """Rotates pairs (i, i + R) of the first 2R dimensions (Su et al., 2021).

  Args:
    x_BTNH: queries or keys.
    angles_BTR: float32, position times frequency of each pair.
  """
  num_pairs = angles_BTR.shape[-1]
  sin, cos = jnp.sin(angles_BTR)[:, :, None], jnp.cos(angles_BTR)[:, :, None]
  x = x_BTNH[..., : 2 * num_pairs].astype(jnp.float32)
  a, b = jnp.split(x, 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  rest = x_BTNH[..., 2 * num_pairs :]
  return jnp.concatenate([rotated.astype(x_BTNH.dtype), rest], axis=-1)


def rope_frequencies(
  theta: jax.Array | float, config: ModelConfig
) -> jax.Array:
  """Returns float32 [R] radians per position, before any scaling."""
  half = config.rotary_dim // 2
  return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)


def scaled_frequencies(
  frequencies_R: jax.Array, config: ModelConfig
) -> jax.Array:
  """Returns the frequencies under `config.rope_scaling`.

  "llama3" divides those whose wavelength is long beside the original sequence
  length by the factor, keeps the short ones, and interpolates between
  (Grattafiori et al., 2024; `modeling_rope_utils.py` of transformers).
  """
  c = config
  stretched_R = frequencies_R / c.rope_scaling_factor
  if c.rope_scaling == "linear":
    return stretched_R
  if c.rope_scaling == "none":
    return frequencies_R
  low, high = c.rope_low_frequency_factor, c.rope_high_frequency_factor
  turns_R = c.rope_original_seq_len * frequencies_R / (2 * math.pi)
  kept_R = jnp.clip((turns_R - low) / (high - low), 0.0, 1.0)
  return kept_R * frequencies_R + (1 - kept_R) * stretched_R
