"""The mesh, and the mesh axes over which each logical axis is sharded.

The mesh has four axes, the one that needs the fastest network last:

  data      replicates the parameters and splits the rows of the batch;
  fsdp      splits the parameters and the rows of the batch;
  sequence  splits the parameters and the positions of every row;
  tensor    splits heads, feed-forward and vocabulary.

Over several slices (TPU pods connected by the data-center network; hosts of
GPUs), `data` spans the slices first, then `fsdp`; `sequence` and `tensor` stay
within one slice.

Each parameter names its logical axes where it is created (`model/`),
its optimizer moments inherit them, and `shardings` converts them to
NamedShardings, which the program passes to jit. No sharding is inferred.

A program makes the mesh and puts it in scope with `jax.set_mesh`; no function
takes it as an argument, and all read it here, in and outside of jit.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils, multihost_utils
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
  """Returns a mesh whose neighboring devices are close on the network.

  Args:
    config: sizes of the axes; one may be -1 for the remaining factor.
    devices: all devices of the job by default. Devices with different
      `slice_index` are in different slices.

  Raises:
    UsageError: the product of the sizes is not the number of devices, or the
      axes do not divide over the slices.
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
  """Returns a mesh that only splits rows, over all or the given devices."""
  config = MeshConfig(data=-1, fsdp=1, sequence=1, tensor=1)
  return make_mesh(config, devices)


def current_mesh() -> Mesh:
  """Returns the mesh in scope, with its devices; only outside of jit.

  Raises:
    RuntimeError: no mesh is in scope.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    raise RuntimeError("no mesh is in scope: call under jax.set_mesh(mesh)")
  return mesh


def device_kind() -> str | None:
  """Returns the kind of the mesh's devices; None without a mesh in scope."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device and device.device_kind


def platform() -> str:
  """Returns "tpu", "gpu" or "cpu": what runs the computation in scope.

  The devices of a mesh in scope may be described, and not there.
  """
  kind = device_kind() or ""
  described = {"TPU": "tpu", "NVIDIA": "gpu"}.get(kind.partition(" ")[0])
  return described or jax.default_backend()


def has_mesh() -> bool:
  """Returns whether a mesh is in scope."""
  return not jax.sharding.get_abstract_mesh().empty


def num_shards(*axes: str) -> int:
  """Returns the number of devices along these axes; 1 without a mesh."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape.get(axis, 1) for axis in axes)


def _axis_sizes(config: MeshConfig, num_devices: int) -> list[int]:
  given = dataclasses.asdict(config)
  rest = -math.prod(given.values())
  sizes = [
    max(1, num_devices // rest) if size == -1 else size
    for size in given.values()
  ]
  axes = " x ".join(f"{name} {size}" for name, size in given.items())
  errors.require(
    math.prod(sizes) == num_devices,
    f"mesh: {axes} does not fit {num_devices} devices; change the sizes, or "
    "set one axis to -1",
  )
  return sizes


def _num_slices(devices: Sequence[Any]) -> int:
  return len({getattr(device, "slice_index", 0) for device in devices})


def _slices_per_axis(sizes: Sequence[int], num_slices: int) -> list[int]:
  """Returns how many slices each axis spans: data first, then fsdp."""
  data, fsdp, *inner = sizes
  over_data = math.gcd(data, num_slices)
  over_fsdp = num_slices // over_data
  errors.require(
    fsdp % over_fsdp == 0,
    f"mesh: {num_slices} slices do not divide data {data} x fsdp {fsdp}; "
    f"make mesh.data a multiple of {num_slices}",
  )
  return [over_data, over_fsdp, *(1 for _ in inner)]


def check_run(config: TrainConfig, model: ModelConfig) -> None:
  """Raises unless a run's batch and model divide over the mesh."""
  parts = config.optim.num_microbatches
  for rows in config.batch_sizes.sizes:
    name = f"{config.batch_sizes.field(rows)} / optim.num_microbatches"
    check_divisible({name: (rows // parts, "batch")})
  sizes = {
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
  check_divisible(sizes)


def check_divisible(sizes: dict[str, tuple[int, str]]) -> None:
  """Raises unless each named size divides over its logical axis.

  Args:
    sizes: name for the user -> (size, logical axis).
  """
  for name, (size, logical) in sizes.items():
    axes, parts = _mesh_axes(logical), _num_parts(logical)
    errors.require(
      size % parts == 0,
      f"{name} {size} is not divisible by the mesh's {' x '.join(axes)} "
      f"({parts}); use a multiple of {parts}",
    )


def _mesh_axes(logical: str) -> tuple[str, ...]:
  rule = LOGICAL_RULES[logical] or ()
  return (rule,) if isinstance(rule, str) else rule


def _num_parts(logical: str) -> int:
  return num_shards(*_mesh_axes(logical))


def spec(*logical_axes: str | None) -> PartitionSpec:
  """Returns the PartitionSpec of an array with these logical axes."""
  return PartitionSpec(*(a and LOGICAL_RULES[a] for a in logical_axes))


def shardings(tree: Any) -> Any:
  """Returns the tree with a NamedSharding in place of every array.

  A `nnx.Param` is sharded by its `axes`, preceded by "layers" if it is stacked;
  the moments of an optimizer are Params, too. Anything else (counters, factored
  moments of another rank) is replicated, and so are the dimensions of a moment
  of another shape that do not divide over the mesh. `check_run` rejects
  parameters that do not divide.
  """
  mesh = current_mesh()

  def of_array(x: nnx.Variable, shape: tuple[int, ...]) -> NamedSharding:
    axes = logical_axes(x, len(shape))
    divides = lambda a, n: a is not None and n % _num_parts(a) == 0
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


def placed(shapes: Any) -> Any:
  """Returns the tree of ShapeDtypeStructs with a sharding in each."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings(shapes),
  )


def logical_axes(param: nnx.Variable, ndim: int) -> tuple[str | None, ...]:
  """Returns one logical axis per dimension of a parameter or its moment."""
  axes = param.get_metadata("axes")
  if ndim == len(axes) + 1:
    axes = ("layers", *axes)
  return axes if ndim == len(axes) else (None,) * ndim


def batch_sharding() -> NamedSharding:
  """Returns the sharding of a batch: only its rows are split."""
  return NamedSharding(current_mesh(), spec("batch"))


def replicated() -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(current_mesh(), PartitionSpec())


def host_part(process_index: int) -> tuple[int, int]:
  """Returns (index, count): the part of every batch that a process reads.

  Processes whose devices hold the same rows, because tensor or sequence spans
  several processes, have the same index and must read the same part.

  Raises:
    UsageError: two processes have only some of their rows in common.
  """
  mesh, num_parts = current_mesh(), _num_parts("batch")
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


def padded_size(size: int, logical: str) -> int:
  """Returns the smallest multiple of a logical axis' parts >= `size`."""
  parts = _num_parts(logical)
  return -(-size // parts) * parts


def put_same_rows(x: np.ndarray) -> jax.Array:
  """Returns a global batch of which every process has all rows."""
  return jax.make_array_from_callback(x.shape, batch_sharding(), x.__getitem__)


def fetch_rows(x: jax.Array) -> np.ndarray:
  """Returns all rows of a batch on every process."""
  if jax.process_count() == 1:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def put_batch(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Returns a global batch from the rows of each process."""
  sharding = batch_sharding()
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains an activation's sharding; no effect without a mesh in scope."""
  if not has_mesh():
    return x
  return jax.lax.with_sharding_constraint(x, spec(*axes))
