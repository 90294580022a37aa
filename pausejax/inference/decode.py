"""Pause inference: prefill prefix + M pauses at once, then read token by token.

Output is read only after the last pause (Goyal et al., section 3.3). Rows are
padded on the left, so that all of them end in the same slot of the cache, and
`<pause>` is never emitted.

B batch, T prompt tokens, S cache slots, V vocabulary rows.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pausejax import errors, pause
from pausejax.model.decoder import Decoder


def left_pad(
  prompts: Sequence[Sequence[int]], *, num_pauses: int, pause_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Appends the pauses and lines the rows up at their ends.

  Args:
    prompts: ids of each prompt, at least one.
    num_pauses: M, pauses behind every prompt.
    pause_id: id of `<pause>`.

  Returns:
    (tokens_BT int32, is_real_BT bool), T being the longest row.
  """
  rows = [
    pause.append_pauses(np.asarray(p, np.int32), num_pauses, pause_id)
    for p in prompts
  ]
  longest = max(len(row) for row in rows)
  tokens_BT = np.zeros((len(rows), longest), np.int32)
  is_real_BT = np.zeros((len(rows), longest), bool)
  for i, row in enumerate(rows):
    tokens_BT[i, longest - len(row) :] = row
    is_real_BT[i, longest - len(row) :] = True
  return tokens_BT, is_real_BT


def check_length(
  num_prompt: int, num_pauses: int, num_new: int, max_seq_len: int
) -> None:
  """Raises unless prompt, pauses and answer fit the model's positions."""
  total = num_prompt + num_pauses + num_new
  errors.require(
    total <= max_seq_len,
    f"prompt {num_prompt} + pauses {num_pauses} + new tokens {num_new} make "
    f"{total} positions, the model has {max_seq_len}; ask for fewer",
  )


@functools.partial(jax.jit, static_argnames=("num_new",))
def generate(
  model: Decoder,
  tokens_BT: jax.Array,
  is_real_BT: jax.Array,
  key: jax.Array,
  *,
  num_new: int,
  temperature: jax.Array | float,
  eos_id: int,
  pause_id: int,
) -> jax.Array:
  """Returns int32 [B, num_new] sampled ids; EOS fills a row after its end.

  Args:
    model: the decoder.
    tokens_BT: left-padded prompts with their pauses, from `left_pad`.
    is_real_BT: bool, False on the padding.
    key: random key of the sampling.
    num_new: ids to make at most, at least 1.
    temperature: divides the logits; 0 takes the most likely id.
    eos_id: ends a row.
    pause_id: an id that is never chosen.
  """
  batch_size, prompt_len = tokens_BT.shape
  num_slots = prompt_len + num_new
  slots_S = jnp.arange(num_slots)
  is_real_BS = jnp.pad(is_real_BT, ((0, 0), (0, num_new)), constant_values=True)
  # A row's position 0 is its first real token.
  padding_B = prompt_len - is_real_BT.sum(axis=1)

  def forward(tokens_BT, offset, cache):
    slots_T = offset + jnp.arange(tokens_BT.shape[1])
    seen_TS = slots_S <= slots_T[:, None]
    mask_BTS = seen_TS & is_real_BS[:, None, :]
    # Padding attends to itself, which keeps its softmax finite.
    mask_BTS |= slots_S == slots_T[:, None]
    x_BTD, cache = model.with_cache(
      tokens_BT,
      positions_BT=jnp.maximum(slots_T - padding_B[:, None], 0),
      mask_BTS=mask_BTS,
      cache=cache,
      offset=offset,
    )
    return model.logits(x_BTD[:, -1:])[:, 0], cache

  def choose(logits_BV, key):
    logits_BV = logits_BV.at[:, pause_id].set(-jnp.inf)
    scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)
    return jnp.where(
      temperature > 0,
      jax.random.categorical(key, scaled_BV),
      jnp.argmax(logits_BV, axis=-1),
    ).astype(jnp.int32)

  def is_going_on(carry):
    i, _, _, ended_B, _ = carry
    return (i < num_new) & ~jnp.all(ended_B)

  def one_token(carry):
    i, logits_BV, out_BN, ended_B, cache = carry
    id_B = choose(logits_BV, jax.random.fold_in(key, i))
    id_B = jnp.where(ended_B, eos_id, id_B)
    out_BN = out_BN.at[:, i].set(id_B)
    logits_BV, cache = forward(id_B[:, None], prompt_len + i, cache)
    return i + 1, logits_BV, out_BN, ended_B | (id_B == eos_id), cache

  cache = model.empty_cache(batch_size, num_slots)
  logits_BV, cache = forward(tokens_BT, 0, cache)
  out_BN = jnp.full((batch_size, num_new), eos_id, jnp.int32)
  ended_B = jnp.zeros(batch_size, bool)
  start = (0, logits_BV, out_BN, ended_B, cache)
  return jax.lax.while_loop(is_going_on, one_token, start)[2]
