"""SIGTERM at any time: while importing, compiling, stepping and saving.

The run must exit with 143 (or 0 if it was complete), with the step of its last
line of metrics saved, and then go on as if nothing had happened.
"""

import collections
import pathlib
import random
import signal
import time

from tests import processes
from tests.soak import training

_ALLOWED = (0, 143, -signal.SIGTERM)  # The last: before Python handles it.


def soak(trials: int, seed: int, folder: pathlib.Path) -> collections.Counter:
  """Stops runs; returns what was counted.

  Raises:
    AssertionError: a step is lost, or the run ends otherwise.
  """
  rng, counts = random.Random(seed), collections.Counter()
  setting = training.Setting()
  began = time.monotonic()
  quiet = training.quiet_run(setting, folder)
  seconds = time.monotonic() - began
  for trial in range(trials):
    run = training.Run(setting, folder, f"stopped{trial}")
    _stop(run, rng.uniform(0, seconds), counts)
    run.finish()
    counts["resumes above step 0"] += run.resumed_from() > 0
    counts["comparisons"] += training.compare(run, quiet, is_complete=True)
  return counts


def _stop(run: training.Run, delay: float, counts: collections.Counter) -> None:
  """Starts a run, stops it after a delay, and checks what is saved."""
  (process,) = started = run.start()
  time.sleep(delay)
  phase = _phase(run)
  process.send_signal(signal.SIGTERM)
  (code,) = processes.wait(started)
  assert code in _ALLOWED, run.log()
  last = max(run.losses(), default=0)
  saved = run.newest_step()
  assert saved == last, f"step {last} was computed, {saved} is saved"
  counts["signals"] += 1
  counts[f"signals while {phase}"] += 1


def _phase(run: training.Run) -> str:
  if run.is_saving():
    return "saving"
  if run.losses():
    return "training"
  return "compiling" if "devices" in run.log() else "starting"
