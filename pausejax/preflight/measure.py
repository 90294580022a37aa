"""What the step of a run needs on a topology, as its compiler reports.

Imports JAX; the command line is checked before.
"""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from pausejax import errors, sharding
from pausejax import optimizer as optimizers
from pausejax.checkpoints import leaves, space
from pausejax.config import CheckpointConfig, ModelConfig, TrainConfig
from pausejax.preflight import collectives, summary, topologies
from pausejax.preflight.estimated_step import EstimatedStep, estimated_step
from pausejax.preflight.interruptions import Checkpoint
from pausejax.preflight.notes import gpu_notes, tpu_notes
from pausejax.preflight.remedies import find_remedies
from pausejax.preflight.topologies import Topology
from pausejax.runtime import flops, gpu_environment
from pausejax.train_state import TrainState
from pausejax.training import ahead, compiler_options

_PLAIN_ATTENTION = (
  "attention: XLA's, in place of a kernel that only the target itself can "
  "compile and that needs less memory"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
  """What a run is compiled for.

  Attributes:
    topology: its devices, by their usual names.
    compiler: their compiler and its version; "" for that of the CPU.
    devices: the devices to compile for.
    model: the model of the run.
  """

  topology: Topology
  compiler: str
  devices: list[Any]
  model: ModelConfig

  def verdict(self, config: TrainConfig, change: str = "") -> ahead.Verdict:
    """Compiles the step of a config, perhaps a changed one; prints a line.

    Raises:
      UserError: its batch or model does not divide over its mesh.
    """
    model = dataclasses.replace(self.model, remat=config.model["remat"])
    with jax.set_mesh(sharding.make_mesh(config.mesh, self.devices)):
      sharding.check_run(config, model)
      verdict = ahead.compile_step(
        config, model, frees_memory=bool(self.compiler)
      )
    print(summary.verdict_line(verdict, change), flush=True)
    return verdict


def measure_run(
  config: TrainConfig,
  vocab_size: int,
  topology: Topology,
  compiler: str,
  *,
  estimates: bool,
) -> summary.Preflight:
  """Compiles the step, several times if needed, and returns the results.

  Args:
    config: the config of the run.
    vocab_size: number of ids of its tokenizer.
    topology: what to compile for.
    compiler: its compiler and the version; "" for that of the CPU.
    estimates: whether to estimate the time of a step.
  """
  target = _target(config, vocab_size, topology, compiler)
  mesh = sharding.make_mesh(config.mesh, target.devices)
  devices = list(mesh.devices.flat)
  with jax.set_mesh(mesh):
    sharding.check_run(config, target.model)  # All of its batch sizes.
    config = _with_largest_batch(config)
    optimizer, _ = optimizers.make_optimizer(config.optim, config.num_steps)
    state = ahead.state_shapes(config, target.model, optimizer)
    available = _available_bytes(topology)
    compiled_by = compiler or "the CPU"
    print(f"compiling with {compiled_by}, jax {jax.__version__}", flush=True)
    if line := compiler_options.options_line():
      print(line)
  first = target.verdict(config)
  step = None
  if estimates and not first.is_refused:
    text = first.hlo_text
    step = estimated_step(text, config, target.model, topology, devices)
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  largest, verdicts = ahead.largest_batch(
    first,
    lambda rows: target.verdict(dataclasses.replace(config, batch_size=rows)),
    unit=shards * config.optim.num_microbatches,
    held_bytes=ahead.bytes_per_device(state),
    available_bytes=available,
    refuses=topology.is_tpu and bool(compiler),
  )
  remedies = []
  if first.needed_bytes > available:
    print("it does not fit: trying changes", flush=True)
    remedies = find_remedies(
      config,
      lambda changed, words: target.verdict(changed, words).needed_bytes,
      available_bytes=available,
      num_slices=topology.num_slices,
      num_copies=mesh.shape["data"],
      num_shards=shards,
      largest_batch=largest,
    )
  notes = _notes(target, first, step, tensor=mesh.shape["tensor"])
  if estimates and step is None:
    notes.append("no estimate: the compiler refused the step")
  return _result(
    target,
    config,
    state,
    first,
    devices,
    mesh=dict(mesh.shape),
    available_bytes=available,
    largest_batch=largest,
    verdicts=[summary.as_data(verdict) for verdict in verdicts],
    remedies=remedies,
    estimate=step,
    notes=notes,
  )


def _target(
  config: TrainConfig, vocab_size: int, topology: Topology, compiler: str
) -> _Target:
  """Returns what to compile for; prints a line if attention is another."""
  if not compiler:
    jax.config.update("jax_num_cpu_devices", topology.num_devices)
  devices = (
    topologies.described_devices(topology) if compiler else jax.devices()
  )
  model = config.model_config(vocab_size)
  if model.dtype == "auto":  # The dtype of the target device.
    model = dataclasses.replace(model, dtype="bfloat16")
  if not (compiler and topology.is_tpu):
    model = dataclasses.replace(model, attention="xla")
    if config.model["attention"] != "xla":
      print(_PLAIN_ATTENTION)
  return _Target(
    topology=topology, compiler=compiler, devices=devices, model=model
  )


def _notes(
  target: _Target,
  first: ahead.Verdict,
  step: EstimatedStep | None,
  *,
  tensor: int,
) -> list[str]:
  """Returns the notes on the compiled step of the run.

  Args:
    target: what it was compiled for.
    first: the compiler's verdict on it.
    step: its estimate, if there is one.
    tensor: devices over which heads are split.
  """
  topology = target.topology
  if not topology.is_tpu:
    return gpu_notes(target.model, num_devices=topology.num_devices)
  rates = topology.chip.cost_model
  unit = rates.matrix_unit if rates else 128  # As in most chips.
  text = first.hlo_text if target.compiler else ""
  return tpu_notes(target.model, text, step, unit=unit, tensor=tensor)


def _result(
  target: _Target,
  config: TrainConfig,
  state: TrainState,
  first: ahead.Verdict,
  devices: list[Any],
  **found: Any,
) -> summary.Preflight:
  """Returns the results.

  Args:
    target: what the run was compiled for.
    config: its config.
    state: its shapes.
    first: the compiler's verdict on its step.
    devices: those of its mesh, in order.
    **found: the other fields.
  """
  topology, held = target.topology, ahead.bytes_per_device(state)
  traffic = collectives.collectives(first.hlo_text)
  return summary.Preflight(
    topology=topology.name,
    compiler=target.compiler,
    device_kind=topology.chip.kind,
    num_devices=topology.num_devices,
    num_slices=topology.num_slices,
    num_parameters=sum(x.size for x in jax.tree.leaves(state.model)),
    state_bytes=held,
    needed_bytes=first.needed_bytes,
    batch_size=config.batch_size,
    collectives=_traffic(traffic, devices),
    num_uncounted=sum(one.is_lower_bound for one in traffic),
    tokens_per_step=config.batch_size * config.data.seq_len,
    flops_per_token=flops.per_token(target.model, config.data.seq_len),
    peak_flops=topology.chip.peak_flops,
    num_steps=config.num_steps,
    checkpoint=_checkpoint(state, held, config.checkpoint, devices),
    **found,
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
