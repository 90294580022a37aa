"""Optimizer states of version 0.1.0, whose layers were one stacked parameter.

An optimizer that combines the elements of a parameter (LAMB, Adafactor) has
since been applied to each layer (`unstacked.py`), and its state has other leaf
names. Where every array has the same shape, the state is read under its earlier
names, and the count of steps is repeated for each layer.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

NOTE = (
  "the optimizer state is of version 0.1.0, which updated all layers of a "
  "parameter as one; from here on each layer is updated as one"
)

# (leaf name of this version, the one before), the first that matches.
_RENAMED = (
  (r"(opt_state/\d+)/blocks/(.*)/0/(\w+/\w+)", r"\1/\2/blocks/\3"),
  (r"(opt_state/\d+)/(?:blocks|rest)/(.*)", r"\1/\2"),
)


def earlier_names(
  saved: Mapping[str, list], expected: Mapping[str, list]
) -> dict[str, str]:
  """Returns leaf -> its name in the checkpoint, where that is another one.

  Args:
    saved: name -> [shape, dtype] in the checkpoint.
    expected: name -> [shape, dtype] of this version.
  """
  names = {n: _earlier(n) for n in expected if n not in saved}
  return {
    name: old
    for name, old in names.items()
    if old in saved and _can_be_fitted(saved[old], expected[name])
  }


def _earlier(name: str) -> str:
  for pattern, replacement in _RENAMED:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, replacement, name)
  return name


def _can_be_fitted(saved: list, expected: list) -> bool:
  """Returns whether `fitted` gives the value that the layers have now."""
  is_count = saved == [[], "int32"]
  is_placeholder = saved[0] == [1]  # Of a moment that Adafactor does not keep.
  repeated = [expected[0][1:], expected[1]]
  is_repeated = (is_count or is_placeholder) and saved == repeated
  return saved == expected or is_repeated


def in_file(saved: list, expected: Any) -> jax.ShapeDtypeStruct:
  """Returns shape, dtype and sharding with which to read a saved array."""
  layout = expected.sharding
  if tuple(saved[0]) != expected.shape:
    layout = NamedSharding(layout.mesh, PartitionSpec())
  return jax.ShapeDtypeStruct(saved[0], expected.dtype, sharding=layout)


def fitted(x: jax.Array, expected: Any) -> jax.Array:
  """Returns an array of `_can_be_fitted`, repeated for each layer if needed."""
  if x.shape == expected.shape:
    return x
  return jax.device_put(jnp.broadcast_to(x, expected.shape), expected.sharding)
