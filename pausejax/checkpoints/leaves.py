"""A train state as named leaves, to write, compare and digest.

A leaf's name is its path, as in model/blocks/query/kernel or opt_state/1/0/mu,
without Flax's wrappers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pausejax import errors

_OTHER_MODEL = "give the settings of its config.json, or another --workdir"
_OTHER_STATE = (
  "all of them are the optimizer's, whose state has another structure: use the "
  "optim settings of its config.json, or start from its parameters with "
  "--init_from and another --workdir"
)
_MAX_ROWS = 12  # Leaves shown in a table of differences.


def flatten(
  tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
  """Returns {name: leaf} of any pytree, down to what `is_leaf` says."""
  paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
  return {_name(path): leaf for path, leaf in paths}


def unflatten(tree: Any, leaves: Mapping[str, Any]) -> Any:
  """Returns `tree` with every leaf replaced by the one of the same name."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: leaves[_name(path)], tree
  )


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts, one level for each part of a name."""
  root: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split("/")
    node = root
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return root


def shapes_and_dtypes(leaves: Mapping[str, Any]) -> dict[str, list]:
  """Returns {name: [shape, dtype]} as JSON values."""
  return {n: [list(x.shape), str(x.dtype)] for n, x in leaves.items()}


def require_same_leaves(
  saved: Mapping[str, list], expected: Mapping[str, list]
) -> None:
  """Raises a UserError with a table of differing leaves unless both are equal.

  Orbax alone would silently cast to another dtype.
  """
  rows = []
  for name in sorted(saved.keys() | expected.keys()):
    a, b = _text(saved.get(name)), _text(expected.get(name))
    if a != b:
      rows.append(f"  {name}: checkpoint {a}, this run {b}")
  if rows:
    more = len(rows) - _MAX_ROWS
    table = rows[:_MAX_ROWS] + ([f"  and {more} more"] if more > 0 else [])
    is_state = all(row.startswith("  opt_state/") for row in rows)
    raise errors.UserError(
      f"the checkpoint does not fit this run: {len(rows)} leaves differ; "
      + (_OTHER_STATE if is_state else _OTHER_MODEL),
      details="\n".join(table),
    )


@jax.jit
def digests(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns a digest of two uint32 words per leaf; any flipped bit changes it.

  Each element's bits are mixed with its index and summed modulo 2^32. The sum
  does not depend on the order, hence not on the sharding.
  """
  return {name: _digest(x) for name, x in leaves.items()}


def _digest(x: jax.Array) -> jax.Array:
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, words).astype(jnp.uint32)
  index = jnp.zeros(x.shape, jnp.uint32)
  stride = 1
  for axis in range(x.ndim - 1, -1, -1):
    along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    index += along * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  key = _mix(index + jnp.uint32(0x9E3779B9))
  lanes = (_mix(bits ^ key), _mix(bits + key * jnp.uint32(0x85EBCA6B)))
  return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in lanes])


def _mix(h: jax.Array) -> jax.Array:
  """A 32-bit finalizer (Wellons' lowbias32): each bit affects every bit."""
  h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
  h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
  return h ^ (h >> 16)


def _name(path) -> str:
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  return name.removesuffix("/value")  # The array inside a `nnx.Param`.


def _text(description: list | None) -> str:
  if description is None:
    return "has none"
  shape, dtype = description
  return f"{dtype}{list(shape)}"
