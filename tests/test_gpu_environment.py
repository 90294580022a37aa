"""Settings of XLA for runs on GPUs: set once, printed, never over a user's."""

import pathlib

import pytest

from pausejax.preflight import measure, topologies
from pausejax.runtime import accelerators, gpu_environment

SCHEDULER = "--xla_gpu_enable_latency_hiding_scheduler"
FRACTION = "XLA_CLIENT_MEM_FRACTION"


def test_each_setting_is_set_once_and_printed():
  environment = {"XLA_FLAGS": "--xla_dump_to=x"}
  lines = gpu_environment.set_variables(8, environment)
  assert environment == {
    FRACTION: "0.9",
    "XLA_FLAGS": f"--xla_dump_to=x {SCHEDULER}=true",
  }
  assert [line.partition(":")[0] for line in lines] == [
    f"set {FRACTION}=0.9",
    f"set XLA_FLAGS={SCHEDULER}=true",
  ]
  assert gpu_environment.set_variables(8, environment) == []


def test_one_gpu_needs_no_scheduler_and_a_run_without_gpus_nothing():
  one, none = {}, {}
  gpu_environment.set_variables(1, one)
  assert one == {FRACTION: "0.9"}
  assert gpu_environment.set_variables(0, none) == [] and none == {}


@pytest.mark.parametrize(
  "given",
  [
    {FRACTION: "0.5", "XLA_FLAGS": f"{SCHEDULER}=false"},
    # JAX refuses the old and the new name together.
    {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5", "XLA_FLAGS": SCHEDULER},
  ],
)
def test_what_the_user_sets_is_left_as_it_is(given):
  environment = dict(given)
  assert gpu_environment.set_variables(8, environment) == []
  assert environment == given


@pytest.mark.parametrize(
  "variables, expected",
  [
    ({}, 2),
    ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 6),
    ({"CUDA_VISIBLE_DEVICES": ""}, 0),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
    ({"JAX_PLATFORMS": "cpu"}, 0),
    ({"JAX_PLATFORMS": "cuda,cpu"}, 2),
  ],
)
def test_the_gpus_that_jax_will_use_are_counted(
  variables, expected, monkeypatch
):
  found = accelerators.Accelerator("an NVIDIA GPU", pathlib.Path(), (), "")
  monkeypatch.setattr(accelerators, "find_accelerator", lambda: found)
  for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  # This machine has no device files of GPUs, so one GPU per process.
  if not [*pathlib.Path("/dev").glob("nvidia[0-9]*")] or variables:
    assert gpu_environment.count_gpus(2) == expected
  monkeypatch.setattr(accelerators, "find_accelerator", lambda: None)
  assert gpu_environment.count_gpus(2) == 0


def test_preflight_counts_the_memory_that_a_run_takes(monkeypatch):
  topology = topologies.parse_topology("h100-8")
  for name in (FRACTION, "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_FLAGS"):
    monkeypatch.setenv(name, "")
  monkeypatch.delenv(FRACTION)
  gpu_environment.set_variables(8)
  available = measure._available_bytes(topology)
  assert available == int(0.9 * topology.chip.memory_bytes)


def test_the_page_on_tuning_lists_every_setting():
  page = (pathlib.Path(__file__).parent.parent / "docs/tuning.md").read_text()
  rows = [line for line in page.splitlines() if line.startswith("| ")]
  for one in gpu_environment.SETTINGS:
    assert any(one.variable in row and one.value in row for row in rows), one
