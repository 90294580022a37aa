"""The decoder: embeddings, a stack of blocks under a scan, a head.

Blocks (`blocks.py`) of attention and a feed-forward. `ModelConfig` chooses,
independently of one another: positions, norms and their place, activation,
biases, grouped kv heads, qk norm, windows, and a tied or separate head, so that
one decoder also computes what open models do. The paper gives only the shapes
(its table 5). They match its parameter counts with learned positions, biases
and a separate head, which are therefore the defaults. `tests/test_reference.py`
has the same model in numpy. With `num_loops` n, the stack of blocks is applied
n times, the output of one pass being the input of the next (the looped models
of Saunshi et al., arXiv 2502.17416).

Initialization is GPT-2's (Radford et al., 2019): every matrix is normal with
standard deviation 0.02, except the two per block whose output is added to the
residual stream, with 0.02 / sqrt(2 num_layers num_loops); biases are 0, norm
scales 1.
The `<pause>` row is initialized like any other row.

Modules are NNX modules and plain pytrees: only `jax.*` transforms are applied
to them. Every parameter is float32 and has its logical axes (`sharding.py`) as
metadata; the parameters of all blocks are stacked along a leading axis L.

B batch, T tokens, D d_model, N query heads, H head_dim, V vocabulary rows, L
layers.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.model import attention, embedding, products
from pausejax.model.blocks import INIT_STDDEV, SAVED_NAMES, Block, Norm

# What is saved for the backward pass: nothing, or the outputs of the matrix
# products, so that only norms and activations are recomputed.
_is_named = jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES)


def _is_product(primitive, *args, **params) -> bool:
  """Returns whether a policy saves what this primitive returns."""
  if primitive.name == attention.CUDNN_PRIMITIVE:
    return True
  return _is_named(primitive, *args, **params)


_REMAT_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "names": _is_product,
}


class Decoder(nnx.Module):
  """Maps tokens to one vector per position; `logits` maps vectors to logits.

  The head is separate so that the loss can apply it to a chunk of positions at
  a time (`losses.py`), and decoding only to the last position.
  """

  def __init__(self, config: ModelConfig, key: jax.Array):
    c = self.config = config
    token_key, position_key, head_key, block_key = jax.random.split(key, 4)
    rows = (c.num_vocab_rows, c.d_model)
    self.embedding = _table(token_key, rows, ("vocab", "embed"))
    places = (c.max_seq_len, c.d_model)
    self.position_embedding = (
      _table(position_key, places, ("position", "embed"))
      if c.position == "learned"
      else None
    )
    self.blocks = jax.vmap(lambda k: Block(c, k))(
      jax.random.split(block_key, c.num_layers)
    )
    self.final_norm = Norm(c.norm, c.d_model, c.norm_epsilon, c.norm_bias)
    self.untied_head = (
      None
      if c.tied_embeddings
      else _table(head_key, rows[::-1], ("embed", "vocab"))
    )
    self.head_bias = (
      nnx.Param(jnp.zeros(c.num_vocab_rows), axes=("vocab",))
      if c.head_bias
      else None
    )

  def __call__(
    self,
    tokens_BT: jax.Array,
    *,
    positions_BT: jax.Array,
    segment_ids_BT: jax.Array,
    in_prefix_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns the final vectors [B, T, D] of one pass.

    Args:
      tokens_BT: int32 ids in [0, vocab_size).
      positions_BT: int32 in [0, max_seq_len).
      segment_ids_BT: int32; read only if `config.segment_attention`.
      in_prefix_BT: bool, True on the positions that attend to one another in
        both directions; read only if `config.prefix_attention` is
        "bidirectional".
    """
    c = self.config
    attend = functools.partial(
      attention.attend,
      kind=c.attention,
      segment_ids_BT=segment_ids_BT if c.segment_attention else None,
      in_prefix_BT=(
        in_prefix_BT if c.prefix_attention == "bidirectional" else None
      ),
    )

    def run_block(x_BTD, block_and_layer):
      block, layer = block_and_layer
      x_BTD, _ = block(x_BTD, layer, positions_BT, attend, None, 0)
      return sharding.constrain(x_BTD, "batch", "sequence", None), None

    if c.remat != "none":
      run_block = jax.checkpoint(
        run_block,
        policy=_REMAT_POLICIES[c.remat],
        # Without two loops, XLA would merge what is computed twice.
        prevent_cse=c.scan_unroll >= c.num_layers and c.depth > 1,
      )
    x_BTD = self.embed(tokens_BT, positions_BT)
    x_BTD = sharding.constrain(x_BTD, "batch", "sequence", None)
    layers = _with_merged_heads(self.blocks), jnp.arange(c.num_layers)
    for _ in range(c.num_loops):
      x_BTD, _ = jax.lax.scan(
        run_block, x_BTD, layers, unroll=min(c.scan_unroll, c.num_layers)
      )
    return self.final_norm(x_BTD)

  @jax.named_scope("embed")
  def embed(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Returns the input vectors [B, T, D] of the first block."""
    c = self.config
    table = self.embedding[...]
    if c.embedding_scale != 1:
      table = table * c.embedding_scale
    tables, ids = [table], [tokens_BT]
    if self.position_embedding is not None:
      tables.append(self.position_embedding[...])
      ids.append(positions_BT)
    return embedding.sum_of_rows(tables, ids, products.compute_dtype(c.dtype))

  def head_DV(self) -> jax.Array:
    """Returns the float32 matrix of the head, which maps vectors to logits."""
    if self.untied_head is None:
      return self.embedding[...].T
    return self.untied_head[...]

  def head_bias_V(self) -> jax.Array | None:
    """Returns the float32 bias of the head; None if it has none."""
    return None if self.head_bias is None else self.head_bias[...]

  def logits(self, x_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V]; padded vocabulary rows are -inf."""
    w_DV = self.head_DV().astype(x_BTD.dtype)
    products_BTV = jnp.einsum(
      "btd,dv->btv", x_BTD, w_DV, preferred_element_type=jnp.float32
    )
    if self.head_bias is not None:
      products_BTV += self.head_bias[...]
    return finish_logits(products_BTV, self.config)


def finish_logits(products: jax.Array, config: ModelConfig) -> jax.Array:
  """Returns the logits, given the products of vectors and head, plus its bias.

  Element by element, float32 [..., V]: decoding and the loss, which
  differentiates it a chunk at a time, both call this. Padded vocabulary rows
  are -inf.
  """
  is_id_V = jnp.arange(products.shape[-1]) < config.vocab_size
  return jnp.where(is_id_V, products, -jnp.inf)


def init(config: ModelConfig, seed: int) -> Decoder:
  """Returns a decoder with fresh parameters, determined by `seed`."""
  return Decoder(config, jax.random.key(seed))


def num_parameters(config: ModelConfig) -> int:
  """Returns the number of parameters, including padded vocabulary rows."""
  abstract = jax.eval_shape(lambda: init(config, 0))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract))


def _with_merged_heads(blocks: Block) -> Block:
  """Returns the stacked blocks with N and H of each parameter in one axis.

  Outside of the scan: inside, XLA would merge the reshape into the product, and
  a TPU pads heads of 64 values to 128.
  """

  def merged(param: nnx.Variable) -> nnx.Variable:
    axes = sharding.logical_axes(param, param.ndim)
    if "head_dim" not in axes:
      return param
    i = axes.index("head_dim")
    shape = (*param.shape[: i - 1], -1, *param.shape[i + 1 :])
    return param.replace(param[...].reshape(shape))

  return jax.tree.map(
    merged, blocks, is_leaf=lambda x: isinstance(x, nnx.Param)
  )


def _table(key: jax.Array, shape: tuple[int, int], axes) -> nnx.Param:
  values = INIT_STDDEV * jax.random.normal(key, shape, jnp.float32)
  return nnx.Param(values, axes=axes)
