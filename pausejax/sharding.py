"""Which mesh axis each logical axis lies on: one table, read everywhere.

The mesh has three axes. `data` copies the parameters and splits the batch,
`fsdp` splits both, `tensor` splits heads, feed-forward and vocabulary. Each
parameter names its logical axes where it is made (`model/decoder.py`), its
optimizer moments inherit them, and `shardings` turns them into NamedShardings
that the program hands to jit. Nothing is left to inference.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pausejax import errors
from pausejax.settings import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")

BATCH_AXES = ("data", "fsdp")

LOGICAL_RULES: dict[str, str | tuple[str, ...] | None] = {
  "batch": BATCH_AXES,
  "layers": None,
  "embed": "fsdp",
  "vocab": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "mlp": "tensor",
  "position": None,
  "norm": None,
}


def make_mesh(config: MeshConfig) -> Mesh:
  """Returns the mesh of all devices; a -1 takes what the other axes leave.

  Raises:
    UsageError: the axes do not multiply to the number of devices.
  """
  num_devices = jax.device_count()
  sizes = [config.data, config.fsdp, config.tensor]
  if -1 in sizes:
    sizes[sizes.index(-1)] = max(1, num_devices // -int(np.prod(sizes)))
  errors.require(
    int(np.prod(sizes)) == num_devices,
    f"mesh: data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} "
    f"does not make the {num_devices} devices found; one axis may be -1",
  )
  return jax.make_mesh(
    tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
  )


def check_divisible(mesh: Mesh, sizes: dict[str, tuple[int, str]]) -> None:
  """Raises unless each named size divides over its logical axis.

  Args:
    mesh: the mesh.
    sizes: what the user calls it -> (its size, its logical axis).
  """
  for name, (size, logical) in sizes.items():
    rule = LOGICAL_RULES[logical] or ()
    axes = (rule,) if isinstance(rule, str) else rule
    parts = int(np.prod([mesh.shape[a] for a in axes]))
    errors.require(
      size % parts == 0,
      f"{name} {size} is not divisible by the mesh's {' x '.join(axes)} "
      f"({parts}); use a multiple of {parts}",
    )


def spec(*logical_axes: str | None) -> PartitionSpec:
  """Returns the PartitionSpec of an array with these logical axes."""
  return PartitionSpec(*(a and LOGICAL_RULES[a] for a in logical_axes))


def shardings(tree: Any, mesh: Mesh) -> Any:
  """Returns the tree with a NamedSharding in place of every array.

  A `nnx.Param` is laid out by its `axes`, with "layers" in front where it is
  stacked; the moments that an optimizer makes from it are Params too. Anything
  else (counters, factored moments of another rank) is replicated.
  """

  def of_variable(x: Any) -> Any:
    if not isinstance(x, nnx.Variable):
      return NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
      lambda a: NamedSharding(mesh, spec(*logical_axes(x, a.ndim))), x
    )

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
  """Returns the layout of a batch: rows over data and fsdp."""
  return NamedSharding(mesh, spec("batch"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Puts the rows of this process on its devices, as one global batch."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Fixes the layout of an activation; does nothing without a mesh in scope."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(*axes))
