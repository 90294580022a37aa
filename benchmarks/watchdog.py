"""The CPU time of the watchdog, its guard, the phases, and spikes of a step.

  python -m benchmarks.watchdog [--seconds=30]

CPU times, which other processes on the machine hardly change. The search for
spikes is compiled alone here, so its time includes a call, which it shares with
the rest of the step in training.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp

from pausejax import spikes
from pausejax.config import WatchdogConfig
from pausejax.runtime import phases, watchdog

_NUM_STEPS = 10_000


def main() -> None:
  """Prints the CPU time per second of a run, and per step."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seconds", type=int, default=30)
  seconds = parser.parse_args().seconds
  began, before = time.process_time(), _children_seconds()
  with watchdog.watch(WatchdogConfig()):
    time.sleep(seconds)
  thread, guard = time.process_time() - began, _children_seconds() - before
  began = time.process_time()
  for step in range(_NUM_STEPS):
    _step(step)
  per_step = (time.process_time() - began) / _NUM_STEPS
  print(
    f"per second of a run: {1e3 * thread / seconds:.2f} ms in the process, "
    f"{1e3 * guard / seconds:.2f} ms in the guard, with its start; per step: "
    f"{1e6 * per_step:.1f} us, and {1e6 * _seconds_of_spikes():.1f} us to find "
    "spikes"
  )


def _step(step: int) -> None:
  """Enters the phases of a step, as `training/loop.py` does."""
  phases.enter("stepping", step)
  for name in (phases.DATA, "stepping", "profiling"):
    with phases.phase(name):
      pass
  phases.add_step(1.0)


def _seconds_of_spikes() -> float:
  """Returns the CPU time of the search for a spike in one step."""

  @jax.jit
  def find(window, loss, grad_norm):
    is_spike = window.is_spike(loss, grad_norm, 6.0)
    return window.added(loss, grad_norm, jnp.isfinite(loss)), is_spike

  window, _ = find(spikes.empty_window(), 1.0, 1.0)
  began = time.process_time()
  for _ in range(_NUM_STEPS):
    window, is_spike = find(window, 1.0, 1.0)
  jax.block_until_ready(is_spike)
  return (time.process_time() - began) / _NUM_STEPS


def _children_seconds() -> float:
  """Returns the CPU time of the child processes that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
