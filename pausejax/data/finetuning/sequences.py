"""The examples of a split as ids: prompt, pauses, target and EOS.

N ids of a prompt, T ids of an example.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pausejax import errors
from pausejax.config import FinetuneConfig
from pausejax.data.finetuning import prompts
from pausejax.data.finetuning.examples import Examples


@dataclasses.dataclass(frozen=True)
class Sequence_:
  """One example as ids.

  Attributes:
    ids_T: int32, from BOS to EOS, one more than its positions in a row.
    num_prompt: number of ids up to the one that predicts the first target.
    hint_ids: targets of the positions just before that one.
  """

  ids_T: np.ndarray
  num_prompt: int
  hint_ids: list[int]

  @property
  def num_positions(self) -> int:
    """The number of positions of the example in a row."""
    return len(self.ids_T) - 1

  @property
  def num_counted(self) -> int:
    """The number of counted targets, including hints."""
    return len(self.ids_T) - self.num_prompt + len(self.hint_ids)


class Drawn(NamedTuple):
  """An example in a row: its task, its index there, and its M."""

  task: int
  index: int
  num_pauses: int


class TaskSequences:
  """All sequences of one split of a task, ready to be packed.

  If M is drawn, `rows` have the largest M, and `row` those of another. A prefix
  is truncated to leave room for the largest: it is the same with every M.
  """

  def __init__(
    self,
    examples: Examples,
    format_: prompts.Format,
    config: FinetuneConfig,
    seq_len: int,
    numbers: Sequence[int] = (),
  ):
    """Encodes the examples.

    Args:
      examples: the examples of one split.
      format_: converts them to ids.
      config: determines whether hints are targets.
      seq_len: maximum number of positions of an example.
      numbers: the M to draw from, up to that of `format_`; empty: always it.

    Raises:
      UsageError: pauses and target of an example do not fit into `seq_len`.
    """
    self.name = format_.task.name
    self.examples = examples
    self.format = format_
    self.hints = config.hints
    self.numbers = tuple(numbers) or (format_.pauses.num_pauses,)
    self._fillers: dict[int, prompts.Filler] = {}
    targets = examples.target_ids or format_.targets(examples.rows)
    # The last id, EOS, is a target but never an input.
    lengths = [seq_len + 1 - len(target) for target in targets]
    self.prompts = format_.prompts(examples.rows, lengths, examples.prefix_ids)
    self.rows = [
      Sequence_(
        np.concatenate([prompt_T, np.asarray(target, np.int32)]),
        len(prompt_T),
        format_.hints(example) if config.hints and example.hints else [],
      )
      for prompt_T, target, example in zip(
        self.prompts.rows, targets, examples.rows, strict=True
      )
    ]
    most, fewest = format_.pauses.num_pauses, min(self.numbers)
    for row, example in zip(self.rows, examples.rows, strict=True):
      num_before = row.num_prompt - 1 - (most - fewest)
      if len(row.hint_ids) > num_before:
        raise errors.UserError(
          f"example {example.id!r}: {len(row.hint_ids)} hints, but only "
          f"{num_before} positions before the answer"
        )

  def filler(self, num_pauses: int) -> prompts.Filler:
    """Returns what writes `num_pauses` pauses into a prompt of the task."""
    if num_pauses not in self._fillers:
      self._fillers[num_pauses] = self.format.with_pauses(num_pauses)
    return self._fillers[num_pauses]

  def num_positions(self, index: int, num_pauses: int) -> int:
    """Returns the positions of an example with `num_pauses` pauses."""
    most = self.format.pauses.num_pauses
    return self.rows[index].num_positions - (most - num_pauses)

  def row(self, index: int, num_pauses: int) -> Sequence_:
    """Returns an example with `num_pauses` pauses, at most those of `rows`."""
    row = self.rows[index]
    if num_pauses == self.format.pauses.num_pauses:
      return row
    prompt_N, target_N = np.split(row.ids_T, [row.num_prompt])
    is_pause_N = self.format.pauses.mask(row.num_prompt)
    shorter_N = self.filler(num_pauses).prompt(prompt_N[~is_pause_N][1:])
    ids_T = np.concatenate([shorter_N, target_N])
    return Sequence_(ids_T, len(shorter_N), row.hint_ids)

  def summary(self) -> str:
    """Returns one line with the counts, including truncated prefixes."""
    line = f"{self.name} {self.examples.summary()}"
    if len(self.numbers) > 1:
      line += f"; M drawn from {', '.join(map(str, self.numbers))}"
    cut = self.prompts
    if cut.num_cut:
      line += (
        f"; {cut.num_cut:,} prefixes lost {cut.num_cut_tokens:,} tokens on the "
        "left"
      )
    return line
