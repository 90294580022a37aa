"""The examples of a split as ids: prompt, pauses, target and EOS.

A curriculum (`curriculum.py`) gives an example other pauses and another target
in every stage; without one, there is only stage 0.

N ids of a prompt, or draws; T ids of an example; E examples.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pausejax import errors, tasks
from pausejax.config import FinetuneConfig
from pausejax.data.finetuning import prompts
from pausejax.data.finetuning.examples import Examples
from pausejax.prompt_pauses import draw_num_pauses


@dataclasses.dataclass(frozen=True)
class EncodedExample:
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


class Drawn(NamedTuple):
  """An example in a row: its task, its index there, its M and stage."""

  task: int
  index: int
  num_pauses: int
  stage: int = 0


class TaskSequences:
  """All sequences of one split of a task, ready to be packed.

  `rows` have the largest M and, with a curriculum, the last stage; `row` those
  of another M or stage. A prefix is truncated to leave room for the longest of
  them: it is the same in all.
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
      config: determines whether hints are targets, and the curriculum.
      seq_len: maximum number of positions of an example.
      numbers: the M to draw from, up to that of `format_`; empty: always it.

    Raises:
      UsageError: pauses and target of an example do not fit into `seq_len`, or
        a curriculum has no steps to replace.
    """
    self.name = format_.task.name
    self.examples = examples
    self.format = format_
    self.hints = config.hints
    self.numbers = tuple(numbers) or (format_.pauses.num_pauses,)
    self.curriculum = config.curriculum(format_.task.num_pauses)
    self._fillers: dict[int, prompts.Filler] = {}
    self._check_curriculum()
    # Of each example: its target without 0, 1, ... steps.
    self._targets = self._all_targets()
    answer = format_.filler.answer
    # The last id, EOS, is a target but never an input.
    lengths = [seq_len + 1 - n for n in self._longest()]
    self.prompts = format_.prompts(examples.rows, lengths, examples.prefix_ids)
    self.rows = [
      EncodedExample(
        np.concatenate([prompt_T, answer(targets[-1])]),
        len(prompt_T),
        format_.hints(example) if config.hints and example.hints else [],
      )
      for prompt_T, targets, example in zip(
        self.prompts.rows, self._targets, examples.rows, strict=True
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

  @property
  def last_stage(self) -> int:
    """The stage of held-out examples and of `rows`."""
    return self.curriculum.last_stage if self.curriculum else 0

  @property
  def stages(self) -> range:
    """All stages of the training."""
    return range(self.first.stage, self.last_stage + 1)

  @property
  def first(self) -> Drawn:
    """The first draw, of the largest M if it is drawn."""
    if self.curriculum is None:
      return Drawn(0, 0, self.format.pauses.num_pauses)
    stage = int(self.curriculum.stages(np.arange(1), 1)[0])
    return Drawn(0, 0, int(self.curriculum.stage_pauses(stage)), stage)

  def conditions(
    self, seed: int, draws_N: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 [N] each, M and the stage of draws of the whole run."""
    if self.curriculum is None:
      numbers_N = draw_num_pauses(self.numbers, seed=seed, draws_N=draws_N)
      return numbers_N, np.zeros_like(numbers_N)
    stages_N = self.curriculum.stages(draws_N, len(self.rows))
    return self.curriculum.stage_pauses(stages_N), stages_N

  def filler(self, num_pauses: int) -> prompts.Filler:
    """Returns what writes `num_pauses` pauses into a prompt of the task."""
    if num_pauses not in self._fillers:
      self._fillers[num_pauses] = self.format.with_pauses(num_pauses)
    return self._fillers[num_pauses]

  def target(self, index: int, stage: int = 0) -> list[int]:
    """Returns the ids of the target of an example in a stage, with EOS."""
    targets = self._targets[index]
    if self.curriculum is None:
      return targets[0]
    return targets[self.curriculum.num_replaced(stage, len(targets) - 1)]

  def num_positions(self, index: int, num_pauses: int, stage: int = 0) -> int:
    """Returns the positions of an example with M pauses in a stage."""
    row = self.rows[index]
    num_text = row.num_prompt - self.format.pauses.num_pauses
    num_target = len(self.target(index, stage))
    return num_text + num_pauses + self.format.filler.num_answer(num_target) - 1

  def num_counted(self, index: int, stage: int = 0) -> int:
    """Returns the counted targets of an example in a stage, hints included."""
    return len(self.target(index, stage)) + len(self.rows[index].hint_ids)

  def row(self, index: int, num_pauses: int, stage: int = 0) -> EncodedExample:
    """Returns an example with M pauses, at most those of `rows`."""
    row, most = self.rows[index], self.format.pauses.num_pauses
    if (num_pauses, stage) == (most, self.last_stage):
      return row
    prompt_N = row.ids_T[: row.num_prompt]
    if num_pauses != most:
      text_N = self.format.filler.text(prompt_N)
      prompt_N = self.filler(num_pauses).prompt(text_N)
    answer_N = self.format.filler.answer(self.target(index, stage))
    ids_T = np.concatenate([prompt_N, answer_N])
    return EncodedExample(ids_T, len(prompt_N), row.hint_ids)

  def max_counted(self) -> int:
    """Returns the most counted targets of an example in any stage."""
    stages, indices = self.stages, range(len(self.rows))
    return max(self.num_counted(i, s) for i in indices for s in stages)

  def sizes(self) -> np.ndarray:
    """Returns int [E, 2], counted targets and positions in the first stage.

    There, no steps are left out: positions have the most counted targets.
    """
    _, _, m, stage = self.first
    return np.array(
      [
        (self.num_counted(i, stage), self.num_positions(i, m, stage))
        for i in range(len(self.rows))
      ]
    )

  def fingerprint(self) -> dict:
    """Returns what determines M and stage of a draw, if they change."""
    if self.curriculum:
      steps = json.dumps([[*row.steps] for row in self.examples.rows])
      steps_sha256 = hashlib.sha256(steps.encode()).hexdigest()
      fields = dataclasses.asdict(self.curriculum)
      return {"curriculum": {**fields, "steps_sha256": steps_sha256}}
    return {"numbers": [*self.numbers]} if len(self.numbers) > 1 else {}

  def summary(self) -> str:
    """Returns one line with the counts, including truncated prefixes."""
    line = f"{self.name} {self.examples.summary()}"
    if len(self.numbers) > 1:
      line += f"; M drawn from {', '.join(map(str, self.numbers))}"
    if self.curriculum and self.examples.split == "train":
      line += f"; {self.curriculum}"
    cut = self.prompts
    if cut.num_cut:
      line += (
        f"; {cut.num_cut:,} prefixes lost {cut.num_cut_tokens:,} tokens on the "
        "left"
      )
    return line

  def _check_curriculum(self) -> None:
    if self.curriculum is None:
      return
    rows = self.examples.rows
    errors.require(
      self.examples.split != "train" or any(row.steps for row in rows),
      f"finetune.curriculum_steps: no example of task {self.name!r} has steps; "
      "set it to 0, or give its examples `steps` (a store that an earlier "
      "version made has none: make it again)",
    )
    errors.require(
      not (self.hints and any(row.hints for row in rows)),
      f"finetune.curriculum_steps: task {self.name!r} has hints, which are "
      "targets of the pauses; set finetune.hints=false",
    )

  def _all_targets(self) -> list[list[list[int]]]:
    """Returns the targets of each example, the last of them without steps."""
    rows = self.examples.rows
    if self.curriculum is None:
      targets = self.examples.target_ids or self.format.targets(rows)
      return [[target] for target in targets]
    counts = [range(len(row.steps) + 1) for row in rows]
    left = [
      tasks.without_steps(row, n)
      for row, numbers in zip(rows, counts, strict=True)
      for n in numbers
    ]
    made = iter(self.format.targets(left))
    return [[next(made) for _ in numbers] for numbers in counts]

  def _longest(self) -> list[int]:
    """Returns the ids of each answer, and of pauses beyond the largest M."""
    num_answer = self.format.filler.num_answer
    if self.curriculum is None:
      return [num_answer(len(targets[0])) for targets in self._targets]
    most = self.format.pauses.num_pauses
    more = {s: self.curriculum.stage_pauses(s) - most for s in self.stages}
    return [
      max(num_answer(len(self.target(i, s))) + int(n) for s, n in more.items())
      for i in range(len(self._targets))
    ]
