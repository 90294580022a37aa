"""Batches of prompts and continuations on the mesh.

Every host gives and receives all rows. A batch is filled with copies of its
last row, or with rows without an option, which nobody reads.

B batch, T prompt positions, O options of a row, C ids of an option.
"""

from collections.abc import Sequence

import jax
import numpy as np

from pausejax import sharding
from pausejax.inference import decode

Options = Sequence[Sequence[Sequence[int]]]


def batch_of_prompts(
  rows: Sequence[np.ndarray],
  in_prefix: Sequence[np.ndarray],
  moves: Sequence[np.ndarray],
  *,
  batch_size: int,
  pad_id: int,
) -> dict[str, jax.Array]:
  """Returns `tokens_BT`, `is_real_BT` and other masks, on the mesh.

  Args:
    rows: int [N], the ids of each prompt; at most `batch_size` prompts.
    in_prefix: bool [N] of each prompt, see `cached.prefill`.
    moves: bool [N] of each prompt, see `cached.prefill`.
    batch_size: B.
    pad_id: any id, used as padding on the left.
  """
  # A copy stops when its original does; other rows might decode for longer.
  missing = batch_size - len(rows)
  rows, in_prefix, moves = (
    [*x, *[x[-1]] * missing] for x in (rows, in_prefix, moves)
  )
  width = decode.bucket_length(max(map(len, rows)))
  tokens_BT, is_real_BT = decode.left_pad(rows, width=width, pad_id=pad_id)
  in_prefix_BT, moves_BT = (
    decode.left_pad(x, width=width, pad_id=0)[0] for x in (in_prefix, moves)
  )
  arrays = {
    "tokens_BT": tokens_BT,
    "is_real_BT": is_real_BT,
    "in_prefix_BT": in_prefix_BT.astype(bool),
    "moves_BT": moves_BT.astype(bool),
  }
  return {name: sharding.put_same_rows(x) for name, x in arrays.items()}


def batch_of_options(
  options: Options, *, batch_size: int, num_options: int
) -> dict[str, jax.Array]:
  """Returns the arrays of `option_arrays` on the mesh."""
  arrays = option_arrays(
    options, batch_size=batch_size, num_options=num_options
  )
  return {name: sharding.put_same_rows(x) for name, x in arrays.items()}


def option_arrays(
  options: Options, *, batch_size: int, num_options: int
) -> dict[str, np.ndarray]:
  """Returns `options_BOC` and `num_tokens_BO`.

  Args:
    options: the ids of the options of each row.
    batch_size: B, at least the number of rows.
    num_options: O, at least the options of any row.
  """
  width = option_width(max(len(o) for row in options for o in row))
  options_BOC = np.zeros((batch_size, num_options, width), np.int32)
  num_tokens_BO = np.zeros((batch_size, num_options), np.int32)
  for b, row in enumerate(options):
    for o, option in enumerate(row):
      options_BOC[b, o, : len(option)] = option
      num_tokens_BO[b, o] = len(option)
  return {"options_BOC": options_BOC, "num_tokens_BO": num_tokens_BO}


def option_width(longest: int) -> int:
  """Returns C, of which there are few: 16, or a `decode.bucket_length`."""
  return 16 if longest <= 16 else decode.bucket_length(longest)
