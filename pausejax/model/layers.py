"""Normalisation, rotary positions and attention, as functions of arrays.

B batch, T query tokens, S key tokens, D d_model, N query heads, K kv heads,
H head_dim.
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
  """Rotates each head by its position (Su et al., 2021), halves as pairs."""
  half = x_BTNH.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions_BT[..., None].astype(jnp.float32) * frequencies
  sin, cos = jnp.sin(angles)[:, :, None], jnp.cos(angles)[:, :, None]
  a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_BTNH.dtype)


def attention(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_BTS: jax.Array | None,
) -> jax.Array:
  """Returns softmax(q k / sqrt(H)) v as [B, T, N, H].

  Args:
    q_BTNH: queries.
    k_BSKH: keys; each serves N / K query heads.
    v_BSKH: values.
    mask_BTS: bool, True where t may attend to s; None is causal.
  """
  mask = None if mask_BTS is None else mask_BTS[:, None]
  return jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, mask=mask, is_causal=mask is None
  )


def attention_mask(
  segment_ids_BT: jax.Array | None, in_prefix_BT: jax.Array | None
) -> jax.Array | None:
  """Returns bool [B, T, T], True where t may attend to s; None is causal.

  Position t attends to itself and to what is before it. A position of the
  prefix attends to the whole prefix (Goyal et al., figure 1).

  Args:
    segment_ids_BT: attention stays within equal ids; None: one segment.
    in_prefix_BT: bool, True on the prefix; None: none is bidirectional.
      Where several examples share a row, give segments too: prefixes of one
      segment count as one.
  """
  given_BT = segment_ids_BT if in_prefix_BT is None else in_prefix_BT
  if given_BT is None:
    return None
  may_BTT = jnp.tri(given_BT.shape[1], dtype=bool)[None]
  if in_prefix_BT is not None:
    may_BTT |= in_prefix_BT[:, :, None] & in_prefix_BT[:, None, :]
  if segment_ids_BT is not None:
    may_BTT &= segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
  return may_BTT
