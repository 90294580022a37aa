"""Converts text to prompts and targets, with pauses.

`prompt_pauses.PromptPauses` defines their place. A prompt that is too long is
truncated on the left of its prefix; pauses and target are never truncated.

T ids of one example.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from pausejax import errors
from pausejax.data import text_units, tokenizers
from pausejax.prompt_pauses import (
  FILLERS,
  NO_TOKEN_PAUSES,
  PromptPauses,
  TokenPauses,
)
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
  """Converts the examples of a task to ids, with pauses in the prompts.

  Attributes:
    task: the task.
    pauses: the pauses of the prompts.
    filler: writes them.
  """

  def __init__(
    self,
    task: Task,
    tokenizer: tokenizers.PauseTokenizer,
    pauses: PromptPauses,
    behind: TokenPauses = NO_TOKEN_PAUSES,
  ):
    """Raises UsageError if the filler is not a text or the name of one."""
    self.task = task
    self.pauses = pauses
    self._tokenizer = tokenizer
    self.filler = Filler(tokenizer, pauses, behind)

  def with_pauses(self, num_pauses: int) -> "Filler":
    """Returns what writes another number of pauses."""
    pauses = dataclasses.replace(self.pauses, num_pauses=num_pauses)
    return Filler(self._tokenizer, pauses, self.filler.behind)

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
      errors.require(
        length >= num_fixed,
        f"example {example.id!r} of task {self.task.name!r}: "
        f"{self._too_long(num_fixed - length)}",
      )
      excess = self.filler.num_excess(text, length - num_fixed)
      num_cut += excess > 0
      num_cut_tokens += excess
      rows.append(self.filler.prompt(text[excess:]))
    return Prompts(rows, num_cut, num_cut_tokens)

  def _too_long(self, excess: int) -> str:
    """Returns what does not fit, and what to do."""
    num_pauses, behind = self.pauses.num_pauses, self.filler.behind
    parts = [f"{num_pauses} pauses"] * bool(num_pauses)
    fixes = ["use fewer pauses"] * bool(num_pauses)
    if behind.num_per_token:
      fixes.append("finetune with finetune.pauses_behind_tokens=false")
    fixes.append(
      "train with a larger data.seq_len (up to model.max_seq_len, which a "
      "model with model.position=rope may raise)"
    )
    answer = "the answer" + f" with {behind}" * bool(behind.num_per_token)
    what = ", ".join(["BOS", *parts]) + f" and {answer}"
    return f"{what} are {excess} positions too long; {', or '.join(fixes)}"

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
    return until_stop(self._tokenizer.decode(ids), self.task.stop)


def targets(
  task: Task, tokenizer: tokenizers.PauseTokenizer, examples: Sequence[Example]
) -> list[list[int]]:
  """Returns the ids of each target in the place after a prefix, with EOS."""
  encoded = _continuations(task, tokenizer, [e.target for e in examples])
  return [[*ids, tokenizer.eos_id] for ids in encoded]


def _continuations(task: Task, tokenizer, texts) -> list[list[int]]:
  before = delimiter(task, tokenizer)
  return tokenizer.encode([before + text for text in texts])


def delimiter(task: Task, tokenizer: tokenizers.PauseTokenizer) -> str:
  """Returns the text before a target; "" if the tokenizer adds the space."""
  is_added = task.delimiter == " " and tokenizer.adds_space
  return "" if is_added else task.delimiter


def until_stop(text: str, stop: str) -> str:
  """Returns the answer in a text: up to the stop text, if there is one."""
  return (text.partition(stop)[0] if stop else text).strip()


class Filler:
  """Writes the ids at the pauses of prompts: `<pause>`, or what replaces it.

  Attributes:
    pauses: the condition.
    behind: the pauses inside the text.
  """

  def __init__(
    self,
    tokenizer: tokenizers.PauseTokenizer,
    pauses: PromptPauses,
    behind: TokenPauses = NO_TOKEN_PAUSES,
  ):
    """Encodes the filler.

    Raises:
      UsageError: the filler has no token, or is an unknown name such as
        "<counts>".
    """
    self.pauses = pauses
    self.behind = behind
    self._tokenizer = tokenizer
    self._ids = _filler_ids(tokenizer, pauses)

  def __str__(self) -> str:
    return f"{self.pauses}{f', {self.behind}' if self.behind.ids else ''}"

  def prompt(self, prefix_ids: Sequence[int]) -> np.ndarray:
    """Returns the prompt of a prefix, int32 [N]: BOS, prefix and pauses.

    Raises:
      UsageError: the filler repeats the prefix, of which nothing is left.
    """
    return self.pauses.prompt(
      spread_prefix(prefix_ids, self._tokenizer, self.behind),
      bos_id=self._tokenizer.bos_id,
      pause_id=self.ids(prefix_ids),
    )

  def num_excess(self, prefix_ids: Sequence[int], length: int) -> int:
    """Returns how many ids to cut off on the left so that a prefix fits.

    Args:
      prefix_ids: the ids of a prefix.
      length: positions for them and the pauses inside, at least 0.
    """
    most = 1 + len(self.behind.ids)  # Positions of an id with its pauses.
    cut = 0
    while cut < len(prefix_ids):
      left = spread_prefix(prefix_ids[cut:], self._tokenizer, self.behind)
      if len(left) <= length:
        break
      cut += -(-(len(left) - length) // most)
    return min(cut, len(prefix_ids))

  def answer(self, target_ids: Sequence[int]) -> np.ndarray:
    """Returns int32 [N]: a target with its pauses, and EOS, which has none."""
    *text, eos_id = target_ids
    spread_N = self.behind.spread(np.asarray(text, np.int32))
    return np.append(spread_N, np.int32(eos_id))

  def num_answer(self, num_target: int) -> int:
    """Returns the length of `answer` for a target of `num_target` ids."""
    return (num_target - 1) * self.behind.period + 1

  def text(self, prompt_N: np.ndarray) -> np.ndarray:
    """Returns the prefix of a prompt, without any pause."""
    is_pause_N = self.pauses.mask(len(prompt_N))
    ids_N = prompt_N[~is_pause_N][1 :: self.behind.period]
    return (
      ids_N[~self._tokenizer.is_pause(ids_N)] if self.behind.unit else ids_N
    )

  def positions(self, num_prompt: int, num_positions: int) -> np.ndarray:
    """Returns int32 [N], the positions of a prompt and its answer."""
    num_tokens = (num_positions - num_prompt) // self.behind.period
    moves = self.moves(num_prompt), self.behind.moves(num_tokens)
    return np.cumsum(np.concatenate(moves), dtype=np.int32) - 1

  def moves(self, num_prompt: int) -> np.ndarray:
    """Returns bool [N], True where a prompt's id has a position of its own."""
    num_text = num_prompt - 1 - self.pauses.num_pauses
    moves_N = np.ones(num_prompt, bool)
    moves_N[~self.pauses.mask(num_prompt)] = [
      True,
      *self.behind.moves(num_text // self.behind.period),
    ]
    return moves_N

  def ids(self, prefix_ids: Sequence[int]) -> np.ndarray:
    """Returns int32 [M], the ids at the pauses of a prefix."""
    repeated = prefix_ids if self._ids is None else self._ids
    num_pauses = self.pauses.num_pauses
    errors.require(
      bool(len(repeated)) or not num_pauses,
      f"filler {self.pauses.filler}: an empty prefix cannot be repeated; use "
      "fewer pauses, or a larger data.seq_len",
    )
    return np.resize(np.asarray(repeated, np.int32), num_pauses)


def spread_prefix(
  prefix_ids: Sequence[int],
  tokenizer: tokenizers.PauseTokenizer,
  behind: TokenPauses,
) -> np.ndarray:
  """Returns a prefix with the pauses inside it, int32 [N]."""
  ids_N = np.asarray(prefix_ids, np.int32)
  if not behind.unit:
    return behind.spread(ids_N)
  is_end_N = _text_units(tokenizer, behind.unit).ends(ids_N[None])[0]
  places = np.repeat(np.flatnonzero(is_end_N) + 1, len(behind.ids))
  return np.insert(ids_N, places, np.tile(behind.ids, is_end_N.sum()))


# Reads the text of every id.
_text_units = functools.lru_cache(maxsize=4)(text_units.TextUnits)


def _filler_ids(
  tokenizer: tokenizers.PauseTokenizer, pauses: PromptPauses
) -> list[int] | None:
  """Returns the ids to repeat at the pauses, None for those of the prefix."""
  if not pauses.filler:
    return [*tokenizer.pause_ids]
  if pauses.repeats_prefix:
    return None
  text = pauses.filler_text
  ids = _inner_ids(tokenizer, text.removeprefix(" " * tokenizer.adds_space))
  errors.require(bool(ids), f"filler {text!r} has no token")
  if len(ids) > 1 and text[:1] + text[-1:] == "<>":
    errors.require_one_of("filler", text, FILLERS)
  return ids


def token_id(tokenizer: tokenizers.PauseTokenizer, text: str, name: str) -> int:
  """Returns the id of a text that is one token.

  Args:
    tokenizer: the tokenizer.
    text: the text.
    name: what the text is, for the message.

  Raises:
    UsageError: the text is not one token.
  """
  ids = _inner_ids(tokenizer, text)
  errors.require(
    len(ids) == 1,
    f"{name} {text!r} is {len(ids)} tokens of this tokenizer, it must be "
    "one; choose another, such as '.'",
  )
  return ids[0]


def _inner_ids(tokenizer: tokenizers.PauseTokenizer, text: str) -> list[int]:
  """Returns the ids of a text, without a first "start of word" piece."""
  ids = tokenizer.encode([text])[0]
  has_start = len(ids) > 1 and not tokenizer.decode(ids[:1])
  return ids[1:] if has_start else ids
