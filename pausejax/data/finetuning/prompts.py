"""Text to prompts and targets: where the pauses of finetuning and inference go.

  append    BOS  prefix  <pause> x M | target  EOS     (sections 3.2 and 3.3)
  prepend   BOS  <pause> x M  prefix | target  EOS     (section 4.4)

What stands before the bar is the prompt. The first target token is predicted
from the last id of the prompt, which is the last pause when they are appended.
A prompt that is too long loses text on the left of the prefix; pauses and
target are never cut.

T ids of one example.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pausejax import errors, pause
from pausejax.config import PAUSE_POSITIONS, FinetuneConfig
from pausejax.data import tokenizers
from pausejax.tasks import Example, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waiting:
  """How a prompt waits: the condition of an experiment.

  Attributes:
    num_pauses: M, copies of the filler.
    position: "append" or "prepend".
    filler: "" for `<pause>`, or a text of one token, such as ".".
  """

  num_pauses: int
  position: str = "append"
  filler: str = ""

  def __post_init__(self):
    errors.require_in_range("num_pauses", self.num_pauses, 0)
    errors.require_one_of("pause position", self.position, PAUSE_POSITIONS)


def waiting(config: FinetuneConfig, task: Task) -> Waiting:
  """Returns how the prompts of a task wait in finetuning."""
  m = task.num_pauses if config.num_pauses < 0 else config.num_pauses
  return Waiting(
    num_pauses=m, position=config.pause_position, filler=config.filler
  )


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts as ids, and how many were cut.

  Attributes:
    rows: int32 [T] each.
    num_cut: prompts that lost text.
    num_cut_tokens: tokens that were lost in all.
  """

  rows: list[np.ndarray]
  num_cut: int
  num_cut_tokens: int


class Format:
  """Turns the examples of a task into ids, under one way to wait."""

  def __init__(
    self, task: Task, tokenizer: tokenizers.PauseTokenizer, wait: Waiting
  ):
    """Raises UsageError if the filler is not one token."""
    self.task = task
    self.wait = wait
    self._tokenizer = tokenizer
    self.filler_id = _filler_id(tokenizer, wait.filler)

  def prompts(
    self,
    examples: Sequence[Example],
    lengths: Sequence[int],
    prefixes: Sequence[Sequence[int]] = (),
  ) -> Prompts:
    """Returns the prompts, each at most `lengths[i]` ids long.

    Args:
      examples: whose prefixes to take.
      lengths: most ids of each.
      prefixes: the ids of the prefixes, where they are known.

    Raises:
      UsageError: the pauses alone do not fit.
    """
    num_fixed = 1 + self.wait.num_pauses
    rows, num_cut, num_cut_tokens = [], 0, 0
    texts = prefixes or self._tokenizer.encode([e.prefix for e in examples])
    for example, text, length in zip(examples, texts, lengths, strict=True):
      room = length - num_fixed
      errors.require(
        room >= 0,
        f"example {example.id!r} of task {self.task.name!r}: BOS, "
        f"{self.wait.num_pauses} pauses and the answer are {-room} positions "
        "more than there are; ask for fewer pauses, or train with a larger "
        "data.seq_len",
      )
      excess = max(len(text) - room, 0)
      num_cut += excess > 0
      num_cut_tokens += excess
      rows.append(self._prompt(text[excess:]))
    return Prompts(rows, num_cut, num_cut_tokens)

  def targets(self, examples: Sequence[Example]) -> list[list[int]]:
    """Returns the ids of each target, EOS at the end."""
    return targets(self.task, self._tokenizer, examples)

  def continuations(self, texts) -> list[list[int]]:
    """Returns the ids of texts as they follow a prefix."""
    return _continuations(self.task, self._tokenizer, texts)

  def hints(self, example: Example) -> list[int]:
    """Returns one id for each hint; raises UserError if one has several."""
    found = self._tokenizer.encode(list(example.hints))
    for text, ids in zip(example.hints, found, strict=True):
      if len(ids) != 1:
        raise errors.UserError(
          f"example {example.id!r}: hint {text!r} is {len(ids)} tokens, every "
          "hint must be one"
        )
    return [ids[0] for ids in found]

  def in_prefix(self, num_prompt: int, pauses_too: bool) -> np.ndarray:
    """Returns bool [num_prompt], True where a bidirectional prefix reaches."""
    inside = np.ones(num_prompt, bool)
    m = self.wait.num_pauses
    start = num_prompt - m if self.wait.position == "append" else 1
    inside[start : start + m] = pauses_too
    return inside

  def answer(self, ids: Sequence[int]) -> str:
    """Returns the text of generated ids up to EOS or the task's stop text."""
    ids = list(ids)
    if self._tokenizer.eos_id in ids:
      ids = ids[: ids.index(self._tokenizer.eos_id)]
    text = self._tokenizer.decode(ids)
    if self.task.stop:
      text = text.partition(self.task.stop)[0]
    return text.strip()

  def _prompt(self, text: Sequence[int]) -> np.ndarray:
    place = {"append": pause.append_pauses, "prepend": pause.prepend_pauses}
    body_T = np.asarray(text, np.int32)
    wait = self.wait
    body_T = place[wait.position](body_T, wait.num_pauses, self.filler_id)
    return np.concatenate([[self._tokenizer.bos_id], body_T]).astype(np.int32)


def targets(
  task: Task, tokenizer: tokenizers.PauseTokenizer, examples: Sequence[Example]
) -> list[list[int]]:
  """Returns the ids of each target as it follows a prefix, EOS at the end."""
  found = _continuations(task, tokenizer, [e.target for e in examples])
  return [[*ids, tokenizer.eos_id] for ids in found]


def _continuations(task: Task, tokenizer, texts) -> list[list[int]]:
  delimiter = task.delimiter
  if delimiter == " " and tokenizer.adds_space:
    delimiter = ""
  return tokenizer.encode([delimiter + text for text in texts])


def _filler_id(tokenizer: tokenizers.PauseTokenizer, filler: str) -> int:
  if not filler:
    return tokenizer.pause_id
  # Behind another word, where no piece for "start of word" comes in between.
  ids = tokenizer.encode([filler])[0]
  ids = ids[1:] if len(ids) == 2 and not tokenizer.decode(ids[:1]) else ids
  errors.require(
    len(ids) == 1,
    f"filler {filler!r} is {len(ids)} tokens of this tokenizer, it must be "
    "one; choose another, such as '.'",
  )
  return ids[0]
