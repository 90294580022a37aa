"""Normalization and rotary position embeddings, as functions of arrays.

NNX's norm modules own their scale; here the scales of all layers are stacked in
one array that `lax.scan` slices, so a function is what a block can call.

B batch, T tokens, N heads, H head_dim.
"""

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float = 1e-6) -> jax.Array:
  """Scales the last axis to unit root mean square (Zhang & Sennrich, 2019).

  Computed in float32, returned in the dtype of `x`.
  """
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return (y * scale).astype(x.dtype)


def layer_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array | None, eps: float = 1e-5
) -> jax.Array:
  """Scales the last axis to mean 0 and variance 1 (Ba et al., 2016).

  Computed in float32, returned in the dtype of `x`.
  """
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps) * scale
  return (y if bias is None else y + bias).astype(x.dtype)


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
  """Applies rotary embeddings (Su et al., 2021) to pairs (i, i + H/2)."""
  half = x_BTNH.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions_BT[..., None].astype(jnp.float32) * frequencies
  sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
  a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_BTNH.dtype)
