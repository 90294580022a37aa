"""The benchmark on a GPU: its trials, parts and batch sizes."""

import argparse
import dataclasses

import pytest

from benchmarks import gpu, gpu_parts, trials
from tests import test_benchmarks
from tests.test_benchmarks import TOY, QuickTrainer

no_torch, one_device = test_benchmarks.no_torch, test_benchmarks.one_device


@pytest.fixture
def session(tmp_path):
  path = tmp_path / "gpu.json"
  trials.write(path, {"rows": []})
  return trials.Session(path, "a part", seconds=60)


def test_a_trial_that_fails_is_a_row_and_the_next_one_follows(session):
  def fails():
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

  assert session.trial("too large", fails) is None
  assert session.trial("fits", lambda: {"tokens_per_s": 2.0})
  failed, fine = session.rows()
  assert failed["failed"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
  assert (fine["part"], fine["tokens_per_s"]) == ("a part", 2.0)
  gpu.print_rows(session.rows())


def test_no_trial_starts_after_the_time_limit(session, tmp_path):
  late = trials.Session(tmp_path / "gpu.json", "late", seconds=-1)
  with pytest.raises(trials.OutOfTime):
    late.trial("never", lambda: {})
  assert session.rows() == []


def test_batches_grow_until_one_fails_or_is_slower():
  speeds = {1: 10.0, 2: 20.0, 4: 15.0, 8: 99.0}
  row = lambda b: {"tokens_per_s": speeds[b]}
  assert [b for b, _ in gpu_parts._climb((1, 2, 4, 8), row)] == [1, 2, 4]
  fails = lambda b: row(b) if b < 2 else None
  assert [b for b, _ in gpu_parts._climb((1, 2, 4), fails)] == [1]


def test_trials_that_were_not_asked_for_have_no_row(tmp_path):
  path = tmp_path / "gpu.json"
  trials.write(path, {"rows": []})
  session = trials.Session(path, "ours 1b", 60, names=["pauses", "default"])
  for name in ("default, B=8", "unrolled, B=8", "10% pauses, B=8"):
    session.trial(name, lambda: {"tokens_per_s": 1.0})
  names = [row["name"] for row in session.rows()]
  assert names == ["default, B=8", "10% pauses, B=8"]


def test_a_given_batch_size_is_the_only_one():
  plan = gpu_parts.plan(smoke=False, batch_size=24)
  sizes = {**plan.searched, **plan.peer_batches}
  assert set(sizes.values()) == {(24,)}


def test_a_speed_is_compared_with_the_hardware_peak(session):
  plan = dataclasses.replace(gpu_parts.plan(smoke=True), products=(8,))
  ceiling = trials.Session(session._path, "ceiling", seconds=60)
  gpu_parts.run("ceiling", ceiling, plan)
  product, memory = session.rows()
  assert memory["gb_per_s"] > 0
  row = gpu_parts._train(session, plan, "1b", TOY, "gpt", QuickTrainer())
  assert row["loss"] == 3.0
  assert len(row["step_s"]) == plan.steps["1b"]
  assert row["of_ceiling"] == row["tflops"] / product["tflops"]


def test_a_part_without_its_package_names_the_package(session, no_torch):
  options = argparse.Namespace(
    json=session._path,
    part="pytorch 130m",
    seconds=60,
    smoke=True,
    rows=0,
    trials=[],
    without="torch",
  )
  gpu.run_part(options)
  (row,) = session.rows()
  assert row["missing"] == "torch is not installed"
