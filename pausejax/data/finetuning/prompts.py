"""Converts text to prompts and targets, with pauses.

`pause.PromptPauses` defines their place. A prompt that is too long is truncated
on the left of its prefix; pauses and target are never truncated.

T ids of one example.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pausejax import errors
from pausejax.data import tokenizers
from pausejax.pause import PromptPauses
from pausejax.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts as ids, and how many were truncated.

  Attributes:
    rows: int32 [T] each.
    num_cut: number of truncated prompts.
    num_cut_tokens: number of tokens removed in all.
  """

  rows: list[np.ndarray]
  num_cut: int
  num_cut_tokens: int


class Format:
  """Converts the examples of a task to ids, with pauses in the prompts."""

  def __init__(
    self,
    task: Task,
    tokenizer: tokenizers.PauseTokenizer,
    pauses: PromptPauses,
  ):
    """Raises UsageError if the filler is not one token."""
    self.task = task
    self.pauses = pauses
    self._tokenizer = tokenizer
    self.pause_id = pause_id(tokenizer, pauses)

  def prompts(
    self,
    examples: Sequence[Example],
    lengths: Sequence[int],
    prefixes: Sequence[Sequence[int]] = (),
  ) -> Prompts:
    """Returns the prompts, each at most `lengths[i]` ids long.

    Args:
      examples: the examples.
      lengths: maximum number of ids of each prompt.
      prefixes: the ids of the prefixes, if they are already known.

    Raises:
      UsageError: BOS and the pauses do not fit.
    """
    num_fixed = 1 + self.pauses.num_pauses
    rows, num_cut, num_cut_tokens = [], 0, 0
    texts = prefixes or self._tokenizer.encode([e.prefix for e in examples])
    for example, text, length in zip(examples, texts, lengths, strict=True):
      available = length - num_fixed
      errors.require(
        available >= 0,
        f"example {example.id!r} of task {self.task.name!r}: BOS, "
        f"{self.pauses.num_pauses} pauses and the answer are {-available} "
        "positions too long; use fewer pauses, or train with a larger "
        "data.seq_len (up to model.max_seq_len, which a model with "
        "model.position=rope may raise)",
      )
      excess = max(len(text) - available, 0)
      num_cut += excess > 0
      num_cut_tokens += excess
      prompt_T = self.pauses.prompt(
        text[excess:], bos_id=self._tokenizer.bos_id, pause_id=self.pause_id
      )
      rows.append(prompt_T)
    return Prompts(rows, num_cut, num_cut_tokens)

  def targets(self, examples: Sequence[Example]) -> list[list[int]]:
    """Returns the ids of each target, followed by EOS."""
    return targets(self.task, self._tokenizer, examples)

  def continuations(self, texts) -> list[list[int]]:
    """Returns the ids of texts in the place after a prefix."""
    return _continuations(self.task, self._tokenizer, texts)

  def hints(self, example: Example) -> list[int]:
    """Returns one id for each hint; raises UserError if one has several."""
    encoded = self._tokenizer.encode(list(example.hints))
    for text, ids in zip(example.hints, encoded, strict=True):
      if len(ids) != 1:
        raise errors.UserError(
          f"example {example.id!r}: hint {text!r} is {len(ids)} tokens, every "
          "hint must be one"
        )
    return [ids[0] for ids in encoded]

  def answer(self, ids: Sequence[int]) -> str:
    """Returns the text of generated ids up to EOS or the task's stop text."""
    ids = list(ids)
    if self._tokenizer.eos_id in ids:
      ids = ids[: ids.index(self._tokenizer.eos_id)]
    text = self._tokenizer.decode(ids)
    if self.task.stop:
      text = text.partition(self.task.stop)[0]
    return text.strip()


def targets(
  task: Task, tokenizer: tokenizers.PauseTokenizer, examples: Sequence[Example]
) -> list[list[int]]:
  """Returns the ids of each target in the place after a prefix, with EOS."""
  encoded = _continuations(task, tokenizer, [e.target for e in examples])
  return [[*ids, tokenizer.eos_id] for ids in encoded]


def _continuations(task: Task, tokenizer, texts) -> list[list[int]]:
  delimiter = task.delimiter
  if delimiter == " " and tokenizer.adds_space:
    delimiter = ""
  return tokenizer.encode([delimiter + text for text in texts])


def pause_id(tokenizer: tokenizers.PauseTokenizer, pauses: PromptPauses) -> int:
  """Returns the id of `<pause>`, or of the filler that replaces it.

  Raises:
    UsageError: the filler is not one token.
  """
  if not pauses.filler:
    return tokenizer.pause_id
  return token_id(tokenizer, pauses.filler, "filler")


def token_id(tokenizer: tokenizers.PauseTokenizer, text: str, name: str) -> int:
  """Returns the id of a text that is one token.

  Args:
    tokenizer: the tokenizer.
    text: the text.
    name: what the text is, for the message.

  Raises:
    UsageError: the text is not one token.
  """
  # After another word, so that no "start of word" piece is inserted.
  ids = tokenizer.encode([text])[0]
  ids = ids[1:] if len(ids) == 2 and not tokenizer.decode(ids[:1]) else ids
  errors.require(
    len(ids) == 1,
    f"{name} {text!r} is {len(ids)} tokens of this tokenizer, it must be "
    "one; choose another, such as '.'",
  )
  return ids[0]
