"""The loop with everything around it made up: when it measures, saves, ends."""

import inspect
import pathlib
import time
import types

import jax
import jax.numpy as jnp
import pytest

from pausejax import errors
from pausejax.config import default, train_config
from pausejax.programs import train
from pausejax.runtime.agreement import Agreement
from pausejax.runtime.compilation import CompileWatch
from pausejax.runtime.goodput import Goodput
from pausejax.training import held_out, loop, meter, profiling, saver
from tests.test_sharding import one_device_mesh


class Batches:
  """Empty batches."""

  def __next__(self):
    return {}

  def state(self):
    return {}


class Run:
  """Counts what the loop does; a state is its step, a measurement 3 batches."""

  def __init__(
    self,
    stop_in_step: int = 0,
    stop_in_batch: int = 0,
    skipped: tuple[int, ...] = (),
    norm: float = 1.0,
    **optim: int,
  ):
    self.measured: list[int] = []
    self.saved: list[tuple[int, bool]] = []
    self.series: list[int] = []
    self.asked: list[int] = []
    self.counters = meter.Counters()
    self._flag = types.SimpleNamespace(exit_code=0, defer=lambda: None)
    self._batch = 0
    self._stop_in_step = stop_in_step
    self._stop_in_batch = stop_in_batch
    self._skipped = skipped
    self._norm = jnp.full((2,), norm)
    self._optim = optim

  def go(
    self, start: int, end: int, evaluation_due: bool = False, every: int = 100
  ) -> int:
    """Trains between the steps, measuring at even ones; the exit code."""
    tree = default()
    tree.num_steps, tree.eval.every, tree.checkpoint.every = end, 2, every
    tree.optim.update(self._optim)
    config = train_config(tree.to_dict())
    mesh = one_device_mesh()
    with jax.set_mesh(mesh):
      agreement = Agreement(self._flag)
    goodput = Goodput(time.time(), CompileWatch())
    run = loop.Run(
      config=config,
      train_step=self._train_step,
      state=self._state(start),
      evaluation_due=evaluation_due,
      batches=Batches(),
      held_out=held_out.HeldOut(
        evaluate_batch=self._evaluate_batch,
        batches=lambda: iter([{}] * 3),
        plain_batches=None,
        answer=lambda model, show: {},
        sample=lambda model: [],
      ),
      saver=saver.Saver(
        store=types.SimpleNamespace(
          save=self._save,
          close=lambda: None,
          set_aside_after=self._set_aside_after,
        ),
        batches=Batches(),
        meta={},
        optim=config.optim,
        goodput=goodput,
      ),
      meter=types.SimpleNamespace(
        counters=self.counters,
        record=self._record,
        record_evaluation=lambda step, found: self.measured.append(step),
        restart_clock=lambda: None,
        exclude=lambda seconds: None,
      ),
      stop=agreement,
      goodput=goodput,
      profiler=profiling.Profiler(pathlib.Path(), config.profile),
      cache="",
    )
    with jax.set_mesh(mesh):
      loop.train_loop(run)
    return agreement.exit_code

  def _save(self, state, data, meta, num_skipped):
    self.saved.append((state.step, meta["owed"]))
    self.series.append(meta["counters"]["skipped_in_a_row"])
    assert num_skipped == self.series[-1]

  def _set_aside_after(self, step):
    self.asked.append(step)
    steps = [s for s, _ in self.saved]
    return max((s for s in steps if s <= step), default=None), []

  def _record(self, step, *args):
    counters = self.counters
    counters.skipped_in_a_row += 1
    if step not in self._skipped:
      counters.skipped_in_a_row = 0

  def _train_step(self, state, batch):
    step = state.step + 1
    if step == self._stop_in_step:
      self._flag.exit_code = 143
    return self._state(step), {}

  def _state(self, step):
    return types.SimpleNamespace(
      step=step, model=self._norm, parameters=lambda average: self._norm
    )

  def _evaluate_batch(self, model, batch):
    self._batch += 1
    if self._batch == self._stop_in_batch:
      self._flag.exit_code = 143
    return {"nll": 1.0}


def test_an_uninterrupted_run_evaluates_and_saves_at_the_end():
  run = Run()
  assert run.go(0, 5) == 0
  assert run.measured == [2, 4, 5] and run.saved == [(5, False)]


def test_a_signal_during_a_step_saves_that_step():
  run = Run(stop_in_step=3)
  assert run.go(0, 5) == 143
  assert run.measured == [2] and run.saved == [(3, False)]


def test_an_evaluation_due_when_the_run_stops_is_pending():
  run = Run(stop_in_step=2)
  assert run.go(0, 5) == 143
  assert run.measured == [] and run.saved == [(2, True)]


def test_an_interrupted_evaluation_is_pending_and_not_recorded():
  run = Run(stop_in_batch=5)  # The second batch at step 4.
  assert run.go(0, 5) == 143
  assert run.measured == [2] and run.saved == [(4, True)]


def test_a_pending_evaluation_runs_first():
  run = Run()
  assert run.go(4, 6, evaluation_due=True) == 0
  assert run.measured == [4, 6] and run.saved == [(6, False)]
  at_the_end = Run()
  assert at_the_end.go(6, 6, evaluation_due=True) == 0
  assert at_the_end.measured == [6] and at_the_end.saved == []


def test_a_pending_evaluation_interrupted_again_stays_pending():
  run = Run(stop_in_batch=1)
  assert run.go(4, 6, evaluation_due=True) == 143
  assert run.measured == [] and run.saved == []


def test_skipped_steps_in_a_row_stop_the_run_and_name_the_last_good_step():
  run = Run(skipped=tuple(range(8, 40)), max_skipped_in_a_row=5)
  with pytest.raises(errors.Diverged) as e:
    run.go(0, 40, every=3)
  assert "5 steps in a row (8 to 12)" in e.value.message
  assert "to resume from step 6" in e.value.message
  assert "learning_rate" in e.value.message and e.value.exit_code == 4
  assert run.asked == [7] and run.series == [0, 0, 2]


def test_the_count_survives_a_resume_in_the_middle_of_a_series():
  first = Run(skipped=(4, 5, 6), stop_in_step=6, max_skipped_in_a_row=5)
  assert first.go(0, 40) == 143 and first.series == [3]
  second = Run(skipped=tuple(range(7, 40)), max_skipped_in_a_row=5)
  second.counters.skipped_in_a_row = 3
  with pytest.raises(errors.Diverged, match=r"\(4 to 8\)"):
    second.go(6, 40)
  # A limit that has been lowered is met before the first step.
  third = Run(max_skipped_in_a_row=2)
  third.counters.skipped_in_a_row = 3
  with pytest.raises(errors.Diverged, match=r"\(4 to 6\)"):
    third.go(6, 40)
  assert third.measured == [] and third.saved == []


@pytest.mark.parametrize("limit", [0, 5])
def test_shorter_series_or_no_limit_do_not_stop_the_run(limit):
  skipped = tuple(s for s in range(1, 41) if s % 5)
  run = Run(
    skipped=skipped if limit else tuple(range(1, 41)),
    max_skipped_in_a_row=limit,
  )
  assert run.go(0, 40) == 0 and run.saved == [(40, False)]


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("limit", [0, 5])
def test_parameters_that_are_not_finite_are_never_saved(norm, limit):
  # 1e30 is finite, but the square of such a norm is not.
  run = Run(norm=norm, max_skipped_in_a_row=limit)
  with pytest.raises(errors.Diverged, match="parameters after step 3"):
    run.go(0, 40, every=3)
  assert run.saved == []


def make_meter(counters, goodput) -> meter.Meter:
  screen = types.SimpleNamespace(
    update=lambda *args: None, print=lambda line: None
  )
  return meter.Meter(
    None,
    screen,
    counters,
    every=100,
    trims=False,
    unigram_entropy=None,
    flops_per_token=1.0,
    full_flops_per_token=1.5,
    peak_flops=None,
    goodput=goodput,
  )


def test_the_meter_counts_skipped_steps_in_a_row():
  counters = meter.Counters()
  real = make_meter(counters, Goodput(time.time(), CompileWatch()))
  found = []
  for step, skipped in enumerate([0, 1, 1, 0, 1], start=1):
    metrics = {"num_tokens": 8.0, "num_pauses": 0.0, "loss": float("nan")}
    real.record(step, {**metrics, "skipped": float(skipped)}, 0.0)
    found.append(counters.skipped_in_a_row)
  assert found == [0, 1, 2, 0, 1]


def test_compilations_and_traces_are_not_in_the_average_speed(monkeypatch):
  now, timed = [0.0], []
  monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])

  def add_step(seconds: float) -> bool:
    timed.append(seconds)
    return len(timed) in (1, 3)  # Those are compiled.

  goodput = types.SimpleNamespace(
    add_step=add_step, line=lambda: "", row=lambda: {}
  )
  real = make_meter(meter.Counters(), goodput)
  metrics = {"num_tokens": 8.0, "num_pauses": 0.0, "loss": 1.0, "skipped": 0.0}
  # (seconds of a step, all that the profiler has taken until then).
  for seconds, taken in [(9, 0), (2, 0), (7, 0), (5, 3), (2, 3)]:
    now[0] += seconds
    real.exclude(taken)
    real.record(len(timed) + 1, metrics, 0.0)
  assert timed == [9, 2, 7, 2, 2]
  speed = 3 * 8 / (2 + 2 + 2)
  line = f"{speed:,.0f} tokens/s on average over 3 steps, without compilation"
  assert line in real.summary()[0]


def test_the_program_reaches_the_jitted_step_in_two_calls():
  callers = []

  class Recording(Run):
    def _train_step(self, state, batch):
      frame = inspect.currentframe().f_back
      callers.append(frame.f_code)
      return super()._train_step(state, batch)

  Recording().go(0, 1)
  assert callers == [loop.train_loop.__code__]
  assert "loop.train_loop(run)" in inspect.getsource(train.main)
