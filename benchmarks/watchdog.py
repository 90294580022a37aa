"""The CPU time of the watchdog, its guard, and the phases of a step.

  python -m benchmarks.watchdog [--seconds=30]

CPU times, which other processes on the machine hardly change.
"""

import argparse
import resource
import time

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
    f"{1e6 * per_step:.1f} us"
  )


def _step(step: int) -> None:
  """Enters the phases of a step, as `training/loop.py` does."""
  phases.enter("stepping", step)
  for name in (phases.DATA, "stepping", "profiling"):
    with phases.phase(name):
      pass
  phases.add_step(1.0)


def _children_seconds() -> float:
  """Returns the CPU time of the child processes that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
