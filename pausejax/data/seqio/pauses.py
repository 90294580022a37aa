"""`pausejax.pause_places` in TensorFlow: the same random places, bit for bit.

That module explains the arithmetic; this one repeats it in TensorFlow ops, for
pipelines that must stay inside tf.data. uint64 wraps around in both.

Shapes: B segments, T positions, J slots of the lengthened sequence,
K inserted pauses.
"""

import numpy as np
import tensorflow as tf

from pausejax import errors
from pausejax.pause import PauseSpec
from pausejax.pause_places import GOLDEN, MIX_1, MIX_2


def insert_pauses_tf(
  tokens_BT: tf.Tensor,
  *,
  pauses: PauseSpec,
  seq_len: int,
  pause_id: int,
  seed: int,
  rows_B: tf.Tensor,
) -> tf.Tensor:
  """Inserts the pauses of each segment.

  Args:
    tokens_BT: int [B, pauses.num_text_tokens(T)], no pauses; its length is
      known when the graph is built.
    pauses: the kind and number of pauses.
    seq_len: T, the length of the result.
    pause_id: id written at the pauses.
    seed: any int; the same seed gives the same pauses.
    rows_B: int [B], number of each segment within the whole run.

  Returns:
    [B, T] of the same dtype, equal to the result of `pauses.insert`.

  Raises:
    UsageError: the segments are not `num_text_tokens` long.
  """
  errors.require(
    pauses.is_uniform or not pauses.has_pauses,
    f"pause_mode {pauses.mode!r}: SeqIO's pipeline has uniformly random places "
    "only; use data.pipeline=segments",
  )
  pauses.check_segments(tokens_BT.shape[1], seq_len)
  is_pause_BT = mask(pauses, seed, rows_B, seq_len)
  # The index of a slot's text token is the number of text slots before it.
  source_BT = tf.cumsum(tf.cast(~is_pause_BT, tf.int32), axis=1) - 1
  shown_BT = tf.gather(
    tokens_BT, tf.maximum(source_BT, 0), axis=1, batch_dims=1
  )
  return tf.where(is_pause_BT, tf.cast(pause_id, tokens_BT.dtype), shown_BT)


def mask(
  pauses: PauseSpec, seed: int, rows_B: tf.Tensor, seq_len: int
) -> tf.Tensor:
  """Returns bool [B, T], True where `insert_pauses_tf` puts a pause."""
  way = pauses.way
  k = way.num_inserted(seq_len) if pauses.has_pauses else 0
  if k == 0:
    return tf.zeros([tf.size(rows_B), seq_len], tf.bool)
  keys_BJ = _slot_keys(seed, rows_B, way.num_slots(seq_len))
  # Complementing reverses the order, and top_k has no counterpart.
  largest_BK = tf.math.top_k(~keys_BJ, k).values
  return keys_BJ[:, :seq_len] <= ~largest_BK[:, -1:]


def _mix64(x: tf.Tensor) -> tf.Tensor:
  """SplitMix64's finalizer."""
  x = tf.bitwise.bitwise_xor(x, _shift_right(x, 30)) * MIX_1
  x = tf.bitwise.bitwise_xor(x, _shift_right(x, 27)) * MIX_2
  return tf.bitwise.bitwise_xor(x, _shift_right(x, 31))


def _shift_right(x: tf.Tensor, num_bits: int) -> tf.Tensor:
  return tf.bitwise.right_shift(x, np.uint64(num_bits))


def _slot_keys(seed: int, rows_B: tf.Tensor, num_slots: int) -> tf.Tensor:
  """Returns int64 [B, J]: the random key of each slot of each segment."""
  rows_B = tf.convert_to_tensor(rows_B)
  if rows_B.dtype != tf.uint64:
    rows_B = tf.bitcast(tf.cast(rows_B, tf.int64), tf.uint64)
  seed_key = _mix64(tf.constant(seed % 2**64, tf.uint64) + GOLDEN)
  keys_B = _mix64(
    tf.bitwise.bitwise_xor(seed_key, rows_B * GOLDEN + np.uint64(1))
  )
  counter_J = np.arange(1, num_slots + 1, dtype=np.uint64) * GOLDEN
  return tf.bitcast(_mix64(keys_B[:, None] + counter_J), tf.int64)
