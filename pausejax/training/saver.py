"""Saves a run, unless it diverged.

Skipped steps change no parameter, so a checkpoint from a series of them has the
same parameters as the one before the series. When a run diverges, the later
checkpoints are set aside: the same command then resumes from the last one
before the series, with other settings if given.
"""

import dataclasses
import math
from typing import Any

from pausejax import errors, train_state
from pausejax.checkpoints.store import Store
from pausejax.config import OptimConfig
from pausejax.runtime.goodput import Goodput
from pausejax.train_state import TrainState
from pausejax.training.meter import Counters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saver:
  """Saves the states of a run.

  Attributes:
    store: the run's checkpoints.
    batches: the training batches, whose position is saved.
    meta: fields of every checkpoint's meta.json that describe the run.
    optim: the limit on skipped steps, and the learning rate for messages.
    goodput: the time of the run so far.
  """

  store: Store
  batches: Any
  meta: dict[str, Any]
  optim: OptimConfig
  goodput: Goodput

  def save(
    self,
    state: TrainState,
    counters: Counters,
    answers: dict[str, float] | None,
  ) -> None:
    """Saves; all processes call this together.

    Args:
      state: the state after a step.
      counters: counts of the run up to this step.
      answers: metrics of the answers; None if the evaluation was interrupted,
        so that the resumed run repeats it.

    Raises:
      Diverged: the parameters are not finite.
    """
    norm = float(train_state.parameter_norm(state.model))
    if not math.isfinite(norm):
      raise self._diverged(
        f"the norm of the parameters after step {state.step} is {norm}; they "
        "were not saved",
        int(state.step),
      )
    progress = {
      "counters": dataclasses.asdict(counters),
      "answers": answers or {},
      "owed": answers is None,
      "time": self.goodput.state(),
    }
    self.store.save(
      state,
      data=self.batches.state(),
      meta={**self.meta, **progress},
      num_skipped=counters.skipped_in_a_row,
    )

  def require_finite_steps(self, step: int, counters: Counters) -> None:
    """Raises Diverged if too many steps up to this one were skipped."""
    count = counters.skipped_in_a_row
    if 0 < self.optim.max_skipped_in_a_row <= count:
      raise self._diverged(
        f"{count} steps in a row ({step - count + 1} to {step}) had a loss or "
        "gradient that is not finite and were skipped (the limit is "
        "optim.max_skipped_in_a_row)",
        step - count,
      )

  def close(self) -> None:
    """Waits for the last save and closes the store."""
    self.store.close()

  def _diverged(self, what: str, last_good: int) -> errors.Diverged:
    """Moves later checkpoints to `set_aside` and returns the error to raise.

    Args:
      what: the reason, as the start of the message.
      last_good: the last step that was not skipped.
    """
    step, moved = self.store.set_aside_after(last_good)
    lower = (
      f"with a lower optim.learning_rate (now {self.optim.learning_rate:g})"
    )
    if step is None:
      advice = f"no step was saved before that; start again {lower}"
    else:
      advice = (
        f"the last step saved before that is {step}; start the same command "
        f"{lower} to resume from step {step}"
      )
    if moved:
      steps = ", ".join(map(str, moved))
      advice += f" (later checkpoints, {steps}, were moved to set_aside)"
    return errors.Diverged(f"training diverged: {what}; {advice}")
