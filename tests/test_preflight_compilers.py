"""`pausejax preflight` of a toy model, by the compilers that are installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from pausejax.runtime import chips
from tests.test_preflight import GIB

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)

# `pausejax` without the search for the largest batch that fits.
NO_SEARCH = """
import sys
from pausejax import cli
from pausejax.training import ahead
ahead.largest_batch = lambda first, *_, **__: (first.batch_size, [first])
sys.exit(cli.main(sys.argv[1:]))
"""


def preflight(tmp_path, *argv, program=("-m", "pausejax")):
  """Returns (exit code, what was printed, what was written)."""
  out = tmp_path / "found.json"
  command = [sys.executable, *program, "preflight"]
  small = [
    "--config=configs/pretrain_c4.py:size=tiny",
    "--config.model.num_layers=1",
    "--config.data.seq_len=128",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=-1",
    "--vocab_size=255",
    f"--json={out}",
  ]
  # The target's compiler shall do all that it does for a user, but not rewrite
  # the search's largest batches, for minutes, until they fit into memory.
  full = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "JAX_MEMORY_FITTING_LEVEL": "O0",
  }
  run = subprocess.run(
    [*command, *small, *argv],
    env={**os.environ, **full},
    capture_output=True,
    text=True,
    check=False,
  )
  written = json.loads(out.read_text()) if out.exists() else {}
  return run.returncode, run.stdout + run.stderr, written


# Estimated seconds of the toy's step on v5e-8, by compiler. A step that gets
# faster lowers its figure; the failing test prints the new one.
TOY_SECONDS = {"libtpu 0.0.42.1": 0.000377}


def grown(found):
  """Returns the estimate of a toy over the stored one."""
  stored = TOY_SECONDS.get(found["compiler"])
  if stored is None:
    measured = found["estimate"]["step_seconds"]
    pytest.fail(f"store {measured} for {found['compiler']}")
  return found["estimate"]["step_seconds"] / stored


@pytest.mark.slow
@needs_libtpu
def test_a_toy_compiles_for_a_tpu_and_one_too_large_is_refused(tmp_path):
  code, text, found = preflight(
    tmp_path,
    *("--topology=v5e-8", "--config.batch_size=64", "--estimate"),
    "--preemptions_per_day=2",
  )
  assert code == 0, text
  assert "It fits v5e-8" in text
  assert found["compiler"].startswith("libtpu")
  assert found["collectives"]["all-gather"]["count"] > 0
  assert found["available_bytes"] == chips.CHIPS["v5e"].memory_bytes
  # It holds less than a gigabyte; what XLA pads is little.
  assert 0 < found["state_bytes"] < found["needed_bytes"] < GIB
  assert "estimated time of a step" in text and "goodput with 2" in text
  # The step does not get slower by more than 5% unnoticed.
  assert grown(found) <= 1.05, found["estimate"]["step_seconds"]
  # All of it is priced.
  assert found["estimate"]["num_uncounted"] == 0
  assert 0 < found["estimate"]["mfu"]["causal"] < 1
  # Of a state that is too large, all is refused: nothing takes long.
  words = ("--config.batch_size=64", "--vocab_size=20000000")
  code, text, found = preflight(tmp_path, "--topology=v5e-8", *words)
  assert code == 1, text
  assert "It does not fit v5e-8" in text
  assert found["largest_batch"] == 0 and found["remedies"] == []
  assert all(one["refused"] for one in found["verdicts"])
  assert found["verdicts"][0]["seconds"] < 60


@pytest.mark.slow
@needs_libtpu
def test_a_slower_program_does_not_pass_the_bar(tmp_path):
  code, text, found = preflight(
    tmp_path,
    *("--topology=v5e-8", "--config.batch_size=64", "--estimate"),
    "--config.optim.num_microbatches=4",
    program=("-c", NO_SEARCH),
  )
  assert code == 0, text
  assert grown(found) > 1.05


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("jax_plugins") is not None
  and importlib.util.find_spec("jax_plugins.xla_cuda12") is not None,
  reason="the CUDA plugin is there",
)
def test_without_the_target_compiler_the_cpu_estimates(tmp_path):
  code, text, found = preflight(
    tmp_path, "--topology=h100-2", "--config.batch_size=8"
  )
  assert code == 0, text
  assert "pip install '.[cuda-compiler]'" in text
  assert "ESTIMATE" in text
  assert found["num_devices"] == 2
  state = 12 * found["num_parameters"] / 2  # Parameters and two moments.
  assert state < found["state_bytes"] < 1.1 * state


@pytest.mark.slow
def test_every_batch_size_divides_over_the_mesh(tmp_path):
  later = "--config.later_batch_sizes=10:16"
  words = ("--topology=v5e-8", "--config.num_steps=100", later)
  code, text, _ = preflight(tmp_path, *words, "--config.batch_size=4")
  assert code == 2 and "optim.num_microbatches 4 is not divisible" in text
  code, text, found = preflight(tmp_path, *words, "--config.batch_size=8")
  assert code == 0 and "16 rows for all steps" in text
  assert found["batch_size"] == 16
