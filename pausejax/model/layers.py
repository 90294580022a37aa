"""Normalization and rotary position embeddings, as functions of arrays.

NNX's norm modules own their scale; here the scales of all layers are stacked in
one array that `lax.scan` slices, so a function is what a block can call.

B batch, T tokens, N heads, H head_dim, R pairs that rotate.
"""

import math

import jax
import jax.numpy as jnp

from pausejax.config import ModelConfig


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """Scales the last axis to unit root mean square (Zhang & Sennrich, 2019).

  Computed in float32, returned in the dtype of `x`.
  """
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return (y * scale).astype(x.dtype)


def layer_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array | None, eps: float
) -> jax.Array:
  """Scales the last axis to mean 0 and variance 1 (Ba et al., 2016).

  Computed in float32, returned in the dtype of `x`.
  """
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps) * scale
  return (y if bias is None else y + bias).astype(x.dtype)


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
