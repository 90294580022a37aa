"""The benchmark of estimated step times: its rows, arms and calibration."""

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import estimate
from benchmarks.arms import ours, plain
from pausejax.runtime import chips
from tests import test_benchmarks, test_benchmarks_gpu
from tests.test_benchmarks import TOY

one_device, session = test_benchmarks.one_device, test_benchmarks_gpu.session


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
