"""Where JAX uses the CPU, a step uses the memory of the step before."""

import json
import os
import platform
import subprocess
import sys

import jax
import pytest

from pausejax.runtime import accelerators, heap
from tests import processes

_IS_GLIBC = platform.libc_ver()[0] == "glibc"
# Page faults of a jitted function that needs 64 MiB: the least of ten calls,
# since the first ones may find that other memory is in the way.
_COUNT = """
import resource
from pausejax.runtime import heap
line = heap.keep_freed_memory()
import jax, jax.numpy as jnp
hold = jax.lax.optimization_barrier
step = jax.jit(lambda x: jnp.sum(hold(jnp.outer(x, x)) @ x))
x = jnp.ones(2**12)
def faults():
  start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  float(step(x))
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
print(min(faults() for _ in range(10)))
print(line)
heap.return_freed_memory()
print(faults())
"""


def _environment() -> dict[str, str]:
  own = ("MALLOC_", "GLIBC_", "XLA_FLAGS", "LD_PRELOAD")
  inherited = {n: v for n, v in os.environ.items() if not n.startswith(own)}
  return {**inherited, "JAX_PLATFORMS": "cpu"}


def _count(**variables: str) -> tuple[int, str, int]:
  done = subprocess.run(
    [sys.executable, "-c", _COUNT],
    env={**_environment(), **variables},
    capture_output=True,
    text=True,
    check=True,
  )
  faults, line, later = done.stdout.split("\n")[:3]
  return int(faults), line, int(later)


@pytest.mark.skipif(not _IS_GLIBC, reason="needs glibc")
def test_a_step_uses_the_memory_of_the_step_before():
  faults, line, after_return = _count()
  assert "kept for the next step" in line
  assert faults < 25 < after_return
  faults, line, _ = _count(GLIBC_TUNABLES="")
  assert not line
  assert faults > 25  # 32, if all pages were huge.


@pytest.mark.parametrize(
  "variables",
  [
    {"MALLOC_ARENA_MAX": "2"},
    {"GLIBC_TUNABLES": ""},
    {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "true"},
    {"LD_PRELOAD": "libtcmalloc.so"},
    {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    {"JAX_NUM_CPU_DEVICES": "8"},
  ],
)
def test_what_the_environment_sets_is_left_as_it_is(variables):
  assert not heap.keep_freed_memory(variables)


@pytest.fixture
def gpu(monkeypatch):
  """A machine with a GPU, and no choice of a device."""
  for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES"):
    monkeypatch.delenv(name, raising=False)
  gpu = accelerators.Accelerator("an NVIDIA GPU", "/dev/nvidia0", (), "")
  monkeypatch.setattr(accelerators, "find_accelerator", lambda *_: gpu)


def test_an_accelerator_leaves_the_heap_as_it_is(gpu):
  assert not heap.keep_freed_memory({})


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("JAX_PLATFORMS", "cpu"),
    ("JAX_PLATFORM_NAME", "cpu"),
    ("CUDA_VISIBLE_DEVICES", ""),
  ],
)
def test_the_cpu_may_be_chosen_beside_a_gpu(gpu, name, value, monkeypatch):
  assert not accelerators.is_cpu_used()
  monkeypatch.setenv(name, value)
  assert accelerators.is_cpu_used()


def test_steps_are_asynchronous_on_gpus(monkeypatch):
  was = jax.config.read("jax_cpu_enable_async_dispatch")
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  try:
    assert heap.is_step_synchronous()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not heap.is_step_synchronous()
  finally:
    jax.config.update("jax_cpu_enable_async_dispatch", was)


@pytest.mark.slow
def test_each_row_has_the_time_of_its_own_step(tmp_path):
  settings = (
    "num_steps=8 batch_size=2 eval.every=0 checkpoint.every=4 "
    "data.tokenizer=bytes optim.warmup_steps=2 model.num_layers=1 "
    "model.scan_unroll=1"
  )
  words = [f"--config.{setting}" for setting in settings.split()]
  command = [sys.executable, "-m", "pausejax", "train", "--config=smoke"]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path}", *words],
    env={**_environment(), "XLA_FLAGS": processes.QUICK_COMPILER},
    capture_output=True,
    text=True,
    check=True,
  )
  assert "kept for the next step" in done.stdout
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  rates = [r["tokens_per_second"] for r in rows if "tokens_per_second" in r]
  # Steps 4 and 8 are saved, so their metrics are read at once.
  assert len(rates) == 8 and max(rates[1:]) < 20 * min(rates[1:])
