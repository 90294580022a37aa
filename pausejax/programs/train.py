"""Pretrains or finetunes a decoder; resumes automatically.

  pausejax train --config=configs/smoke.py --workdir=run
  pausejax train --config=configs/pretrain_c4.py:size=130m,pause=true \\
    --config.optim.learning_rate=3e-4 --config.batch_size=256 --workdir=run
  pausejax train --config=configs/finetune.py:task=squad,pauses=50 \\
    --init_from=run --config.data.local_dir=/data/squad --workdir=squad50

With --init_from, the architecture and the tokenizer are those of the run that
it names. The workdir receives config.json, the tokenizer, metrics.jsonl (one
line per step) and checkpoints/. After a crash or a kill, start the same command
again: it resumes from the newest checkpoint. On the same devices every loss is
bit-identical to that of an uninterrupted run, and the run named by --init_from
is no longer needed. Settings that differ are printed; those that decide what is
computed are refused (docs/resume.md). Several processes form one run if SLURM,
a TPU or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID define them (`runtime/environment.py`).
"""

import argparse
import re
import time
from typing import Any

from pausejax import commandline
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.config import WatchdogConfig, check_fields
from pausejax.runtime import (
  accelerators,
  distributed,
  gpu_environment,
  heap,
  signals,
  watchdog,
)
from pausejax.training import inputs, resume


def main(argv: list[str]) -> int:
  """Checks the command line, then the devices; then trains."""
  started = time.time()
  stop = signals.StopFlag(interrupt=True)
  options, tree = parser().parse(argv, _inherit)
  start = inputs.check_inputs(tree, options.workdir, options.rollback_to)
  num_gpus = gpu_environment.count_gpus(distributed.num_processes())
  for line in gpu_environment.set_variables(num_gpus):
    print(line)
  kept = heap.keep_freed_memory()
  accelerators.require_used()
  # JAX is imported once the command line is checked.
  from pausejax.programs import train_setup
  from pausejax.training import loop

  with train_setup.open_run(start, stop, started) as run:
    if run is None:  # No step is left.
      return 0
    if kept:
      print(kept)
    final = loop.train_loop(run)
  print(*run.meter.summary(), sep="\n")
  print(resume.ending(start.config, final, f"{start.place}/{CHECKPOINTS}"))
  return run.stop.exit_code


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser(
    "train", __doc__, config=True, in_bucket=("workdir", "init_from")
  )
  made.add_argument(
    "--workdir", required=True, help="folder of the run, also gs:// or s3://"
  )
  made.add_argument(
    "--init_from", default="", help="run to take parameters from"
  )
  made.add_argument(
    "--rollback_to",
    type=_step,
    default=None,
    metavar="STEP",
    help="set later checkpoints aside and resume from this one",
  )
  return made


def _step(text: str) -> int:
  if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text):
    raise argparse.ArgumentTypeError(f"expected a step, got {text!r}")
  return int(text)


def _inherit(options: argparse.Namespace, config: Any) -> None:
  """Sets the fields that a config inherits from the run it starts from."""
  check_fields(config.to_dict())  # All are there.
  watchdog.set_limits(WatchdogConfig(**config.watchdog))
  inputs.inherit(
    config,
    init_from=options.init_from,
    workdir=options.workdir,
    is_saved=options.config.endswith(".json"),
  )
