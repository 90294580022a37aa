"""Which mesh axis each logical axis lies on: one table, read everywhere.

The mesh has four axes, the one that needs the fastest network last:

  data      copies the parameters and splits the rows of the batch;
  fsdp      splits the parameters and the rows of the batch;
  sequence  splits the parameters and the positions of every row;
  tensor    splits heads, feed-forward and vocabulary.

Over several slices (TPU pods joined by the data-center network; hosts of GPUs)
`data` is spread over the slices first, then `fsdp`; `sequence` and `tensor`
stay inside one.

Each parameter names its logical axes where it is made (`model/decoder.py`), its
optimizer moments inherit them, and `shardings` turns them into NamedShardings
that the program hands to jit. Nothing is left to inference.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pausejax import errors
from pausejax.config import MeshConfig, ModelConfig, TrainConfig

MESH_AXES = tuple(field.name for field in dataclasses.fields(MeshConfig))

# Axes over which the tokens of a batch are split.
TOKEN_AXES = ("data", "fsdp", "sequence")

LOGICAL_RULES: dict[str, str | tuple[str, ...] | None] = {
  "batch": ("data", "fsdp"),
  "sequence": "sequence",
  "layers": None,
  "embed": ("sequence", "fsdp"),
  "vocab": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "mlp": "tensor",
  "position": "tensor",
  "norm": None,
}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the mesh of the devices, neighbours close on the network.

  Args:
    config: sizes of the axes; a -1 takes what the others leave.
    devices: all devices of the job by default. Those with different
      `slice_index` lie in different slices.

  Raises:
    UsageError: the axes do not multiply to the number of devices, or do not
      divide over the slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _axis_sizes(config, len(devices))
  across = _slices_per_axis(sizes, _num_slices(devices))
  within = [size // n for size, n in zip(sizes, across, strict=True)]
  if math.prod(across) == 1:
    array = mesh_utils.create_device_mesh(
      within, devices, allow_split_physical_axes=True
    )
  else:
    array = mesh_utils.create_hybrid_device_mesh(
      within, across, devices, allow_split_physical_axes=True
    )
  return Mesh(array, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the mesh that splits rows only, over all devices or those given."""
  config = MeshConfig(data=-1, fsdp=1, sequence=1, tensor=1)
  return make_mesh(config, devices)


def _axis_sizes(config: MeshConfig, num_devices: int) -> list[int]:
  asked = dataclasses.asdict(config)
  rest = -math.prod(asked.values())
  sizes = [
    max(1, num_devices // rest) if size == -1 else size
    for size in asked.values()
  ]
  axes = " x ".join(f"{name} {size}" for name, size in asked.items())
  errors.require(
    math.prod(sizes) == num_devices,
    f"mesh: {axes} does not make the {num_devices} devices found; one axis "
    "may be -1",
  )
  return sizes


def _num_slices(devices: Sequence[Any]) -> int:
  return len({getattr(device, "slice_index", 0) for device in devices})


def _slices_per_axis(sizes: Sequence[int], num_slices: int) -> list[int]:
  """Returns over how many slices each axis reaches: data first, then fsdp."""
  data, fsdp, *inner = sizes
  over_data = math.gcd(data, num_slices)
  over_fsdp = num_slices // over_data
  errors.require(
    fsdp % over_fsdp == 0,
    f"mesh: {num_slices} slices do not divide data {data} x fsdp {fsdp}; "
    f"make mesh.data a multiple of {num_slices}",
  )
  return [over_data, over_fsdp, *(1 for _ in inner)]


def check_run(mesh: Mesh, config: TrainConfig, model: ModelConfig) -> None:
  """Raises unless a run's batch and model divide over the mesh."""
  microbatch = config.batch_size // config.optim.num_microbatches
  sizes = {
    "batch_size / optim.num_microbatches": (microbatch, "batch"),
    "data.seq_len": (config.data.seq_len, "sequence"),
    "model.num_heads": (model.num_heads, "heads"),
    "model.num_kv_heads": (model.num_kv_heads, "kv_heads"),
    "model.d_ff": (model.d_ff, "mlp"),
    "model.d_model": (model.d_model, "embed"),
    "vocabulary rows": (model.num_vocab_rows, "vocab"),
  }
  if model.position == "learned":
    sizes["model.max_seq_len"] = (model.max_seq_len, "position")
  if config.eval.num_examples:
    sizes["eval.batch_size"] = (config.eval.batch_size, "batch")
  check_divisible(mesh, sizes)


def check_divisible(mesh: Mesh, sizes: dict[str, tuple[int, str]]) -> None:
  """Raises unless each named size divides over its logical axis.

  Args:
    mesh: the mesh.
    sizes: what the user calls it -> (its size, its logical axis).
  """
  for name, (size, logical) in sizes.items():
    axes, parts = _mesh_axes(logical), _num_parts(mesh, logical)
    errors.require(
      size % parts == 0,
      f"{name} {size} is not divisible by the mesh's {' x '.join(axes)} "
      f"({parts}); use a multiple of {parts}",
    )


def _mesh_axes(logical: str) -> tuple[str, ...]:
  rule = LOGICAL_RULES[logical] or ()
  return (rule,) if isinstance(rule, str) else rule


def _num_parts(mesh: Mesh, logical: str) -> int:
  return math.prod(mesh.shape[axis] for axis in _mesh_axes(logical))


def spec(*logical_axes: str | None) -> PartitionSpec:
  """Returns the PartitionSpec of an array with these logical axes."""
  return PartitionSpec(*(a and LOGICAL_RULES[a] for a in logical_axes))


def shardings(tree: Any, mesh: Mesh) -> Any:
  """Returns the tree with a NamedSharding in place of every array.

  A `nnx.Param` is laid out by its `axes`, with "layers" in front where it is
  stacked; the moments that an optimizer makes from it are Params too. Anything
  else (counters, factored moments of another rank) is replicated, and so are
  the dimensions of a moment of another shape that do not divide over the mesh.
  `check_run` refuses parameters that do not.
  """

  def of_array(x: nnx.Variable, shape: tuple[int, ...]) -> NamedSharding:
    axes = logical_axes(x, len(shape))
    divides = lambda a, n: a is not None and n % _num_parts(mesh, a) == 0
    whole = [
      a if divides(a, n) else None for a, n in zip(axes, shape, strict=True)
    ]
    return NamedSharding(mesh, spec(*whole))

  def of_variable(x: Any) -> Any:
    if not isinstance(x, nnx.Variable):
      return NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: of_array(x, a.shape), x)

  return jax.tree.map(
    of_variable, tree, is_leaf=lambda x: isinstance(x, nnx.Variable)
  )


def placed(shapes: Any, mesh: Mesh) -> Any:
  """Returns the tree of ShapeDtypeStructs with a sharding in each."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings(shapes, mesh),
  )


def logical_axes(param: nnx.Variable, ndim: int) -> tuple[str | None, ...]:
  """Returns one logical axis a dimension of a parameter or its moment."""
  axes = param.get_metadata("axes")
  if ndim == len(axes) + 1:
    axes = ("layers", *axes)
  return axes if ndim == len(axes) else (None,) * ndim


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the layout of a batch: its rows are split, nothing else."""
  return NamedSharding(mesh, spec("batch"))


def host_part(mesh: Mesh, process_index: int) -> tuple[int, int]:
  """Returns (index, count): the part of every batch that a process reads.

  Processes whose devices hold the same rows, since tensor or sequence reaches
  over several, have the same index and must read the same part.

  Raises:
    UsageError: two processes hold some rows in common and others not.
  """
  num_parts = _num_parts(mesh, "batch")
  held: dict[int, set[int]] = {}
  for part, devices in enumerate(mesh.devices.reshape(num_parts, -1)):
    for device in devices:
      held.setdefault(device.process_index, set()).add(part)
  distinct = sorted({tuple(sorted(parts)) for parts in held.values()})
  errors.require(
    sum(map(len, distinct)) == num_parts
    and len({len(parts) for parts in distinct}) == 1,
    f"mesh {dict(mesh.shape)}: the processes' devices do not share the rows "
    "of a batch evenly; let mesh.tensor and mesh.sequence divide the devices "
    "of a process, or be multiples of them",
  )
  return distinct.index(tuple(sorted(held[process_index]))), len(distinct)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Puts the rows of this process on its devices, as one global batch."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def num_shards(*axes: str) -> int:
  """Returns the devices along these axes of the mesh in scope, 1 without."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape.get(axis, 1) for axis in axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Fixes the layout of an activation; does nothing without a mesh in scope."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(*axes))
