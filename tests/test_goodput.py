"""Where the time of a run went, over its starts; memory of devices."""

import types

import pytest

from pausejax.config import default
from pausejax.runtime import compilation, goodput, run_folder, stops
from pausejax.runtime.device_memory import memory_row
from pausejax.runtime.goodput import Goodput
from pausejax.runtime.metric_writer import MetricWriter


class Clock:
  """A clock that the test moves."""

  def __init__(self, monkeypatch):
    self.now = 1000.0
    fake = types.SimpleNamespace(
      time=lambda: self.now, perf_counter=lambda: self.now
    )
    monkeypatch.setattr(goodput, "time", fake)


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


def test_every_second_of_an_undisturbed_run_is_of_one_kind(clock):
  watch = compilation.CompileWatch()
  found = Goodput(clock.now, watch)
  clock.now += 4
  with found.measure("restoring"):
    clock.now += 3
  watch.seconds += 1  # Compiled in the four seconds.
  found.begin_steps()
  clock.now += 20
  watch.seconds += 15
  found.add_wait(1)
  found.add_step(20)
  with found.measure("evaluating"):
    clock.now += 5
    watch.seconds += 2
  with found.measure("saving"):
    clock.now += 6
  assert {k: s for k, s in found.seconds_by_kind().items() if s} == {
    "starting_seconds": 3,
    "restoring_seconds": 3,
    "compiling_seconds": 18,
    "stepping_seconds": 4,
    "waiting_seconds": 1,
    "evaluating_seconds": 3,
    "saving_seconds": 6,
  }
  assert found.row() == {
    "wall_seconds": 38,
    "goodput": 4 / 38,
    "lost_steps": 0,
  }


def test_a_wait_counts_once_in_the_step_that_it_delayed(clock):
  found = Goodput(clock.now, compilation.CompileWatch())
  began = clock.now
  # The batch of a step is awaited before the step before it is recorded.
  for wait in (0, 5, 0, 0, 5, 0):
    clock.now += wait
    found.add_wait(wait)
    clock.now += 1
    found.add_step(wait + 1)
  seconds = found.seconds_by_kind()
  assert (seconds["stepping_seconds"], seconds["waiting_seconds"]) == (6, 10)
  assert sum(seconds.values()) == clock.now - began == 16


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_stop_is_time_of_no_other_kind(clock, monkeypatch, is_waiting):
  stopped = 7.0  # By an earlier run of this process.
  monkeypatch.setattr(stops, "seconds", lambda: stopped)
  found = Goodput(clock.now, compilation.CompileWatch())
  found.begin_steps()
  for stop in (0, 60, 0):
    clock.now += 3 + stop
    stopped += stop
    found.add_wait(1 + (stop if is_waiting else 0))
    found.add_step(3 + stop)
  with found.measure("saving"):
    clock.now += 100
    stopped += 95
  assert {k: s for k, s in found.seconds_by_kind().items() if s} == {
    "stepping_seconds": 6,
    "waiting_seconds": 3,
    "saving_seconds": 5,
    "stopped_seconds": 155,
  }


def test_a_stop_of_short_steps_takes_nothing_from_other_kinds(
  clock, monkeypatch
):
  stopped = 0.0
  monkeypatch.setattr(stops, "seconds", lambda: stopped)
  found = Goodput(clock.now, compilation.CompileWatch())
  found.begin_steps()
  for i in range(20):
    stop = 60.0 if i == 7 else 0.0
    clock.now += 0.02 + stop
    stopped += 1.007 * stop  # From report to report.
    found.add_step(0.02 + stop)
  with found.measure("saving"):
    clock.now += 5.2
    stopped += 5.4
  seconds = found.seconds_by_kind()
  assert seconds["stepping_seconds"] == pytest.approx(19 * 0.02)
  assert seconds["saving_seconds"] == seconds["waiting_seconds"] == 0


def test_a_stop_while_it_compiles_counts_once(clock, monkeypatch):
  stopped, watch = 0.0, compilation.CompileWatch()
  monkeypatch.setattr(stops, "seconds", lambda: stopped)
  found = Goodput(clock.now, watch)
  began = clock.now
  clock.now, watch.seconds, stopped = clock.now + 30, 25.0, 20.0
  found.begin_steps()
  clock.now, watch.seconds, stopped = clock.now + 50, 70.0, 60.0
  found.add_step(50)
  with found.measure("evaluating"):
    clock.now, watch.seconds, stopped = clock.now + 9, 78.0, 67.0
  assert {k: s for k, s in found.seconds_by_kind().items() if s} == {
    "starting_seconds": 5,
    "compiling_seconds": 5 + 5 + 1,
    "stepping_seconds": 5,
    "evaluating_seconds": 1,
    "stopped_seconds": 67,
  }
  assert sum(found.seconds_by_kind().values()) == clock.now - began


def test_a_stop_is_a_long_time_without_a_processor(monkeypatch):
  now, cpu = 50.0, 4.0
  fake = types.SimpleNamespace(monotonic=lambda: now, process_time=lambda: cpu)
  monkeypatch.setattr(stops, "time", fake)
  monkeypatch.setattr(stops, "_last", stops._Report())
  assert stops.seconds() == 0  # No report yet.
  for elapsed, used, is_stop in (
    (0.5, 0.0, False),
    (1.75, 0.0, False),  # The thread was late.
    (30.0, 0.125, True),
    (30.0, 20.0, False),  # C code computed, and no other thread ran.
    (2.0, 0.0, True),
  ):
    before = stops.seconds()
    stops.report_running()
    now, cpu = now + elapsed, cpu + used
    # Before the next report, and after it.
    assert stops.seconds() == before + elapsed * is_stop
    stops.report_running()
    assert stops.seconds() == before + elapsed * is_stop
  stops.end_reports()
  now += 100
  assert stops.seconds() == 32


def test_a_run_of_an_older_version_began_with_its_first_recorded_second(clock):
  first = Goodput(clock.now, compilation.CompileWatch())
  first.add_step(100)
  clock.now += 100
  saved = first.state()
  again = Goodput(clock.now, compilation.CompileWatch())
  again.resume(None, saved)  # The history does not say when it began.
  clock.now += 100
  assert again.row()["wall_seconds"] == 200
  assert again.row()["goodput"] == 0.5


def test_what_follows_the_checkpoint_of_a_killed_run_is_lost(clock):
  first = Goodput(clock.now, compilation.CompileWatch())
  first.add_step(10)
  clock.now += 10
  saved = first.state()
  first.add_step(7)  # Killed before the next checkpoint.
  clock.now += 7 + 60  # Nothing runs for a minute.
  again = Goodput(clock.now, compilation.CompileWatch())
  again.resume(1000.0, saved)
  again.add_step(23)
  clock.now += 23
  assert again.seconds_by_kind()["lost_seconds"] == 67
  assert again.row()["goodput"] == 33 / 100
  again.lost_steps = 7
  assert again.line() == (
    "goodput 33.0% of 100.0 s since the first start: stepping 33.0 s, lost "
    "67.0 s (7 steps computed again)"
  )


def test_a_run_that_was_killed_before_its_first_checkpoint_lost_everything(
  clock,
):
  found = Goodput(clock.now, compilation.CompileWatch())
  found.resume(900.0, None)
  assert found.seconds_by_kind()["lost_seconds"] == 100
  # A run of a version that did not record its first start.
  found = Goodput(clock.now, compilation.CompileWatch())
  found.resume(None, None)
  clock.now += 1
  assert found.row()["wall_seconds"] == 1
  assert not any(found.seconds_by_kind().values())


def test_steps_lost_in_several_attempts_without_a_checkpoint_add_up(tmp_path):
  def attempt(steps, before=0):
    writer = MetricWriter(tmp_path, 10)
    lost = writer.num_lost_steps(before)
    for step in steps:
      writer.write(step, {"loss": 1.0, "lost_steps": lost})
    writer.write(steps[-1], {"eval_loss": 1.0})
    writer.close()
    return lost

  assert [attempt(s) for s in ([11, 12], [11], [11], [11])] == [0, 2, 3, 4]
  # A checkpoint of step 10 that an older attempt made knows of 3.
  assert attempt([11], before=3) == 5


def test_the_first_start_of_a_run_is_recorded(tmp_path):
  assert run_folder.History(tmp_path).first_start() is None
  config = default().to_dict()
  run_folder.History(tmp_path).add(0, config, 1234.5)
  run_folder.History(tmp_path).add(7, {**config, "seed": 1}, 5678.0)
  assert run_folder.History(tmp_path).first_start() == 1234.5


def test_compilation_inside_compilation_counts_once():
  watch = compilation.CompileWatch()
  event = "/jax/core/compile/jaxpr_trace_duration"
  for start, end in ((90.0, 92.0), (101.0, 102.0), (104.0, 105.0)):
    watch._on_span(event, start, end)
  watch._on_span(event, 100.0, 120.0)  # Of which the last two are a part.
  watch._on_span("/jax/checkpoint/write/durations_sec", 120.0, 129.0)
  assert watch.seconds == 22.0


def test_memory_is_that_of_the_fullest_device_and_absent_on_cpus():
  assert memory_row() == {}
  devices = [
    types.SimpleNamespace(memory_stats=lambda stats=stats: stats)
    for stats in (
      {"bytes_in_use": 5, "peak_bytes_in_use": 9, "bytes_limit": 99},
      {"bytes_in_use": 7, "peak_bytes_in_use": 8, "bytes_limit": 99},
    )
  ]
  assert memory_row(devices) == {
    "device_memory_bytes": 7,
    "device_memory_peak_bytes": 9,
  }
