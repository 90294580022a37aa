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

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from pausejax import commandline, errors, files
from pausejax.config import CheckpointConfig, TrainConfig, train_config
from pausejax.data import tokenizers
from pausejax.preflight import compilers, estimate, summary, topologies
from pausejax.preflight.estimated_step import estimated_step
from pausejax.preflight.interruptions import Checkpoint, Interruptions
from pausejax.preflight.notes import gpu_notes, tpu_notes
from pausejax.preflight.remedies import find_remedies
from pausejax.preflight.topologies import Topology
from pausejax.runtime import gpu_environment

_T5_IDS = 32_128  # T5's SentencePiece model and its 100 sentinels, padded.

_PLAIN_ATTENTION = (
  "attention: XLA's, in place of a kernel that only the target itself can "
  "compile and that needs less memory"
)


def main(argv: list[str]) -> int:
  """Compiles the step and prints the report; returns 0 if it fits, else 1."""
  parser = commandline.Parser("preflight", __doc__, config=True)
  add = parser.add_argument
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
    default=5.0,
    help="from a preemption to the first new step",
  )
  options, tree = parser.parse(argv)
  config = train_config(tree.to_dict())
  errors.require_in_range("--vocab_size", options.vocab_size, 0)
  for name in ("preemptions_per_day", "restart_minutes"):
    errors.require_in_range(f"--{name}", getattr(options, name), 0)
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
  result = _measure(
    config,
    vocab_size + config.data.num_pause_ids,
    topology,
    compiler,
    options.estimate,
  )
  if options.preemptions_per_day:
    times = result.estimate and result.estimate.times
    interruptions = Interruptions(
      per_day=options.preemptions_per_day,
      restart_seconds=60 * options.restart_minutes,
      step_seconds=times.bounds[0] if times else result.step_seconds(0.5),
      step_source="estimated" if times else "at 50% of the peak",
    )
    result = dataclasses.replace(result, interruptions=interruptions)
  print(summary.report_text(result))
  if options.json:
    whole = {"config": options.config, **summary.report_data(result)}
    pathlib.Path(options.json).write_text(json.dumps(whole, indent=2) + "\n")
  return 0 if result.fits else 1


def _vocab_size(asked: int, config: TrainConfig) -> tuple[int, str]:
  """Returns (number of ids without `<pause>`, where it comes from)."""
  if asked:
    return asked, "--vocab_size"
  if config.data.task == "c4" and config.data.tokenizer == "bytes":
    return _T5_IDS, "T5's as in the paper (else: --vocab_size)"
  base = tokenizers.load_for(config.data).base
  return base.vocab_size, f"data.tokenizer {config.data.tokenizer}"


def _measure(
  config: TrainConfig,
  vocab_size: int,
  topology: Topology,
  compiler: str,
  estimates: bool,
) -> summary.Preflight:
  """Compiles the step, several times if needed, and returns the results."""
  # Imported here: the command line is checked before JAX starts.
  import jax

  from pausejax import optimizer as optimizers
  from pausejax import sharding
  from pausejax.preflight import collectives as hlo_collectives
  from pausejax.runtime import flops
  from pausejax.training import ahead, compiler_options

  if not compiler:
    jax.config.update("jax_num_cpu_devices", topology.num_devices)
  devices = (
    topologies.described_devices(topology) if compiler else jax.devices()
  )
  model_config = config.model_config(vocab_size)
  if model_config.dtype == "auto":  # The dtype of the target device.
    model_config = dataclasses.replace(model_config, dtype="bfloat16")
  if not (compiler and topology.is_tpu):
    model_config = dataclasses.replace(model_config, attention="xla")
    if config.model["attention"] != "xla":
      print(_PLAIN_ATTENTION)
  mesh = sharding.make_mesh(config.mesh, devices)
  with jax.set_mesh(mesh):
    sharding.check_run(config, model_config)  # All of its batch sizes.
    config = _with_largest_batch(config)
    optimizer, _ = optimizers.make_optimizer(config.optim, config.num_steps)
    state = ahead.state_shapes(config, model_config, optimizer)
  held, available = ahead.bytes_per_device(state), _available_bytes(topology)

  def ask(batch_size: int) -> ahead.Verdict:
    with jax.set_mesh(mesh):
      verdict = ahead.compile_step(
        dataclasses.replace(config, batch_size=batch_size),
        model_config,
        frees_memory=bool(compiler),
      )
    print(summary.verdict_line(verdict), flush=True)
    return verdict

  def ask_changed(changed: TrainConfig, words: str) -> int:
    changed_model = dataclasses.replace(
      model_config, remat=changed.model["remat"]
    )
    with jax.set_mesh(sharding.make_mesh(changed.mesh, devices)):
      sharding.check_run(changed, changed_model)
      verdict = ahead.compile_step(
        changed, changed_model, frees_memory=bool(compiler)
      )
    print(summary.verdict_line(verdict, words), flush=True)
    return verdict.needed_bytes

  print(
    f"compiling with {compiler or 'the CPU'}, jax {jax.__version__}", flush=True
  )
  with jax.set_mesh(mesh):
    if line := compiler_options.options_line():
      print(line)
  first = ask(config.batch_size)
  traffic = hlo_collectives.collectives(first.hlo_text)
  step = None
  if estimates and not first.is_refused:
    step = estimated_step(
      first.hlo_text,
      config,
      model_config,
      topology,
      list(mesh.devices.flat),
    )
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  largest, verdicts = ahead.largest_batch(
    first,
    ask,
    unit=shards * config.optim.num_microbatches,
    held_bytes=held,
    available_bytes=available,
    refuses=topology.is_tpu and bool(compiler),
  )
  remedies = []
  if first.needed_bytes > available:
    print("it does not fit: trying changes", flush=True)
    remedies = find_remedies(
      config,
      ask_changed,
      available_bytes=available,
      num_slices=topology.num_slices,
      num_copies=mesh.shape["data"],
      num_shards=shards,
      largest_batch=largest,
    )
  if topology.is_tpu:
    rates = topology.chip.cost_model
    unit = rates.matrix_unit if rates else 128  # As in most chips.
    text = first.hlo_text if compiler else ""
    notes = tpu_notes(
      model_config, text, step, unit=unit, tensor=mesh.shape["tensor"]
    )
  else:
    notes = gpu_notes(model_config, num_devices=topology.num_devices)
  if estimates and step is None:
    notes.append("no estimate: the compiler refused the step")
  return summary.Preflight(
    topology=topology.name,
    compiler=compiler,
    device_kind=topology.chip.kind,
    num_devices=topology.num_devices,
    num_slices=topology.num_slices,
    mesh=dict(mesh.shape),
    num_parameters=sum(x.size for x in jax.tree.leaves(state.model)),
    state_bytes=held,
    needed_bytes=first.needed_bytes,
    available_bytes=available,
    batch_size=config.batch_size,
    largest_batch=largest,
    verdicts=[summary.as_data(verdict) for verdict in verdicts],
    collectives=_traffic(traffic, mesh.devices.flat),
    num_uncounted=sum(one.is_lower_bound for one in traffic),
    remedies=remedies,
    tokens_per_step=config.batch_size * config.data.seq_len,
    flops_per_token=flops.per_token(model_config, config.data.seq_len),
    peak_flops=topology.chip.peak_flops,
    num_steps=config.num_steps,
    estimate=step,
    checkpoint=_checkpoint(state, held, config.checkpoint, devices),
    notes=notes,
  )


def _checkpoint(
  state: Any, held: int, config: CheckpointConfig, devices: Iterable[Any]
) -> Checkpoint:
  """Returns the size of a checkpoint of a state.

  Args:
    state: its shapes.
    held: bytes of it on each device.
    config: how often it is saved.
    devices: all devices, which know their host.
  """
  from pausejax.checkpoints import leaves, space

  num_bytes = space.step_size(leaves.flatten(state))
  most = max(collections.Counter(d.process_index for d in devices).values())
  return Checkpoint(
    num_bytes=num_bytes,
    host_bytes=min(num_bytes, most * held),
    keep=config.keep,
    every=config.every,
  )


def _with_largest_batch(config: TrainConfig) -> TrainConfig:
  """Returns the config with one batch size for all steps, the largest."""
  if not config.later_batch_sizes:
    return config
  stages = config.batch_sizes.stages
  rows = max(rows for first, rows in stages if first < config.num_steps)
  print(f"batch size: {rows:,} rows for all steps, the largest of the run")
  return dataclasses.replace(config, batch_size=rows, later_batch_sizes="")


def _available_bytes(topology: Topology) -> int:
  """Returns the bytes of a device's memory that a step may use."""
  if topology.is_tpu:
    return topology.chip.memory_bytes
  # JAX allocates this fraction of a GPU's memory at start, and no more.
  name, text = gpu_environment.memory_fraction()
  try:
    part = float(text)
  except ValueError:
    part = -1.0
  errors.require(
    0 < part <= 1,
    f"{name}: expected a part of a GPU's memory, above 0 and at most 1, got "
    f"{text!r}",
  )
  return int(part * topology.chip.memory_bytes)


def _traffic(
  operations: list[Any], devices: Iterable[Any]
) -> dict[str, dict[str, int]]:
  """Returns kind -> count, bytes, and bytes that leave a slice or host."""
  places = [
    (getattr(d, "slice_index", 0), d.platform == "gpu" and d.process_index)
    for d in devices
  ]
  sums: dict[str, dict[str, int]] = {}
  for one in operations:
    groups = one.groups or (range(len(places)),)
    is_far = any(len({places[i] for i in group}) > 1 for group in groups)
    row = sums.setdefault(one.kind, {"count": 0, "bytes": 0, "far_bytes": 0})
    row["count"] += one.count
    row["bytes"] += one.num_bytes
    row["far_bytes"] += one.num_bytes * is_far
  return sums
