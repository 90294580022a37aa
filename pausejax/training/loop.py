"""The training loop: one screen, and nothing hides in it.

The metrics of a step are read after the next step is dispatched: the device
never waits for Python, and no more than two steps are ever in flight.
"""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pausejax import errors
from pausejax import train_state as state_
from pausejax.checkpoints.store import Store
from pausejax.config import TrainConfig
from pausejax.data.batch import Batch
from pausejax.runtime.agreement import Agreement
from pausejax.train_state import TrainState
from pausejax.training import divergence
from pausejax.training.meter import Counters, Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """What a run is made of; the program puts it together.

  Attributes:
    config: when to log, evaluate, save and stop.
    train_step: jitted (state, device batch) -> (state, metrics).
    evaluate_batch: jitted (model, device batch) -> sums.
    put: host batch -> device batch.
    batches: the training batches, `data.pretraining.source.Batches`.
    evaluation: makes the held-out batches anew.
    plain_evaluation: the same without pauses: `evaluation` itself where there
      are none, None in finetuning.
    answer: (model, called between batches) -> metrics of its answers to
      held-out examples, in percent; "score" chooses the best checkpoint. Empty
      where nothing is answered.
    store: where checkpoints go.
    meta: what every checkpoint's meta.json says of the run.
    counters: tokens seen so far.
    meter: writes metrics and counts tokens.
    stop: what all processes make of SIGTERM and Ctrl-C.
    owed: a held-out measurement that was cut short at the state's step.
  """

  config: TrainConfig
  train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  evaluate_batch: Callable[..., dict[str, jax.Array]]
  put: Callable[[Batch], dict[str, jax.Array]]
  batches: Any
  evaluation: Callable[[], Iterator[Batch]]
  plain_evaluation: Callable[[], Iterator[Batch]] | None
  answer: Callable[[Any, Callable[..., None]], dict[str, float]]
  store: Store
  meta: dict[str, Any]
  counters: Counters
  meter: Meter
  stop: Agreement
  owed: bool

  def run(self, state: TrainState) -> TrainState:
    """Trains from the state's step to the end and returns the last state."""
    try:
      return self._steps(state)
    except errors.UserError:
      # What was begun is on disk before the other processes hear of it.
      self.store.wait()
      raise

  def _steps(self, state: TrainState) -> TrainState:
    c = self.config
    end = min(c.num_steps, c.stop_at_step or c.num_steps)
    pending = None
    start = int(state.step)
    self._require_finite_steps(start)
    if self.owed and self._measure(state) is None:
      end = 0
    for step in range(start + 1, end + 1):
      began = time.perf_counter()
      batch = next(self.batches)
      data_wait = time.perf_counter() - began
      state, metrics = self.train_step(state, self.put(batch))
      if step == start + 1:  # It is compiled: from here on a signal saves.
        self.stop.flag.defer()
      if pending is not None:
        self._record(*pending)
      pending = (step, metrics, data_wait)

      leaves = bool(self.stop.ask()) or step == end
      evaluates = step == c.num_steps or _divides(c.eval.every, step)
      saves = leaves or step % c.checkpoint.every == 0
      saves = saves or (evaluates and c.checkpoint.keep_best > 0)
      answers = {}
      if saves or evaluates:
        self._record(*pending)
        pending = None
      if evaluates:
        answers = self._measure(state)
      leaves = leaves or answers is None
      if saves or leaves:
        self._save(state, answers)
      if leaves:
        break
    self.store.close()
    return state

  def _record(self, step: int, metrics: dict, data_wait: float) -> None:
    self.meter.record(step, metrics, data_wait)
    self._require_finite_steps(step)

  def _require_finite_steps(self, step: int) -> None:
    """Raises Diverged if too many steps up to this one were skipped.

    The metrics are the same in every process, so all of them raise.
    """
    count = self.counters.skipped_in_a_row
    if 0 < self.config.optim.max_skipped_in_a_row <= count:
      raise divergence.error(
        f"{count} steps in a row ({step - count + 1} to {step}) had a loss or "
        "gradient that is not finite and were skipped (the limit is "
        "optim.max_skipped_in_a_row)",
        self.store,
        step - count,
        self.config.optim.learning_rate,
      )

  def _measure(self, state: TrainState) -> dict[str, float] | None:
    """Records the held-out loss and answers; None if it was cut short."""
    try:
      self._check()
      answers = self.answer(state.model, self._check)
      sums = self._evaluate(state, self.evaluation)
      plain_sums = None
      if self.plain_evaluation is self.evaluation:
        plain_sums = sums
      elif self.plain_evaluation is not None:
        plain_sums = self._evaluate(state, self.plain_evaluation)
    except _CutShort:
      return None
    self.meter.record_evaluation(int(state.step), sums, plain_sums, answers)
    return answers

  def _evaluate(
    self, state: TrainState, evaluation: Callable[[], Iterator[Batch]]
  ) -> dict[str, float]:
    """Returns the sums over all held-out batches."""
    total: dict[str, float] = collections.defaultdict(float)
    for batch in evaluation():
      sums = self.evaluate_batch(state.model, self.put(batch))
      for name, value in jax.device_get(sums).items():
        total[name] += float(value)
      self._check()
    return dict(total)

  def _check(self, *_) -> None:
    """Cuts a measurement short, in all processes behind the same batch."""
    if self.stop.ask():
      raise _CutShort

  def _save(self, state: TrainState, answers: dict[str, float] | None) -> None:
    """Saves; a resumed run measures what was not measured here.

    Raises:
      Diverged: the parameters are not finite, so no later step can be.
    """
    norm = float(state_.parameter_norm(state.model))
    if not math.isfinite(norm):
      raise divergence.error(
        f"the norm of the parameters after step {state.step} is {norm}; they "
        "were not saved",
        self.store,
        int(state.step),
        self.config.optim.learning_rate,
      )
    found = {
      "counters": dataclasses.asdict(self.counters),
      "answers": answers or {},
      "owed": answers is None,
    }
    meta = {**self.meta, **found}
    self.store.save(
      state,
      data=self.batches.state(),
      meta=meta,
      num_skipped=self.counters.skipped_in_a_row,
    )
    self.meter.restart_clock()


class _CutShort(Exception):
  """The run is to stop in the middle of a measurement."""


def _divides(every: int, step: int) -> bool:
  return every > 0 and step % every == 0
