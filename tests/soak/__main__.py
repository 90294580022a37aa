"""Runs one scenario, or all with the numbers of docs/reliability.md.

  python -m tests.soak training --trials=100 --pipeline=seqio --processes=2
  python -m tests.soak all --share=0.1

Prints what it counted, with the time, the machine and the versions, and exits
with 1 if something differed or nothing was compared.
"""

import argparse
import collections
import datetime
import os
import pathlib
import platform
import sys
import tempfile
import time
import traceback

from pausejax.runtime import provenance
from tests.soak import (
  buckets,
  damage,
  faults,
  programs,
  saving,
  signals,
  training,
)

# Scenario -> (trials of `all`, function of options, trials and folder).
SCENARIOS = {
  "saving": (200, lambda o, n, f: saving.soak(n, o.seed, f)),
  "training": (
    100,
    lambda o, n, f: training.soak(
      training.Setting(
        pipeline=o.pipeline,
        num_steps=max(40, 4 * n),
        count=o.processes,
        devices=o.devices,
      ),
      n,
      o.seed,
      f,
    ),
  ),
  "signals": (25, lambda o, n, f: signals.soak(n, o.seed, f)),
  "evaluate": (20, lambda o, n, f: programs.soak_evaluate(n, o.seed, f)),
  "study": (20, lambda o, n, f: programs.soak_study(n, o.seed, f)),
  "bucket": (
    20,
    lambda o, n, f: buckets.soak(
      n, o.seed, f, store=o.store, num_processes=o.processes
    ),
  ),
  "port": (5, lambda o, n, f: faults.soak_port(n, o.seed, f)),
  "disk": (20, lambda o, n, f: faults.soak_disk(n, o.seed, f)),
  "clock": (10, lambda o, n, f: faults.soak_clock(n, o.seed, f)),
  "damage": (1, lambda o, n, f: damage.soak(f)),
}
# What `all` runs: (scenario, changes of the options, share of the trials).
_ALL = (
  ("saving", {}, 1.0),
  ("training", {}, 0.4),
  ("training", {"pipeline": "seqio"}, 0.2),
  ("training", {"pipeline": "finetuning"}, 0.2),
  ("training", {"devices": 8}, 0.2),
  ("training", {"processes": 2}, 0.4),
  ("signals", {}, 1.0),
  ("evaluate", {}, 1.0),
  ("study", {}, 1.0),
  ("bucket", {}, 0.5),
  ("bucket", {"store": "gs"}, 0.5),
  ("bucket", {"processes": 2}, 0.5),
  ("port", {}, 1.0),
  ("disk", {}, 1.0),
  ("clock", {}, 1.0),
  ("damage", {}, 1.0),
)


def main() -> int:
  """Runs the scenarios of the command line."""
  options = _parse()
  print(
    f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, "
    f"seed {options.seed}, {provenance.versions()}"
  )
  if options.scenario == "all":
    passed = [
      _run(name, _changed(options, changes), options.share * share)
      for name, changes, share in _ALL
    ]
    return 0 if all(passed) else 1
  return 0 if _run(options.scenario, options, options.share) else 1


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m tests.soak", description=__doc__.split("\n")[0]
  )
  add = parser.add_argument
  add("scenario", choices=(*SCENARIOS, "all"))
  add("--trials", type=int, default=0, help="default: that of `all`")
  add("--share", type=float, default=1.0, help="part of the default trials")
  add("--seed", type=int, default=0)
  add("--pipeline", choices=training.PIPELINES, default="segments")
  add("--processes", type=int, default=1)
  add("--devices", type=int, default=1, help="virtual ones of a process")
  add("--store", choices=("s3", "gs"), default="s3", help="of buckets")
  return parser.parse_args()


def _changed(options, changes: dict) -> argparse.Namespace:
  return argparse.Namespace(**{**vars(options), **changes})


def _run(name: str, options: argparse.Namespace, share: float) -> bool:
  """Runs a scenario and prints its counts; returns whether it passed."""
  default, function = SCENARIOS[name]
  trials = options.trials or max(1, round(default * share))
  title = f"{name}, {trials} trials"
  if name == "training":
    title += f" ({options.pipeline}, {options.processes} process(es), "
    title += f"{options.devices} device(s))"
  counts: collections.Counter = collections.Counter()
  began, passed = time.monotonic(), True
  with tempfile.TemporaryDirectory() as folder:
    try:
      counts = function(options, trials, pathlib.Path(folder))
    except Exception:
      traceback.print_exc()
      passed = False
  seconds = time.monotonic() - began
  line = ", ".join(f"{key} {n:,}" for key, n in sorted(counts.items()))
  passed = passed and counts["comparisons"] > 0
  verdict = "passed" if passed else "FAILED"
  print(f"{verdict}: {title}: {line or 'nothing counted'}; {seconds:.0f} s")
  sys.stdout.flush()
  return passed


if __name__ == "__main__":
  sys.exit(main())
