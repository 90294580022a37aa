"""The method on one page: where pauses go and which targets count.

Goyal et al., "Think before you speak: Training Language Models With Pause
Tokens" (ICLR 2024, arXiv 2310.02226). One new token, `<pause>`, gives the
model more positions to compute in before it has to answer.

  Pretraining (Algorithm 1)  `insert_pauses` at random places of the text
  Finetuning (Algorithm 2)   `append_pauses` to the prefix
  Inference (Algorithm 3)    `append_pauses`, then read after the last one
  Loss                       `counted_targets`: a pause is never a target

Insertion is a pure function of (seed, position), where position numbers the
segments of a whole run: position = step * batch_size + row. No generator is
carried along, so hosts, workers and restarts cannot change a single pause.
Each slot gets a 64-bit key from SplitMix64 (Steele et al., OOPSLA 2014) and
the slots with the smallest keys are the pauses; `data/seqio/pauses.py` is the
same arithmetic in TensorFlow, equal bit for bit.

Shapes: B segments, T positions, J slots of the lengthened sequence.
"""

import math

import numpy as np

from pausejax import errors

MODES = ("insert_trim", "exact")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def num_inserted(seq_len: int, pause_fraction: float) -> int:
  """Returns round(pause_fraction * seq_len), halves up: 205 for 0.1 of 2048."""
  return math.floor(pause_fraction * seq_len + 0.5)


def num_text_tokens(seq_len: int, pause_fraction: float, mode: str) -> int:
  """Returns how many text tokens a segment of `seq_len` positions is cut to.

  "insert_trim" takes a full segment and lets the trim displace some of it;
  "exact" leaves room for the pauses, so that no text is lost.

  Raises:
    UsageError: an unknown mode, or the pauses leave no room for text.
  """
  errors.require_one_of("pause_mode", mode, MODES)
  if mode == "insert_trim":
    return seq_len
  num_text = seq_len - num_inserted(seq_len, pause_fraction)
  errors.require(
    num_text >= 1,
    f"pause_fraction {pause_fraction} leaves no room for text in seq_len "
    f"{seq_len}; lower it, or choose pause_mode 'insert_trim'",
  )
  return num_text


def insert_pauses(
  tokens_BT: np.ndarray,
  *,
  seq_len: int,
  pause_id: int,
  pause_fraction: float,
  mode: str,
  seed: int,
  positions_B: np.ndarray,
) -> np.ndarray:
  """Inserts pauses at uniformly random places of each segment (section 3.1).

  With k = `num_inserted(T, pause_fraction)` there are two readings of "10%":

  * "insert_trim", the paper's words: k pauses go to a uniformly random k-subset
    of the T + k slots and the result is trimmed to T. Of 205 in 2048, 186.3
    survive on average (hypergeometric mean k T / (T + k)), and every survivor
    displaces one text token at the end of the segment.
  * "exact": a uniformly random k-subset of the T output positions are pauses.
    The segment arrives T - k tokens long and all of it stays.

  Args:
    tokens_BT: int [B, num_text_tokens(T, pause_fraction, mode)], no pauses.
    seq_len: T, the length of the result.
    pause_id: id written at the pauses.
    pause_fraction: in [0, 1), of the T positions.
    mode: "insert_trim" or "exact".
    seed: any int; the same seed gives the same pauses.
    positions_B: int [B], number of each segment within the whole run.

  Returns:
    [B, T] of the same dtype. Without its pauses it is a prefix of the input.

  Raises:
    UsageError: the segments are not `num_text_tokens` long.
  """
  num_text = num_text_tokens(seq_len, pause_fraction, mode)
  errors.require(
    tokens_BT.shape[1] == num_text,
    f"pause_mode {mode!r} with pause_fraction {pause_fraction} fills {seq_len} "
    f"positions from {num_text} tokens, got segments of {tokens_BT.shape[1]}",
  )
  is_pause_BT = pause_mask(seed, positions_B, seq_len, pause_fraction, mode)
  # Slot t shows the text token whose index is the number of text slots before.
  source_BT = np.cumsum(~is_pause_BT, axis=1, dtype=np.int32) - 1
  shown_BT = np.take_along_axis(tokens_BT, np.maximum(source_BT, 0), axis=1)
  return np.where(is_pause_BT, tokens_BT.dtype.type(pause_id), shown_BT)


def pause_mask(
  seed: int,
  positions_B: np.ndarray,
  seq_len: int,
  pause_fraction: float,
  mode: str,
) -> np.ndarray:
  """Returns bool [B, T], True where `insert_pauses` puts a pause."""
  errors.require_one_of("pause_mode", mode, MODES)
  errors.require_in_range("pause_fraction", pause_fraction, 0.0, 0.999)
  k = num_inserted(seq_len, pause_fraction)
  if k == 0:
    return np.zeros((len(positions_B), seq_len), bool)
  num_slots = seq_len + k if mode == "insert_trim" else seq_len
  keys_BJ = _slot_keys(seed, positions_B, num_slots)
  largest_B1 = np.partition(keys_BJ, k - 1, axis=1)[:, k - 1 : k]
  return keys_BJ[:, :seq_len] <= largest_B1


def counted_targets(targets: np.ndarray, pause_id: int) -> np.ndarray:
  """Returns bool like `targets`, True where the target enters the loss.

  The paper ignores position k when token k+1 is `<pause>` (section 3.1), that
  is, whenever the target is a pause. A pause whose next token is text counts.
  """
  return targets != pause_id


def remove_pauses(tokens_T: np.ndarray, pause_id: int) -> np.ndarray:
  """Returns the text tokens of one sequence, in order."""
  return tokens_T[tokens_T != pause_id]


def append_pauses(
  prefix_T: np.ndarray, num_pauses: int, pause_id: int
) -> np.ndarray:
  """Returns the prefix followed by `num_pauses` pauses (sections 3.2, 3.3)."""
  return np.concatenate([prefix_T, _pauses(prefix_T, num_pauses, pause_id)])


def prepend_pauses(
  prefix_T: np.ndarray, num_pauses: int, pause_id: int
) -> np.ndarray:
  """Returns `num_pauses` pauses followed by the prefix (section 4.4)."""
  return np.concatenate([_pauses(prefix_T, num_pauses, pause_id), prefix_T])


def _pauses(like: np.ndarray, num_pauses: int, pause_id: int) -> np.ndarray:
  errors.require_in_range("num_pauses", num_pauses, 0)
  return np.full(num_pauses, pause_id, like.dtype)


def _mix64(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finaliser; uint64 arithmetic wraps around."""
  with np.errstate(over="ignore"):
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
  return x ^ (x >> np.uint64(31))


def _slot_keys(
  seed: int, positions_B: np.ndarray, num_slots: int
) -> np.ndarray:
  """Returns int64 [B, J]: the random key of each slot of each segment."""
  positions_B = np.asarray(positions_B).astype(np.uint64)
  with np.errstate(over="ignore"):
    seed_key = _mix64(np.uint64(seed % 2**64) + _GOLDEN)
    keys_B = _mix64(seed_key ^ (positions_B * _GOLDEN + np.uint64(1)))
    counter_J = np.arange(1, num_slots + 1, dtype=np.uint64) * _GOLDEN
    return _mix64(keys_B[:, None] + counter_J).view(np.int64)
