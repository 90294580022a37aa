"""The arrays of prompts with pauses, and the text of their continuations.

JAX is imported when arrays are needed.

B prompts, T positions.
"""

import re
from collections.abc import Sequence

import numpy as np

from pausejax import arguments, errors
from pausejax.data.finetuning import prompts
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.prompt_pauses import PromptPauses, TokenPauses

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def prompt_arrays(
  ids: Sequence[Sequence[int]],
  pauses: PromptPauses,
  tokenizer: PauseTokenizer,
  behind: TokenPauses,
  *,
  num_new: int,
  max_seq_len: int,
) -> dict[str, np.ndarray]:
  """Returns the arrays [B, T] that `decode.generate` reads, by name.

  Args:
    ids: the ids of each prompt, without BOS.
    pauses: the pauses of all prompts.
    tokenizer: their tokenizer.
    behind: the pauses inside the text.
    num_new: number of tokens that will follow.
    max_seq_len: positions of the model.

  Raises:
    UsageError: prompt, pauses and new tokens do not fit the positions.
  """
  from pausejax.inference import decode

  period = behind.period
  spread = [prompts.spread_prefix(text, tokenizer, behind) for text in ids]
  longest = 1 + max(map(len, spread))  # With BOS.
  num_after = num_new * period
  total = longest + pauses.num_pauses + num_after
  each = f", {period} for each token" if period > 1 else ""
  errors.require(
    total <= max_seq_len,
    f"prompt {longest} + pauses {pauses.num_pauses} + new tokens {num_after} "
    f"make {total} positions{each}, the model has {max_seq_len}; lower one of "
    "them",
  )
  filler = prompts.Filler(tokenizer, pauses, behind)
  rows = [filler.prompt(text) for text in ids]
  width = decode.bucket_length(longest + pauses.num_pauses)
  tokens_BT, is_real_BT = decode.left_pad(
    rows, width=width, pad_id=tokenizer.pad_id
  )
  masks = {"in_prefix_BT": pauses.prefix_mask, "moves_BT": filler.moves}
  arrays = {"tokens_BT": tokens_BT, "is_real_BT": is_real_BT}
  for name, mask in masks.items():
    found = [mask(len(row)) for row in rows]
    mask_BT, _ = decode.left_pad(found, width=width, pad_id=0)
    arrays[name] = mask_BT.astype(bool)
  return arrays


def continuation_text(
  tokenizer: PauseTokenizer, prompt: Sequence[int], ids: Sequence[int]
) -> str:
  """Returns the text of the ids that follow a prompt, up to EOS."""
  eos_id, decoded = tokenizer.eos_id, tokenizer.decode
  ids = [*ids]
  end = ids.index(eos_id) if eos_id in ids else len(ids)
  # Together with the prompt: SentencePiece drops a leading space.
  return decoded([*prompt, *ids[:end]]).removeprefix(decoded([*prompt]))


def text_list(name: str, texts: str | Sequence[str]) -> list[str]:
  """Returns one text or several as a list; raises UsageError without one."""
  texts = [texts] if isinstance(texts, str) else texts
  texts = arguments.as_list(name, texts)
  errors.require(
    bool(texts) and all(isinstance(text, str) for text in texts),
    f"{name}: expected at least one text, got {texts!r:.60}",
  )
  for text in texts:
    errors.require(
      not _SURROGATE.search(text),
      f"{name}: {text!r:.60} has half of a surrogate pair, which is not a "
      "character; read the text with its encoding",
    )
  return texts
