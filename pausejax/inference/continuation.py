"""The arrays of prompts with pauses, and the text of their continuations.

B prompts, T positions.
"""

from collections.abc import Sequence

import numpy as np

from pausejax.data.tokenizers import PauseTokenizer
from pausejax.inference import decode
from pausejax.pause import PromptPauses


def prompt_arrays(
  ids: Sequence[Sequence[int]],
  pauses: PromptPauses,
  tokenizer: PauseTokenizer,
  *,
  num_new: int,
  max_seq_len: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (tokens, is real, is in the prefix), each [B, T].

  Args:
    ids: the ids of each prompt, without BOS.
    pauses: the pauses of all prompts.
    tokenizer: their tokenizer.
    num_new: number of tokens that will follow.
    max_seq_len: positions of the model.

  Raises:
    UsageError: prompt, pauses and new tokens do not fit the positions.
  """
  longest = 1 + max(map(len, ids))  # With BOS.
  decode.check_length(longest, pauses.num_pauses, num_new, max_seq_len)
  rows = [
    pauses.prompt(text, bos_id=tokenizer.bos_id, pause_id=tokenizer.pause_id)
    for text in ids
  ]
  tokens_BT, is_real_BT = decode.left_pad(
    rows,
    width=decode.bucket_length(longest + pauses.num_pauses),
    pad_id=tokenizer.pad_id,
  )
  in_prefix_BT = np.zeros_like(is_real_BT)
  for inside_T, row in zip(in_prefix_BT, rows, strict=True):
    inside_T[-len(row) :] = pauses.prefix_mask(len(row))
  return tokens_BT, is_real_BT, in_prefix_BT


def continuation_text(
  tokenizer: PauseTokenizer, prompt: Sequence[int], ids: Sequence[int]
) -> str:
  """Returns the text of the ids that follow a prompt, up to EOS."""
  eos_id, decoded = tokenizer.eos_id, tokenizer.decode
  ids = [*ids]
  end = ids.index(eos_id) if eos_id in ids else len(ids)
  # Together with the prompt: SentencePiece drops a leading space.
  return decoded([*prompt, *ids[:end]]).removeprefix(decoded([*prompt]))
