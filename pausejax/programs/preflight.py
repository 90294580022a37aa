"""Checks whether a run fits a TPU pod or GPUs, without the hardware.

  pausejax preflight --config=configs/pretrain_c4.py:size=1b \\
    --config.mesh.fsdp=-1 --config.mesh.data=1 --topology=v5e-256

--topology: v4-128, v5p-128 (TensorCores), v5e-256, v6e-256 (chips), 2xv5e-128
(two slices), h100-8, h200-16, a100-8 (GPUs). The step that `pausejax train`
would run is compiled for it, by libtpu (make env EXTRA=tpu) or by JAX's CUDA
plugin (make env EXTRA=cuda-compiler); without them, by the CPU's compiler,
which gives an upper bound. A step that fits takes minutes to compile; one that
does not fit is refused in seconds. No data is read. --estimate adds the time of
a step by libtpu's own cost model.

Exit code: 0 it fits, 1 it does not, 2 a wrong command line.
"""

import argparse
import dataclasses
import json
import os
import pathlib

from pausejax import commandline, errors, files
from pausejax.config import TrainConfig, train_config
from pausejax.data import tokenizers
from pausejax.preflight import compilers, estimate, summary, topologies
from pausejax.preflight.interruptions import Interruptions
from pausejax.runtime import gpu_environment

_T5_IDS = 32_128  # T5's SentencePiece model and its 100 sentinels, padded.

_RESTART_MINUTES = 5.0


def main(argv: list[str]) -> int:
  """Compiles the step and prints the report; returns 0 if it fits, else 1."""
  options, tree = _parser().parse(argv)
  config = train_config(tree.to_dict())
  _check(options, config)
  topology = topologies.parse_topology(options.topology)
  compiler, missing = compilers.installed(topology)
  if options.estimate:
    estimate.require_cost_model(topology.name, topology.chip, compiler)
  print(f"{options.config} on {topology.name}", *missing, sep="\n", flush=True)
  vocab_size, origin = _vocab_size(options.vocab_size, config)
  print(f"vocabulary: {vocab_size:,} ids and <pause>, {origin}", flush=True)
  os.environ.update(compilers.ENVIRONMENT)
  num_gpus = 0 if topology.is_tpu else topology.num_devices
  for line in gpu_environment.set_variables(num_gpus):
    print(line)
  # Imported here: the command line is checked before JAX starts.
  from pausejax.preflight import measure

  result = measure.measure_run(
    config,
    vocab_size + config.data.num_pause_ids,
    topology,
    compiler,
    estimates=options.estimate,
  )
  if options.preemptions_per_day:
    result = _interrupted(result, options)
  print(summary.report_text(result))
  if options.json:
    whole = {"config": options.config, **summary.report_data(result)}
    files.write(pathlib.Path(options.json), json.dumps(whole, indent=2) + "\n")
  return 0 if result.fits else 1


def _parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("preflight", __doc__, config=True)
  add = made.add_argument
  add("--topology", required=True, metavar="NAME", help="such as v5e-256")
  add(
    "--vocab_size",
    type=int,
    default=0,
    help="ids of the tokenizer, without <pause> (those of data.tokenizer; "
    "for C4 without a tokenizer file, T5's 32128)",
  )
  add("--json", default="", help="JSON file to write")
  add(
    "--estimate",
    action="store_true",
    help="estimate the time of a step with libtpu's cost model (TPUs)",
  )
  add(
    "--preemptions_per_day",
    type=float,
    default=0.0,
    help="of the whole job; adds the goodput",
  )
  add(
    "--restart_minutes",
    type=float,
    default=None,
    help=f"from a preemption to the first new step ({_RESTART_MINUTES:g})",
  )
  return made


def _check(options: argparse.Namespace, config: TrainConfig) -> None:
  """Raises UsageError unless the options are possible."""
  errors.require_in_range("--vocab_size", options.vocab_size, 0)
  errors.require_in_range(
    "--preemptions_per_day", options.preemptions_per_day, 0
  )
  if options.restart_minutes is not None:
    errors.require_in_range("--restart_minutes", options.restart_minutes, 0)
    errors.require(
      options.preemptions_per_day > 0,
      "--restart_minutes: without --preemptions_per_day it has no effect; "
      "give both",
    )
  errors.require(
    not config.init_from or options.config.endswith(".json"),
    "init_from: preflight reads no other run; give the config.json of the run "
    "itself, or set the shape with --config.model",
  )
  errors.require(
    pathlib.Path(options.json).parent.is_dir(),
    f"--json: there is no folder for {options.json!r}",
  )
  if options.json:
    files.require_writable_file("--json", pathlib.Path(options.json))


def _interrupted(
  result: summary.Preflight, options: argparse.Namespace
) -> summary.Preflight:
  """Returns the results with the interruptions that the options describe."""
  times = result.estimate and result.estimate.times
  minutes = options.restart_minutes
  minutes = _RESTART_MINUTES if minutes is None else minutes
  interruptions = Interruptions(
    per_day=options.preemptions_per_day,
    restart_seconds=60 * minutes,
    step_seconds=times.bounds[0] if times else result.step_seconds(0.5),
    step_source="estimated" if times else "at 50% of the peak",
  )
  return dataclasses.replace(result, interruptions=interruptions)


def _vocab_size(asked: int, config: TrainConfig) -> tuple[int, str]:
  """Returns (number of ids without `<pause>`, where it comes from)."""
  if asked:
    return asked, "--vocab_size"
  if config.data.task == "c4" and config.data.tokenizer == "bytes":
    return _T5_IDS, "T5's as in the paper (else: --vocab_size)"
  base = tokenizers.load_for(config.data).base
  return base.vocab_size, f"data.tokenizer {config.data.tokenizer}"
