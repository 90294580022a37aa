"""The benchmarks run at toy size, and their baselines compute what we do."""

import argparse
import dataclasses
import functools
import importlib.util
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
  gpu,
  gpu_parts,
  growth,
  inference,
  loss,
  measure,
  optimizers,
  packing,
  pause,
  step,
  trials,
)
from benchmarks.arms import ours, plain
from benchmarks.arms.shapes import SHAPES, batches
from pausejax.runtime import chips

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


@pytest.fixture
def session(tmp_path):
  path = tmp_path / "gpu.json"
  trials.write(path, {"rows": []})
  return trials.Session(path, "a part", seconds=60)


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


def test_an_estimate_in_the_file_is_not_measured_again(session, capsys):
  measured = []

  def arm(value):
    measured.append(value)
    return {"mfu": 1 / value}

  estimate.run(session, "v5e product", lambda: arm(0))  # Fails: measured again.
  estimate.run(session, "v5e product", lambda: arm(2))
  estimate.run(session, "v5e product", lambda: arm(4))
  assert measured == [0, 2]
  estimate.show(session.rows())
  (line,) = capsys.readouterr().out.splitlines()[-1:]
  assert line.startswith("v5e product") and "50.0%" in line


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


def test_slices_are_named_by_their_devices():
  assert estimate.topology_name("v5e", 8) == "v5e-8"
  assert estimate.topology_name("v5p", 8) == "v5p-16"  # TensorCores.


def test_peers_have_one_row_where_ours_has_one_for_each_remat():
  options = argparse.Namespace(
    **dict(chips=["v5e", "v4"], devices=["8"], sizes=["130m"], rows=["8"]),
    **dict(remat=["names", "full"], attention=["auto"]),
    arms=["ours", "plain"],
  )
  assert list(estimate.arms_of(options)) == [
    ("v5e-8", "130m", "8", "names", "auto"),
    ("v5e-8", "130m", "8", "full", "auto"),
    ("v4-16", "130m", "8", "names", "auto"),
    ("v4-16", "130m", "8", "full", "auto"),
    ("v5e-8", "130m", "8", "plain"),
    ("v4-16", "130m", "8", "plain"),
  ]


@pytest.mark.parametrize("tied", [True, False])
def test_the_lowered_step_of_the_plain_trainer_has_our_parameters(tied):
  shape = dataclasses.replace(TOY, tied=tied)
  config = ours.config(shape)
  weights = ours.weights(ours.Trainer(config, shape.vocab_size).state.model)
  model = config.model_config(shape.vocab_size)
  assert jax.tree.map(np.shape, plain.joined(weights)) == jax.tree.map(
    np.shape, plain.shapes(model)
  )


def test_a_model_that_is_not_gpts_is_not_compared_with_gpts():
  gpt, llama = (
    ours.config(TOY, kind).model_config(TOY.vocab_size)
    for kind in ("gpt", "llama")
  )
  estimate.require_gpt(gpt)
  with pytest.raises(ValueError, match="rope, rmsnorm, swiglu"):
    estimate.require_gpt(llama)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)
def test_the_stored_calibration_is_that_of_the_cost_model(tmp_path):
  path = tmp_path / "estimate.json"
  command = [sys.executable, "-m", "benchmarks.estimate", f"--json={path}"]
  subprocess.run([*command, "--sizes="], check=True)
  rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
  for chip in ("v4", "v5e", "v5p", "v6e"):
    stored = chips.CHIPS[chip].cost_model
    share = rows[f"{chip} product"]["mfu"]
    assert stored and share == pytest.approx(stored.product_share, abs=0.002)


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
