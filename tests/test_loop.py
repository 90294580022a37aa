"""The loop with everything around it made up: when it measures, saves, ends."""

import types

from configs import base
from pausejax import settings
from pausejax.runtime.agreement import Agreement
from pausejax.training import loop, meter
from tests.test_sharding import one_device_mesh


class Batches:
  """Batches of nothing."""

  def __next__(self):
    return {}

  def state(self):
    return {}


class Run:
  """Counts what the loop does; a state is its step, a measurement 3 batches."""

  def __init__(self, stop_in_step: int = 0, stop_in_batch: int = 0):
    self.measured: list[int] = []
    self.saved: list[tuple[int, bool]] = []
    self._flag = types.SimpleNamespace(exit_code=0, defer=lambda: None)
    self._batch = 0
    self._stop_in_step = stop_in_step
    self._stop_in_batch = stop_in_batch

  def go(self, start: int, end: int, owed: bool = False) -> int:
    """Trains between the steps, measuring at even ones; the exit code."""
    tree = base.get_config()
    tree.num_steps, tree.eval.every, tree.checkpoint.every = end, 2, 100
    agreement = Agreement(self._flag, one_device_mesh())
    loop.Loop(
      config=settings.train_config(tree.to_dict()),
      train_step=self._train_step,
      evaluate_batch=self._evaluate_batch,
      put=lambda batch: batch,
      batches=Batches(),
      evaluation=lambda: iter(range(3)),
      answer=lambda model, show: {},
      store=types.SimpleNamespace(
        save=lambda s, data, meta: self.saved.append((s.step, meta["owed"])),
        close=lambda: None,
      ),
      meta={},
      counters=meter.Counters(),
      meter=types.SimpleNamespace(
        record=lambda *args: None,
        record_evaluation=lambda step, *args: self.measured.append(step),
        restart_clock=lambda: None,
      ),
      stop=agreement,
      owed=owed,
    ).run(types.SimpleNamespace(step=start, model=None))
    return agreement.exit_code

  def _train_step(self, state, batch):
    step = state.step + 1
    if step == self._stop_in_step:
      self._flag.exit_code = 143
    return types.SimpleNamespace(step=step, model=None), {}

  def _evaluate_batch(self, model, batch):
    self._batch += 1
    if self._batch == self._stop_in_batch:
      self._flag.exit_code = 143
    return {"nll": 1.0}


def test_an_undisturbed_run_measures_and_saves_at_the_end():
  run = Run()
  assert run.go(0, 5) == 0
  assert run.measured == [2, 4, 5] and run.saved == [(5, False)]


def test_a_signal_in_a_step_saves_that_step():
  run = Run(stop_in_step=3)
  assert run.go(0, 5) == 143
  assert run.measured == [2] and run.saved == [(3, False)]


def test_a_measurement_that_is_due_when_the_run_stops_is_owed():
  run = Run(stop_in_step=2)
  assert run.go(0, 5) == 143
  assert run.measured == [] and run.saved == [(2, True)]


def test_a_measurement_cut_short_is_owed_and_not_recorded():
  run = Run(stop_in_batch=5)  # The second batch at step 4.
  assert run.go(0, 5) == 143
  assert run.measured == [2] and run.saved == [(4, True)]


def test_what_is_owed_is_measured_first():
  run = Run()
  assert run.go(4, 6, owed=True) == 0
  assert run.measured == [4, 6] and run.saved == [(6, False)]
  at_the_end = Run()
  assert at_the_end.go(6, 6, owed=True) == 0
  assert at_the_end.measured == [6] and at_the_end.saved == []


def test_what_is_owed_and_cut_short_again_is_still_owed():
  run = Run(stop_in_batch=1)
  assert run.go(4, 6, owed=True) == 143
  assert run.measured == [] and run.saved == []
