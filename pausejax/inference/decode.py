"""Pause inference: prefill prefix and pauses, then decode the answer.

Output is read only after the last pause (Goyal et al., section 3.3). Rows are
padded on the left, so that all of them end in the same slot of the cache, and
`<pause>` is never emitted. A row's ids depend neither on the other rows nor on
the amount of padding.

B batch, T prompt tokens, S cache slots, V vocabulary rows, N new ids,
D d_model.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pausejax.inference import cached
from pausejax.model.decoder import Decoder
from pausejax.prompt_pauses import NO_TOKEN_PAUSES, TokenPauses


def bucket_length(length: int) -> int:
  """Returns the smallest of 32, 48, 64, 96, 128, 192, ... >= `length`.

  Each width is compiled once: there are 13 of them up to 2048, and above 32
  less than a third of a row is padding.
  """
  width = 32
  while width < length:
    width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
  return width


def left_pad(
  rows: Sequence[Sequence[int]], *, width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pads rows of ids on the left.

  Args:
    rows: ids of each prompt with its pauses.
    width: T, at least the longest row; `bucket_length` limits recompilation.
    pad_id: any id, used as padding.

  Returns:
    (tokens_BT int32, is_real_BT bool).

  Raises:
    ValueError: a row is longer than `width`.
  """
  tokens_BT = np.full((len(rows), width), pad_id, np.int32)
  is_real_BT = np.zeros((len(rows), width), bool)
  for i, row in enumerate(rows):
    if len(row) > width:
      raise ValueError(f"row {i} has {len(row)} ids, more than width {width}")
    tokens_BT[i, width - len(row) :] = row
    is_real_BT[i, width - len(row) :] = True
  return tokens_BT, is_real_BT


def without_pauses(
  logits_BV: jax.Array, pause_id: jax.Array | int
) -> jax.Array:
  """Returns logits with -inf for the pauses: all ids from `pause_id` on."""
  return jnp.where(
    jnp.arange(logits_BV.shape[1]) < pause_id, logits_BV, -jnp.inf
  )


@functools.partial(jax.jit, static_argnames=("num_new", "behind"))
def generate(
  model: Decoder,
  tokens_BT: jax.Array,
  is_real_BT: jax.Array,
  in_prefix_BT: jax.Array,
  key: jax.Array,
  moves_BT: jax.Array | None = None,
  *,
  num_new: int,
  temperature: jax.Array | float,
  top_k: jax.Array | int,
  top_p: jax.Array | float,
  eos_id: jax.Array | int,
  pause_id: jax.Array | int,
  behind: TokenPauses = NO_TOKEN_PAUSES,
) -> jax.Array:
  """Returns int32 [B, num_new] ids; EOS fills a row after its end.

  Args:
    model: the decoder.
    tokens_BT: int32 prompts with their pauses, from `left_pad`.
    is_real_BT: bool, False on the padding.
    in_prefix_BT: bool, see `cached.prefill`.
    key: random key for sampling.
    moves_BT: bool or None, see `cached.prefill`.
    num_new: maximum number of new ids, at least 1.
    temperature: divides the logits; 0 selects the most likely id.
    top_k: sample among this many of the most likely ids; 0 disables it.
    top_p: sample among the fewest of the most likely ids whose probabilities,
      after temperature and `top_k`, sum to at least this; 1 disables it.
    eos_id: id that ends a row.
    pause_id: first id of the pauses, the last ids, which are never chosen.
    behind: the pauses that run after each new id, and are not returned.
  """
  decoder = cached.unstack(model)
  prompt_len = tokens_BT.shape[1]
  period = behind.period
  later = ((0, 0), (0, (num_new - 1) * period))
  prefix = cached.prefill(
    decoder, tokens_BT, is_real_BT, in_prefix_BT, moves_BT, num_free=later[1][1]
  )
  is_real_BS = jnp.pad(is_real_BT, later, constant_values=True)
  moves_BS = jnp.pad(prefix.moves_BT, later)
  moves_BS = moves_BS.at[:, prompt_len:].set(behind.moves(num_new - 1))
  positions_BS = cached.slot_positions(moves_BS)
  slots_S = jnp.arange(is_real_BS.shape[1])

  def choose(x_BD, i):
    logits_BV = decoder.model.logits(x_BD[:, None])[:, 0]
    return choose_ids(
      without_pauses(logits_BV, pause_id),
      jax.random.fold_in(key, i),
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )

  def is_unfinished(carry):
    i, _, is_done_B, _, _ = carry
    return (i < num_new) & ~jnp.all(is_done_B)

  def decode_one(carry):
    i, id_B, is_done_B, out_BN, cache = carry
    slot = prompt_len + (i - 1) * period
    own_T = slot + jnp.arange(period)
    x_BTD, cache = cached.extend(
      decoder,
      behind.spread(id_B[:, None]),
      positions_BT=positions_BS[:, own_T],
      places_T=own_T,
      places_S=slots_S,
      mask_BTS=is_real_BS[:, None] & (slots_S <= own_T[:, None]),
      cache=cache,
      offset=slot,
    )
    id_B = jnp.where(is_done_B, eos_id, choose(x_BTD[:, -1], i))
    out_BN = out_BN.at[:, i].set(id_B)
    return i + 1, id_B, is_done_B | (id_B == eos_id), out_BN, cache

  id_B = choose(prefix.last_BD, 0)
  out_BN = jnp.full((len(id_B), num_new), eos_id, jnp.int32)
  out_BN = out_BN.at[:, 0].set(id_B)
  start = (1, id_B, id_B == eos_id, out_BN, prefix.cache)
  return jax.lax.while_loop(is_unfinished, decode_one, start)[3]


def choose_ids(
  logits_BV: jax.Array,
  key: jax.Array,
  *,
  temperature: jax.Array | float,
  top_k: jax.Array | int,
  top_p: jax.Array | float,
) -> jax.Array:
  """Returns int32 [B], one id per row; see `generate` for the arguments.

  Ids with a logit of -inf are never chosen. The random draw of row b depends
  only on key and b.
  """

  def most_likely():
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

  def sample():
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    scaled_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1) / temperature
    kept_BV = _truncate(scaled_BV, top_k, top_p)
    rank_B1 = jax.random.categorical(key, kept_BV)[:, None]
    return jnp.take_along_axis(order_BV, rank_B1, axis=-1)[:, 0]

  # A branch, since the most likely id does not need the sorted vocabulary.
  return jax.lax.cond(temperature > 0, sample, most_likely)


def _truncate(sorted_BV, top_k, top_p):
  """Returns logits, sorted from high to low, with -inf outside the limits."""
  rank_V = jnp.arange(sorted_BV.shape[1])
  top_BV = jnp.where((top_k > 0) & (rank_V >= top_k), -jnp.inf, sorted_BV)
  p_BV = jax.nn.softmax(top_BV, axis=-1)
  before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
  # The most likely id is always kept.
  is_over_BV = (top_p < 1) & (before_BV >= top_p) & (rank_V > 0)
  return jnp.where(is_over_BV, -jnp.inf, top_BV)
