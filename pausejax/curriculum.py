"""Pauses in place of the worked steps of a target, stage by stage.

  stage 0        BOS  question | step 1  step 2  step 3  answer  EOS
  stage 1        BOS  question  <pause> x c | step 2  step 3  answer  EOS
  stage 2        BOS  question  <pause> x 2c | step 3  answer  EOS
  stage 3        BOS  question  <pause> x 2c | answer  EOS

The control "pause as thought" of Coconut (Hao et al., arXiv 2412.06769), here
with two steps, of which each becomes c pauses, and a last stage without steps.
The bar is the end of the prompt: the loss is on what follows.

N draws of examples.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from pausejax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum:
  """Stages of a finetuning in which pauses replace worked steps.

  In stage s = 0 .. S the target lacks its first s steps, and the prompt has
  s M / S pauses, also where an example has fewer steps. In the last stage,
  S + 1, the target has no steps, and the prompt M pauses.

  Attributes:
    steps: S, at least 1.
    num_pauses: M, a multiple of S; with 0, nothing replaces the steps.
    epochs: epochs of every stage but the last; with 0, all of training is the
      last stage.

  Raises:
    UsageError: M is not a multiple of S.
  """

  steps: int
  num_pauses: int
  epochs: float

  def __post_init__(self):
    errors.require(
      self.num_pauses % self.steps == 0,
      f"finetune.curriculum_steps {self.steps} does not divide the number of "
      f"pauses, {self.num_pauses}; set finetune.num_pauses to a multiple of it",
    )

  @property
  def last_stage(self) -> int:
    """The stage without steps."""
    return self.steps + 1

  def stages(self, draws_N: np.ndarray, num_examples: int) -> np.ndarray:
    """Returns int64 [N], the stage of each draw.

    Args:
      draws_N: int [N], the draws of a task, numbered over the whole run.
      num_examples: draws in an epoch.
    """
    if not self.epochs:
      return np.full(len(draws_N), self.last_stage)
    per_stage = math.ceil(self.epochs * num_examples)
    return np.minimum(draws_N // per_stage, self.last_stage)

  def stage_pauses(self, stages: Any) -> Any:
    """Returns the number of pauses in stages, an int or an array."""
    return np.minimum(stages, self.steps) * (self.num_pauses // self.steps)

  def num_replaced(self, stage: int, num_steps: int) -> int:
    """Returns how many of the `num_steps` steps of an example are left out."""
    return num_steps if stage > self.steps else min(stage, num_steps)

  def __str__(self) -> str:
    numbers = map(str, self.stage_pauses(np.arange(self.steps + 2)))
    if not self.epochs:
      return "no worked steps"
    return (
      f"worked steps replaced in stages of {self.epochs:g} epoch(s), M = "
      f"{', '.join(numbers)}"
    )
