"""Reads the arrays of a step, also from optimizer states of version 0.1.0.

In that version the layers of a parameter were one parameter to every optimizer.
One that combines the elements of a parameter (LAMB, Adafactor) is now applied
to each layer (`unstacked.py`), and its state has other leaf names. Where every
array has the same shape, the state is read under its earlier names, and the
count of steps is repeated for each layer.

Without clipping, the optimizer was the first part of the state; it is now the
second one, as with clipping.

A run may begin or cease to skip spikes when it resumes: the window of recent
losses then is empty, or is not read.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from pausejax.checkpoints import arrays, folders, leaves

_NOTE = (
  "the optimizer state is of version 0.1.0, which updated all layers of a "
  "parameter as one; from here on each layer is updated as one"
)

# (leaf name of this version, the one before), the first that matches.
_RENAMED = (
  (r"(opt_state/\d+)/blocks/(.*)/0/(\w+/\w+)", r"\1/\2/blocks/\3"),
  (r"(opt_state/\d+)/(?:blocks|rest)/(.*)", r"\1/\2"),
)
_AFTER_CLIPPING = re.compile(r"(opt_state/(?:[a-z]+/)?)1/")


def read_leaves(
  path: pathlib.Path,
  items: Mapping[str, Mapping[str, Any]],
  meta: Mapping[str, Any],
) -> tuple[dict[str, jax.Array], str]:
  """Returns (the arrays of a step by leaf name, a note for the user).

  Args:
    path: the step's folder.
    items: item -> leaf name -> shape, dtype and sharding.
    meta: meta.json of the step.

  Raises:
    Damaged: an array differs from the one that was saved.
    UserError: the step has other leaves.
  """
  saved = meta["leaves"]
  if "spikes" in items and not folders.has_item(meta, "spikes"):
    rest = {item: named for item, named in items.items() if item != "spikes"}
    read, note = read_leaves(path, rest, meta)
    return read | {n: _zeros(x) for n, x in items["spikes"].items()}, note
  if "spikes" not in items:
    saved = {n: d for n, d in saved.items() if not n.startswith("spikes/")}
  wanted = {n: x for named in items.values() for n, x in named.items()}
  expected = leaves.shapes_and_dtypes(wanted)
  names = _earlier_names(saved, expected)
  now = {n: expected[n] for n in names}
  kept = {n: d for n, d in saved.items() if n not in names.values()}
  leaves.require_same_leaves({**kept, **now}, expected)
  stored = lambda n: names.get(n, n)
  to_read = {
    item: {stored(n): _in_file(saved[stored(n)], x) for n, x in named.items()}
    for item, named in items.items()
  }
  read = arrays.read_arrays(path, to_read, meta["digests"])
  arrays_now = {n: _fitted(read[stored(n)], x) for n, x in wanted.items()}
  is_earlier = any(old != _unclipped(n) for n, old in names.items())
  return arrays_now, _NOTE if is_earlier else ""


def _earlier_names(
  saved: Mapping[str, list], expected: Mapping[str, list]
) -> dict[str, str]:
  """Returns leaf -> its name in the checkpoint, where that is another one.

  Args:
    saved: name -> [shape, dtype] in the checkpoint.
    expected: name -> [shape, dtype] of this version.
  """
  return {
    name: old
    for name in expected
    if name not in saved
    for old in (_earlier(name), _unclipped(name), _unclipped(_earlier(name)))
    if old in saved and _can_be_fitted(saved[old], expected[name])
  }


def _unclipped(name: str) -> str:
  return _AFTER_CLIPPING.sub(r"\g<1>0/", name, count=1)


def _earlier(name: str) -> str:
  for pattern, replacement in _RENAMED:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, replacement, name)
  return name


def _can_be_fitted(saved: list, expected: list) -> bool:
  """Returns whether `_fitted` gives the value that the layers have now."""
  is_count = saved == [[], "int32"]
  is_placeholder = saved[0] == [1]  # Of a moment that Adafactor does not keep.
  repeated = [expected[0][1:], expected[1]]
  is_repeated = (is_count or is_placeholder) and saved == repeated
  return saved == expected or is_repeated


def _in_file(saved: list, expected: Any) -> jax.ShapeDtypeStruct:
  """Returns shape, dtype and sharding with which to read a saved array."""
  layout = expected.sharding
  if tuple(saved[0]) != expected.shape:
    layout = NamedSharding(layout.mesh, PartitionSpec())
  return jax.ShapeDtypeStruct(saved[0], expected.dtype, sharding=layout)


def _zeros(expected: Any) -> jax.Array:
  return jax.device_put(
    jnp.zeros(expected.shape, expected.dtype), expected.sharding
  )


def _fitted(x: jax.Array, expected: Any) -> jax.Array:
  """Returns an array of `_can_be_fitted`, repeated for each layer if needed."""
  if x.shape == expected.shape:
    return x
  return jax.device_put(jnp.broadcast_to(x, expected.shape), expected.sharding)
