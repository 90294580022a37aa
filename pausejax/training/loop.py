"""The training loop.

The metrics of a step are read after the next step is dispatched, so the device
never waits for Python, and at most two steps are in flight. On a CPU whose heap
is kept (`runtime/heap.py`), a step is over when its dispatch returns, and its
metrics are read at once, so that they have its own time.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from pausejax import sharding
from pausejax.config import TrainConfig
from pausejax.model.decoder import Decoder
from pausejax.runtime import heap, phases
from pausejax.runtime.agreement import Agreement
from pausejax.runtime.goodput import Goodput
from pausejax.train_state import TrainState
from pausejax.training import resume
from pausejax.training.exports import Exports
from pausejax.training.held_out import HeldOut
from pausejax.training.meter import Meter
from pausejax.training.profiling import Profiler
from pausejax.training.saver import Saver


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """The arguments of the loop; `programs/train_setup.py` builds them.

  Attributes:
    config: when to log, evaluate, save and stop.
    train_step: `training.step.train_step`, jitted for the run.
    state: the state to start from.
    evaluation_due: whether that state is still to be evaluated.
    batches: the training batches of this process.
    held_out: evaluates a model.
    saver: writes checkpoints.
    meter: writes metrics.
    goodput: adds up where the time goes.
    profiler: traces steps.
    cache: the folder of compiled programs, "" if there is none.
    stop: whether all processes have agreed to stop.
    exports: writes exports; None: there are none.
  """

  config: TrainConfig
  train_step: Callable[..., Any]  # (state, batch) -> (state, metrics)
  state: TrainState
  evaluation_due: bool
  batches: Any
  held_out: HeldOut
  saver: Saver
  meter: Meter
  goodput: Goodput
  profiler: Profiler
  cache: str
  stop: Agreement
  exports: Exports | None = None


def train_loop(run: Run) -> TrainState:
  """Trains from the run's state to its last step; returns the final state.

  Raises:
    Diverged: the parameters are not finite, or too many consecutive steps.
  """
  c, state, pending = run.config, run.state, None
  is_synchronous = heap.is_step_synchronous()
  start, end = int(state.step), resume.last_step(c)
  run.saver.require_finite_steps(start, run.meter.counters)
  run.goodput.begin_steps()
  _export_missing(run, state, start)
  if run.evaluation_due and _evaluate(run, state) is None:
    end = start
  for step in range(start + 1, end + 1):
    phases.enter("stepping", step)
    with run.profiler.step(step, state):
      batch, data_wait = _next_batch(run)
      is_compiled = step > start + 1 and not _has_new_size(c, step)
      with phases.phase("stepping" if is_compiled else "compiling"):
        state, metrics = run.train_step(state, batch)
    with phases.phase("profiling"):
      run.profiler.end_step(step, state)
    if step == start + 1:  # The step is compiled: from now on a signal saves.
      run.stop.flag.defer()
      print(run.goodput.compilation(run.cache), flush=True)
    if pending is not None:
      _record(run, *pending)
    pending = (step, metrics, data_wait)

    stops = bool(run.stop.ask())
    leaves = stops or step == end
    exports = run.exports if run.exports and run.exports.is_due(step) else None
    evaluates = step == c.num_steps or _divides(c.eval.every, step)
    saves = leaves or bool(exports) or _is_save_due(c, step, evaluates)
    answers = {}
    if saves or evaluates or is_synchronous:
      _record(run, *pending)
      pending = None
    if evaluates:
      answers = _evaluate(run, state)
    leaves = leaves or answers is None
    if saves or leaves:
      _save(run, state, answers, exports, stops)
    if leaves:
      break
  phases.enter("ending")
  with run.goodput.measure("saving"):
    run.saver.close()
  return state


def _export_missing(run: Run, state: TrainState, step: int) -> None:
  """Exports the step that the run starts from, if a kill prevented it."""
  if run.exports and run.exports.is_missing(step):
    with run.goodput.measure("saving"):
      run.exports.write(_evaluated(run, state), step, {})
    run.meter.restart_clock()


def _has_new_size(config: TrainConfig, step: int) -> bool:
  """Returns whether a step, from 1, has another batch size than the last."""
  rows = config.batch_sizes.rows
  return rows(step - 1) != rows(step - 2)


def _is_save_due(config: TrainConfig, step: int, evaluates: bool) -> bool:
  """Returns whether a step is saved by its number or for its evaluation."""
  is_candidate = evaluates and config.checkpoint.keep_best > 0
  return is_candidate or step % config.checkpoint.every == 0


def _next_batch(run: Run) -> tuple[Any, float]:
  """Returns a batch on the devices, and the seconds that it took to come."""
  began = time.perf_counter()
  with phases.phase(phases.DATA):
    batch = next(run.batches)
  data_wait = time.perf_counter() - began
  run.goodput.add_wait(data_wait)
  return sharding.put_batch(batch), data_wait


def _save(
  run: Run,
  state: TrainState,
  answers: dict[str, float] | None,
  exports: Exports | None,
  stops: bool,
) -> None:
  """Writes a checkpoint, and an export if one is due."""
  step = int(state.step)
  with run.goodput.measure("saving"):
    if exports:
      exports.discard(step)
    run.saver.save(state, run.meter.counters, answers)
    # A run that stops leaves the export to the one that resumes.
    if exports and not stops and answers is not None:
      exports.write(_evaluated(run, state), step, answers)
    heap.return_freed_memory()
  run.meter.restart_clock()


def _record(run: Run, step: int, metrics: dict, data_wait: float) -> None:
  """Writes the metrics of a step; an error is raised in all processes."""
  run.meter.exclude(run.profiler.seconds)
  run.meter.record(step, metrics, data_wait)
  run.saver.require_finite_steps(step, run.meter.counters)


def _evaluate(run: Run, state: TrainState) -> dict[str, float] | None:
  """Records the held-out loss and answers; None if a signal interrupted it."""

  def check(*_) -> None:  # Called in all processes after the same batch.
    phases.advance()
    if run.stop.ask():
      raise _Interrupted

  try:
    with run.goodput.measure("evaluating"):
      evaluation = run.held_out.evaluate(_evaluated(run, state), check)
  except _Interrupted:
    return None
  run.meter.record_evaluation(int(state.step), evaluation)
  return evaluation.answers


def _evaluated(run: Run, state: TrainState) -> Decoder:
  """Returns the parameters that are evaluated and exported."""
  return state.parameters(average=run.config.eval.average)


class _Interrupted(Exception):
  """The run stops during an evaluation."""


def _divides(every: int, step: int) -> bool:
  return every > 0 and step % every == 0
