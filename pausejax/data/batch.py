"""Builds batches of numpy arrays from segments of ids.

One batch is a dict, every array [B, T]:

  tokens       int32  the inputs: BOS, then the targets shifted right by one
  targets      int32  the id that each position predicts
  loss_mask    bool   True where the target counts
  positions    int32  0 .. T-1 within a segment; a pause may share that of the
                      token before it
  segment_ids  int32  1 for text and pauses, 0 for padding; packed rows number
                      their examples

Packed batches also hold `in_prefix` and `counted` (see `packed_batch`).
Inputs are exactly T long, not T - 1: odd lengths prevent fused attention.

N positions of one example.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pausejax import errors
from pausejax.pause import PauseSpec

Batch = dict[str, np.ndarray]

PADDING = -1  # Marks missing tokens until the batch is built; never an id.


def language_model_batch(
  targets_BT: np.ndarray,
  *,
  pauses: PauseSpec,
  bos_id: int,
  pad_id: int,
  pause_id: int,
) -> Batch:
  """Builds the batch of a plain language model.

  Args:
    targets_BT: int [B, T] with pauses, `PADDING` after the text of a short
      segment; pauses after that text become padding, too.
    pauses: say which targets are pauses, and the positions.
    bos_id: first id of the inputs.
    pad_id: id written over `PADDING`; it never counts.
    pause_id: id of `<pause>`.

  Returns:
    The batch described at the top of this file.
  """
  is_pause_BT = pauses.is_pause(targets_BT, pause_id)
  is_text_BT = (targets_BT != PADDING) & ~is_pause_BT
  is_full_B1 = np.all(targets_BT != PADDING, axis=1, keepdims=True)
  is_real_BT = is_full_B1 | _is_text_ahead(is_text_BT)
  targets_BT = np.where(is_real_BT, targets_BT, pad_id).astype(np.int32)
  tokens_BT = np.empty_like(targets_BT)
  tokens_BT[:, 0] = bos_id
  tokens_BT[:, 1:] = targets_BT[:, :-1]
  shows_pause_BT = np.roll(is_pause_BT, 1, axis=1)  # Of the inputs.
  shows_pause_BT[:, 0] = False
  return {
    "tokens": tokens_BT,
    "targets": targets_BT,
    "loss_mask": is_real_BT & ~is_pause_BT,
    "positions": pauses.positions(shows_pause_BT),
    "segment_ids": is_real_BT.astype(np.int32),
  }


def _is_text_ahead(is_text_BT: np.ndarray) -> np.ndarray:
  """Returns bool [B, T], True up to the last text token of each row."""
  return np.maximum.accumulate(is_text_BT[:, ::-1], axis=1)[:, ::-1]


class Packed(NamedTuple):
  """One example of a packed row; arrays [N] over its positions."""

  tokens_N: np.ndarray
  targets_N: np.ndarray
  loss_mask_N: np.ndarray
  positions_N: np.ndarray
  in_prefix_N: np.ndarray


def packed_batch(
  rows: Sequence[Sequence[Packed]],
  *,
  seq_len: int,
  max_counted: int,
  pad_id: int,
) -> Batch:
  """Builds the batch of rows with several examples each.

  Args:
    rows: B rows of examples, at most `seq_len` positions per row.
    seq_len: T.
    max_counted: K, at least the counted targets of any row.
    pad_id: id of the positions after the last example; they never count.

  Returns:
    The batch described at the top of this file; segment_ids number the
    examples of a row from 1, positions restart at 0 in each example,
    `in_prefix` (bool) is True in a bidirectional prefix, and `counted` (int32
    [B, K]) has distinct positions of the row, including all that count: the
    head computes logits for these only.

  Raises:
    UserError: a row has more counted targets than `max_counted`.
  """
  shape = (len(rows), seq_len)
  batch = {
    "tokens": np.full(shape, pad_id, np.int32),
    "targets": np.full(shape, pad_id, np.int32),
    "loss_mask": np.zeros(shape, bool),
    "positions": np.zeros(shape, np.int32),
    "segment_ids": np.zeros(shape, np.int32),
    "in_prefix": np.zeros(shape, bool),
  }
  for b, row in enumerate(rows):
    start = 0
    for number, example in enumerate(row, start=1):
      n = len(example.tokens_N)
      place = b, slice(start, start + n)
      batch["tokens"][place] = example.tokens_N
      batch["targets"][place] = example.targets_N
      batch["loss_mask"][place] = example.loss_mask_N
      batch["positions"][place] = example.positions_N
      batch["segment_ids"][place] = number
      batch["in_prefix"][place] = example.in_prefix_N
      start += n
  batch["counted"] = _counted_positions(batch["loss_mask"], max_counted)
  return batch


def _counted_positions(mask_BT: np.ndarray, max_counted: int) -> np.ndarray:
  """Returns int32 [B, K]: the counted positions, then some of the others."""
  most = int(mask_BT.sum(axis=1).max())
  if most > max_counted:
    raise errors.UserError(
      f"a row has {most} counted targets, more than the {max_counted} that a "
      "batch can have; pack fewer examples into it"
    )
  order_BT = np.argsort(~mask_BT, axis=1, kind="stable")
  return order_BT[:, :max_counted].astype(np.int32)
