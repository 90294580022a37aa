"""The benchmarks run at toy size, and their baselines compute what we do."""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import (
  estimate,
  growth,
  inference,
  loss,
  measure,
  optimizers,
  packing,
  pause,
  step,
)
from benchmarks.arms import ours
from benchmarks.arms.shapes import SHAPES, batches

TOY = SHAPES["toy"]


@pytest.fixture
def no_torch(monkeypatch):
  for name in ("torch", "transformers"):
    monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Compiling for one device takes half as long as for eight."""
  trainer = functools.partial(ours.Trainer, devices=jax.devices()[:1])
  monkeypatch.setattr(ours, "Trainer", trainer)


class QuickTrainer:
  """A trainer whose steps take no time."""

  def __init__(self, *_):
    pass

  def dispatch(self, batch):
    assert batch["tokens"].shape == (TOY.batch_size, TOY.seq_len)
    return 3.0

  step = dispatch


def test_a_ratio_is_the_median_of_the_rounds_ratios():
  taken = {"a": [1.0, 2.0, 4.0], "b": [3.0, 2.0, 8.0]}
  (a, b) = measure.compare(taken, "a")
  assert a["ratio"] == 1.0
  assert b["ratio"] == 2.0
  assert b["median_s"] / a["median_s"] == 1.5


def test_the_arms_take_turns_to_run_first():
  calls = []
  arms = {name: (lambda n=name: calls.append(n)) for name in "abc"}
  measure.take_turns(arms, rounds=3, warmup=0)
  assert "".join(calls) == "abcbcacab"


def test_a_step_is_timed_from_loss_to_loss():
  times = measure.step_seconds(lambda: 0.0, steps=3, warmup=2)
  assert len(times) == 3


def test_a_result_records_its_conditions(tmp_path):
  options = argparse.Namespace(json=tmp_path / "result.json", rounds=2)
  measure.publish("toy", options, [], start=measure.conditions())
  result = json.loads(options.json.read_text())
  for when in ("start", "end"):
    assert len(result[when]["load_average"]) == 3
    assert result[when]["versions"]["jax"]


def test_pauses_fill_their_share_of_a_batch_and_are_no_targets():
  (batch,) = batches(TOY, 1, pause_fraction=0.25)
  is_pause = batch["targets"] == TOY.pause_id
  assert 0.1 < is_pause.mean() < 0.3
  np.testing.assert_array_equal(batch["loss_mask"], ~is_pause)


@pytest.mark.slow
def test_step_checks_losses_and_names_what_is_missing(no_torch, capsys):
  options = argparse.Namespace(arms="", rounds=2)
  rows = step.one_kind("gpt", TOY, options, [])
  assert [row["name"] for row in rows if "ratio" in row] == [
    "gpt: pausejax",
    "gpt: plain jax",
  ]
  missing = [row for row in rows if "missing" in row]
  assert [row["missing"] for row in missing] == ["torch is not installed"] * 2
  measure.print_table(rows, {"ratio": ".3f"})
  assert "pytorch compiled torch is not installed" in capsys.readouterr().out


def test_losses_that_differ_stop_the_benchmark():
  class Constant:
    def __init__(self, *losses):
      self._losses = iter(losses)

    def step(self, batch):
      return next(self._losses)

  same, other = Constant(3.0, 2.0, 1.0), Constant(3.0, 2.0, 1.001)
  with pytest.raises(SystemExit, match="other: loss"):
    step.require_same_losses({"pausejax": same, "other": other}, [0, 1, 2])


def test_pause_and_standard_step_are_compared(monkeypatch):
  monkeypatch.setattr(ours, "Trainer", QuickTrainer)
  standard, paused = pause.measure_both(TOY, 0.25, rounds=1)
  assert standard["targets"] == 1.0
  assert paused["targets"] < 0.9


def test_the_losses_arms_agree_and_need_less_memory():
  options = argparse.Namespace(
    batch_size=2,
    tokens=64,
    d_model=16,
    vocab_size=512,
    chunks="8",
    dtype="float32",
    rounds=1,
  )
  rows = loss.one_fraction(0.03, options)
  assert [row["name"] for row in rows] == [
    "3%: full logits",
    "3%: 8 chunks",
    "3%: chosen",
  ]
  assert all(row["memory_ratio"] < 0.5 for row in rows[1:])


def test_growth_changes_one_size_at_a_time():
  options = argparse.Namespace(
    layers="4", widths="256", lengths="", devices="2,8"
  )
  points = growth.points(options)
  assert list(points) == [
    "start",
    "4 layers",
    "d_model 256",
    "2 devices",
    "8 devices",
  ]
  assert points["4 layers"] == (
    dataclasses.replace(growth.START, num_layers=4),
    1,
  )
  assert points["8 devices"] == (growth.START, 8)


@pytest.mark.slow
def test_answers_and_scores_are_timed(no_torch):
  options = argparse.Namespace(
    size="toy",
    batch_size=1,
    prompt_len=4,
    new_tokens=3,
    pauses="2",
    options=2,
    option_len=3,
    rounds=1,
  )
  shape = inference.shape_of(options)
  assert shape.seq_len >= 9
  run = inference.ours.config(shape, "llama")
  model = inference.random_model(run.model_config(shape.vocab_size))
  rows = inference.answers(options, model) + inference.scores(options, model)
  assert [row["name"] for row in rows if "ratio" in row] == [
    "answer, 0 pauses",
    "answer, 2 pauses",
    "score options",
  ]
  assert sum("missing" in row for row in rows) == 2


def test_padding_shared_by_a_whole_batch_is_cut():
  segment_ids = np.zeros((2, 256), np.int32)
  segment_ids[0, :70] = 1
  batch = {"tokens": segment_ids, "segment_ids": segment_ids}
  batch["counted"] = np.zeros((2, 8), np.int32)
  shapes = {name: x.shape for name, x in packing.cut(batch).items()}
  assert shapes == {
    "tokens": (2, 128),
    "segment_ids": (2, 128),
    "counted": (2, 8),
  }
  assert packing.num_real([batch, batch]) == 140


@pytest.mark.parametrize(
  ("main", "argv", "said"),
  [
    (estimate.main, ["--chips=v9"], "no 'v9'; known: v5e, v6e, v5p, v4"),
    (estimate.main, ["--sizes=2b"], "no '2b'; known: tiny, 130m, 1b"),
    (estimate.main, ["--rows=4,x"], "expected 1 or more, got 'x'"),
    (estimate.main, ["--remat=most"], "no 'most'"),
    (estimate.main, ["--devices=3"], "--devices: "),
    (estimate.main, ["--json=none/x.json"], "no file can be written"),
    (step.main, ["--kinds=x"], "no 'x'; known: gpt, llama"),
    (step.main, ["--arms=plain,pytroch"], "--arms: no 'pytroch'"),
    (step.main, ["--rounds=0"], "expected 1 or more, got '0'"),
    (step.main, ["--json=tests"], "no file can be written"),
  ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
  main, argv, said, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(
    estimate.compilers, "installed", lambda topology: ("libtpu", [])
  )
  path = tmp_path / "result.json"
  with pytest.raises(SystemExit) as ended:
    main([f"--json={path}", *argv])
  assert ended.value.code == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert "error: " in last and said in last
  assert not path.exists()


def test_the_rate_of_an_arm_is_chosen_on_other_text_than_it_is_compared_on():
  results = {
    (arm, rate, seed): optimizers.Result(
      curve=[(10, 5.0), (20, abs(np.log10(rate) + 2) + best + seed / 100)],
      test=best + seed / 100,
      seconds=0.1,
    )
    for arm, best in (("adamw", 2.0), ("muon", 1.5))
    for rate in optimizers._GRIDS[arm]
    for seed in optimizers.SEEDS
  }
  chosen = {
    arm: optimizers.best_rate(arm, results) for arm in ("adamw", "muon")
  }
  assert chosen == {"adamw": 1e-2, "muon": 1e-2}
  lines = "\n".join(optimizers.comparison(results, chosen))
  assert "muon minus adamw, test: -0.5000 ± 0.0000" in lines
  assert optimizers.picture(results, chosen).count("<polyline") == 6


def test_an_optimizer_at_a_rate_in_its_state_is_the_one_at_that_rate():
  params = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)}
  updates = []
  for made, rate in (
    (optimizers.scaled(optax.contrib.muon(1.0, weight_decay=0.1)), 0.03),
    (optax.contrib.muon(0.03, weight_decay=0.1), None),
  ):
    state = made.init(params)
    if rate:
      state = optimizers.Scaled(jnp.asarray(rate), state.state)
    updates.append(made.update(params, state, params)[0]["w"])
  np.testing.assert_allclose(*updates, rtol=1e-5)


@pytest.mark.slow
def test_the_cost_of_reliability_is_measured(tmp_path):
  command = [sys.executable, "-m", "benchmarks.reliability", "--rounds=2"]
  command += ["--saves=2", "--steps=2", f"--json={tmp_path / 'result.json'}"]
  subprocess.run(command, check=True, capture_output=True)
  steps, saves = json.loads((tmp_path / "result.json").read_text())["rows"]
  assert 0.1 < steps["ratio"] < 10 and steps["off_s"] > 0
  assert 0 < saves["share"] < 1 and saves["blocked_s"] > 0
