"""One layer of the decoder: attention and a feed-forward.

Its options are those of `ModelConfig`. Every parameter is float32 and has its
logical axes (`sharding.py`) as metadata.

B batch, T tokens, D d_model, F d_ff, N query heads, K kv heads, H head_dim, R
half of the rotating dimensions, S slots of a cache.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.model import attention, layers, products

INIT_STDDEV = 0.02
EPSILON = {"layernorm": 1e-5, "rmsnorm": 1e-6, "rmsnorm_zero_centered": 1e-6}

# Names of the outputs of the matrix products and of attention.
SAVED_NAMES = ("qkv", attention.OUTPUT_NAME, "mixed", "expanded")
_ACTIVATIONS = {
  "gelu": jax.nn.gelu,
  "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
  "swiglu": jax.nn.silu,
  "geglu": jax.nn.gelu,
}


class Norm(nnx.Module):
  """Layer norm or RMS norm over the last axis."""

  def __init__(self, kind: str, size: int, epsilon: float, use_bias: bool):
    self.kind = kind
    self.epsilon = epsilon or EPSILON[kind]
    is_zero_centered = kind == "rmsnorm_zero_centered"
    scale = jnp.zeros(size) if is_zero_centered else jnp.ones(size)
    self.scale = nnx.Param(scale, axes=("norm",))
    has_bias = kind == "layernorm" and use_bias
    self.bias = nnx.Param(jnp.zeros(size), axes=("norm",)) if has_bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns `x` normalized, in its own dtype."""
    scale = self.scale[...]
    if self.kind == "layernorm":
      bias = None if self.bias is None else self.bias[...]
      return layers.layer_norm(x, scale, bias, self.epsilon)
    if self.kind == "rmsnorm_zero_centered":
      scale = 1 + scale
    return layers.rms_norm(x, scale, self.epsilon)


class HeadsNorm(Norm):
  """A norm over all heads of queries or keys together."""

  def __call__(self, x_BTNH: jax.Array) -> jax.Array:
    """Returns the heads normalized, in their own dtype."""
    *batch, num_heads, head_dim = x_BTNH.shape
    flat = x_BTNH.reshape(*batch, num_heads * head_dim)
    return super().__call__(flat).reshape(x_BTNH.shape)


class Linear(nnx.Module):
  """A weight of any rank and an optional bias.

  The first `num_in` dimensions of the weight are contracted with the last ones
  of the input.
  """

  def __init__(
    self,
    key: jax.Array,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    bias_dims: int,
    num_in: int = 1,
    stddev: float = INIT_STDDEV,
  ):
    self.num_in, self.outputs = num_in, shape[num_in:]
    kernel = stddev * jax.random.normal(key, shape, jnp.float32)
    self.kernel = nnx.Param(kernel, axes=axes)
    # A bias has the output dimensions, which come last.
    self.bias = (
      nnx.Param(
        jnp.zeros(shape[-bias_dims:]), axes=_bias_axes(axes[-bias_dims:])
      )
      if bias_dims
      else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the product in the dtype of `x`."""
    first = x.ndim - self.num_in
    # Not -1: there may be no tokens.
    num_inputs = math.prod(x.shape[first:])
    num_outputs = math.prod(self.outputs)
    y = products.dense(
      x.reshape(*x.shape[:first], num_inputs),
      self.kernel[...].reshape(num_inputs, num_outputs),
      None if self.bias is None else self.bias[...],
    )
    return y.reshape(*y.shape[:-1], *self.outputs)


class Block(nnx.Module):
  """One layer: attention and feed-forward, each with a residual connection."""

  def __init__(self, config: ModelConfig, key: jax.Array):
    c = self.config = config
    keys = iter(jax.random.split(key, 7))
    qkv = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
    q_shape = (c.d_model, c.num_heads, c.head_dim)
    kv_shape = (c.d_model, c.num_kv_heads, c.head_dim)
    to_stream = INIT_STDDEV / math.sqrt(2 * c.depth)
    qkv_bias, mlp_bias = 2 * c.qkv_bias, 1 * c.mlp_bias
    norm = lambda: Norm(c.norm, c.d_model, c.norm_epsilon, c.norm_bias)
    has_input_norm = c.norm_placement != "post"
    has_output_norm = c.norm_placement != "pre"
    has_two = c.residual != "parallel_one_norm"

    self.attention_norm = norm() if has_input_norm else None
    self.query = Linear(next(keys), q_shape, qkv[0], bias_dims=qkv_bias)
    self.key = Linear(next(keys), kv_shape, qkv[1], bias_dims=qkv_bias)
    self.value = Linear(next(keys), kv_shape, qkv[1], bias_dims=qkv_bias)
    self.query_norm = _head_norm(c, c.num_heads)
    self.key_norm = _head_norm(c, c.num_kv_heads)
    self.mix = Linear(
      next(keys),
      (c.num_heads, c.head_dim, c.d_model),
      ("heads", "head_dim", "embed"),
      bias_dims=1 * c.mix_bias,
      num_in=2,
      stddev=to_stream,
    )
    self.attention_output_norm = norm() if has_output_norm else None

    self.mlp_norm = norm() if has_input_norm and has_two else None
    wide, wide_axes = (c.d_model, c.d_ff), ("embed", "mlp")
    self.expand = Linear(next(keys), wide, wide_axes, bias_dims=mlp_bias)
    self.gate = (
      Linear(next(keys), wide, wide_axes, bias_dims=mlp_bias)
      if c.is_gated
      else None
    )
    self.contract = Linear(
      next(keys),
      (c.d_ff, c.d_model),
      ("mlp", "embed"),
      bias_dims=mlp_bias,
      stddev=to_stream,
    )
    self.mlp_output_norm = norm() if has_output_norm else None

  def __call__(
    self,
    x_BTD: jax.Array,
    layer: jax.Array | int,
    positions_BT: jax.Array,
    attend: Callable[..., jax.Array],
    cache: tuple[jax.Array, jax.Array] | None,
    offset: jax.Array | int,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """Returns the residual stream and this layer's cache after the block.

    Args:
      x_BTD: the residual stream.
      layer: index of the layer, from 0.
      positions_BT: int32 positions, for rotary embeddings.
      attend: (queries, keys, values, window=) -> the attention output of each
        query.
      cache: (k_BKSH, v_BKSH); None: the tokens attend only to one another.
      offset: the tokens' keys and values go to slots offset .. offset + T - 1.
    """
    y_BTD = _maybe(self.attention_norm, x_BTD)
    mixed_BTD, cache = self._attend(
      y_BTD, layer, positions_BT, attend, cache, offset
    )
    mixed_BTD = _maybe(self.attention_output_norm, mixed_BTD)
    if self.config.residual == "sequential":
      x_BTD = x_BTD + mixed_BTD
      y_BTD = _maybe(self.mlp_norm, x_BTD)
      return x_BTD + self._feed_forward(y_BTD), cache
    if self.mlp_norm is not None:
      y_BTD = self.mlp_norm(x_BTD)
    return x_BTD + mixed_BTD + self._feed_forward(y_BTD), cache

  @jax.named_scope("attention")
  def _attend(self, y_BTD, layer, positions_BT, attend, cache, offset):
    c = self.config
    q, k, v = self.query(y_BTD), self.key(y_BTD), self.value(y_BTD)
    if self.query_norm is not None and self.key_norm is not None:
      q, k = self.query_norm(q), self.key_norm(k)
    if c.position == "rope":
      angles = positions_BT[..., None] * _frequencies(c, layer)
      q, k = layers.rope(q, angles), layers.rope(k, angles)
    if c.query_scale:
      # The kernels divide by the root of the head size.
      q = q * (c.query_scale * math.sqrt(c.head_dim))
    if cache is None:
      # So that what is saved for the backward pass is sharded, too.
      k = sharding.constrain(k, "batch", "sequence", "kv_heads", None)
      v = sharding.constrain(v, "batch", "sequence", "kv_heads", None)
    q, k, v = checkpoint_name((q, k, v), "qkv")
    # Every query attends to all keys: a split sequence is all-gathered here.
    k = sharding.constrain(k, "batch", None, "kv_heads", None)
    v = sharding.constrain(v, "batch", None, "kv_heads", None)
    if cache is not None:
      # Slots are the inner axis, so that the slots of a head are contiguous.
      start = (0, 0, offset, 0)
      k = jax.lax.dynamic_update_slice(cache[0], k.swapaxes(1, 2), start)
      v = jax.lax.dynamic_update_slice(cache[1], v.swapaxes(1, 2), start)
      cache = (k, v)
      k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    mixed = self.mix(attend(q, k, v, window=_window(c, layer)))
    return checkpoint_name(mixed, "mixed"), cache

  @jax.named_scope("feed_forward")
  def _feed_forward(self, y_BTD: jax.Array) -> jax.Array:
    activation = _ACTIVATIONS[self.config.mlp]
    expanded = checkpoint_name(self.expand(y_BTD), "expanded")
    if self.gate is None:
      return _maybe(
        self.mlp_output_norm,
        self.contract(layers.pointwise(activation, expanded)),
      )
    gate = checkpoint_name(self.gate(y_BTD), "expanded")
    gated = lambda gate, expanded: activation(gate) * expanded
    hidden_BTF = layers.pointwise(gated, gate, expanded)
    return _maybe(self.mlp_output_norm, self.contract(hidden_BTF))


def _head_norm(
  config: ModelConfig, num_heads: int
) -> "Norm | HeadsNorm | None":
  """Returns the norm of queries or keys."""
  c = config
  kind = "rmsnorm" if c.norm == "layernorm" else c.norm
  if not c.qk_norm:
    return None
  if c.qk_norm_span == "head":
    return Norm(kind, c.head_dim, c.norm_epsilon, False)
  return HeadsNorm(kind, num_heads * c.head_dim, c.norm_epsilon, False)


def _maybe(norm: Norm | None, x_BTD: jax.Array) -> jax.Array:
  return x_BTD if norm is None else norm(x_BTD)


def _is_local(config: ModelConfig, layer: jax.Array | int) -> jax.Array | bool:
  """Returns whether a layer has the window, where some have and some not."""
  return (layer + 1) % config.global_every != 0


def _window(
  config: ModelConfig, layer: jax.Array | int
) -> jax.Array | int | None:
  """Returns the positions that a query of this layer sees; None: all."""
  c = config
  if not c.window or not c.global_every:
    return c.window or None
  return jnp.where(_is_local(c, layer), c.window, jnp.iinfo(jnp.int32).max)


def _frequencies(config: ModelConfig, layer: jax.Array | int) -> jax.Array:
  """Returns float32 [R] radians per position of a layer."""
  c = config
  all_R = layers.rope_frequencies(c.rope_theta, c)
  frequencies_R = layers.scaled_frequencies(all_R, c)
  if c.window and c.global_every:
    local_R = layers.rope_frequencies(c.local_rope_theta, c)
    frequencies_R = jnp.where(_is_local(c, layer), local_R, frequencies_R)
  if c.no_rope_every:
    rotates = (layer + 1) % c.no_rope_every != 0
    frequencies_R = jnp.where(rotates, frequencies_R, 0.0)
  return frequencies_R


def _bias_axes(axes: tuple[str, ...]) -> tuple[str, ...]:
  """Returns a bias's axes: those of its kernel, "embed" not sharded."""
  return tuple("norm" if a == "embed" else a for a in axes)
