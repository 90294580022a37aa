"""The key-value cache: prefill of the prefix, then passes that extend it.

Rows are padded on the left, so that all prefixes end in the same slot. The
blocks are unstacked before the first pass: a scan over stacked layers would
copy every weight and the whole cache for every token, whereas a step needs to
read them only once.

B batch, T tokens, S cache slots, D d_model, K kv heads, H head_dim.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pausejax import sharding
from pausejax.model import attention, products
from pausejax.model.blocks import Block
from pausejax.model.decoder import Decoder

# (k_BKSH, v_BKSH) of each layer of each loop, in the compute dtype.
Cache = tuple[tuple[jax.Array, jax.Array], ...]


class Unstacked(NamedTuple):
  """A decoder with separate blocks and matrices in the compute dtype."""

  model: Decoder
  blocks: tuple[Block, ...]


class Prefix(NamedTuple):
  """The result of a prefill.

  Attributes:
    last_BD: the final vector of each row's last token.
    cache: keys and values in slots 0 .. T-1; the slots after them are zero.
    is_real_BT: bool, False on the padding of slots 0 .. T-1.
    moves_BT: bool, True where one of these slots has a position of its own.
  """

  last_BD: jax.Array
  cache: Cache
  is_real_BT: jax.Array
  moves_BT: jax.Array

  def next_position_B1(self) -> jax.Array:
    """Returns int32 [B, 1]: the position of the token after each row."""
    return self.moves_BT.sum(axis=1, dtype=jnp.int32, keepdims=True)


def unstack(model: Decoder) -> Unstacked:
  """Separates the blocks and casts the matrices to the compute dtype."""

  dtype = products.compute_dtype(model.config.dtype)

  def cast(param: nnx.Variable) -> nnx.Variable:
    # Norms compute in float32.
    is_norm = param.get_metadata("axes") == ("norm",)
    to = param[...].dtype if is_norm else dtype
    return jax.tree.map(lambda x: x.astype(to), param)

  is_param = lambda x: isinstance(x, nnx.Variable)
  model = jax.tree.map(cast, model, is_leaf=is_param)
  blocks = tuple(
    jax.tree.map(lambda x, i=i: x[i], model.blocks)
    for i in range(model.config.num_layers)
  )
  return Unstacked(model, blocks)


def prefill(
  decoder: Unstacked,
  tokens_BT: jax.Array,
  is_real_BT: jax.Array,
  in_prefix_BT: jax.Array,
  moves_BT: jax.Array | None = None,
  *,
  num_free: int,
) -> Prefix:
  """Processes prefixes in one pass.

  Args:
    decoder: from `unstack`.
    tokens_BT: int32 ids, padded on the left, including pauses.
    is_real_BT: bool, False on the padding.
    in_prefix_BT: bool, True on the positions that attend to one another; read
      only if the model's `prefix_attention` is "bidirectional".
    moves_BT: bool, True where a token has a position of its own, False where it
      has that of the token before it; None: all tokens have their own.
    num_free: number of slots for later tokens, after the T of the prefix.
  """
  config = decoder.model.config
  # Padding is a separate segment, which keeps its softmax finite.
  batch_size, prefix_len = tokens_BT.shape
  mask_BTT = attention.attention_mask(
    prefix_len,
    is_real_BT,
    in_prefix_BT if config.prefix_attention == "bidirectional" else None,
  )
  moves_BT = is_real_BT if moves_BT is None else moves_BT
  x_BTD, cache = extend(
    decoder,
    tokens_BT,
    positions_BT=slot_positions(moves_BT),
    places_T=jnp.arange(prefix_len),
    places_S=jnp.arange(prefix_len + num_free),
    mask_BTS=jnp.pad(mask_BTT, ((0, 0), (0, 0), (0, num_free))),
    cache=_empty_cache(config, batch_size, prefix_len + num_free),
    offset=0,
  )
  return Prefix(x_BTD[:, -1], cache, is_real_BT, moves_BT)


def extend(
  decoder: Unstacked,
  tokens_BT: jax.Array,
  *,
  positions_BT: jax.Array,
  places_T: jax.Array,
  places_S: jax.Array,
  mask_BTS: jax.Array,
  cache: Cache,
  offset: jax.Array | int,
) -> tuple[jax.Array, Cache]:
  """Returns the tokens' final vectors [B, T, D] and the extended cache.

  Args:
    decoder: from `unstack`.
    tokens_BT: int32 ids.
    positions_BT: int32 positions of the tokens.
    places_T: int32, the places of the tokens in their row. A window counts
      places: tokens that share a position have different ones.
    places_S: int32, the places of what is in the slots, the tokens included.
    mask_BTS: bool, True where token t may attend to slot s.
    cache: keys and values so far.
    offset: the tokens go to slots offset .. offset + T - 1.
  """
  x_BTD = decoder.model.embed(tokens_BT, positions_BT)
  extended = []
  attend = functools.partial(
    attention.attend_cached,
    mask_BTS=mask_BTS,
    distance_TS=places_T[:, None] - places_S,
  )
  num_loops = decoder.model.config.num_loops
  layers = [*enumerate(decoder.blocks)] * num_loops
  for (layer, block), layer_cache in zip(layers, cache, strict=True):
    x_BTD = sharding.constrain(x_BTD, "batch", None, None)
    x_BTD, layer_cache = block(
      x_BTD, layer, positions_BT, attend, layer_cache, offset
    )
    extended.append(layer_cache)
  return decoder.model.final_norm(x_BTD), tuple(extended)


def slot_positions(moves_BS: jax.Array) -> jax.Array:
  """Returns int32 [B, S]: the position of each slot, without the padding."""
  return jnp.maximum(jnp.cumsum(moves_BS, axis=1) - 1, 0)


def _empty_cache(config, batch_size: int, num_slots: int) -> Cache:
  shape = (batch_size, config.num_kv_heads, num_slots, config.head_dim)
  dtype = products.compute_dtype(config.dtype)
  empty = lambda: jnp.zeros(shape, dtype)
  return tuple((empty(), empty()) for _ in range(config.depth))
