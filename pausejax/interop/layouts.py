"""Our leaves as tensors of another library, and back.

A leaf holds one parameter of all layers, [L, ...]; heads are an axis of their
own. Another library has one matrix per layer, [out, in], and may keep queries,
keys and values in one. Both directions move values only, so that writing what
was read gives the same bits.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pausejax.interop.family import Family

# Last part of a leaf's name -> last part of the tensor's.
_SUFFIXES = {"bias": "bias", "head_bias": "bias"}
_BLOCKS = "blocks/"


@dataclasses.dataclass(frozen=True)
class Part:
  """The part of a leaf that one tensor holds.

  Attributes:
    leaf: name of the leaf, as in "blocks/query/kernel".
    layer: index of the layer, None for a leaf that has none.
    shape: the shape of the part.
    num_in: number of leading axes that are the input of a matrix; 0: of a
      vector or a table.
  """

  leaf: str
  layer: int | None
  shape: tuple[int, ...]
  num_in: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of the other library.

  Attributes:
    name: its name in the file.
    shape: its shape.
    parts: what it holds of our leaves, in order.
  """

  name: str
  shape: tuple[int, ...]
  parts: tuple[Part, ...]

  def of_any_layer(self) -> "Tensor":
    """Returns it without name and layer, equal for all layers."""
    parts = tuple(dataclasses.replace(p, layer=None) for p in self.parts)
    return dataclasses.replace(self, name="", parts=parts)


def tensors(
  family: Family,
  shapes: Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]],
  vocab_size: int,
) -> list[Tensor]:
  """Returns the tensors of a model.

  Args:
    family: whose names they have.
    shapes: our leaf -> (its shape, its logical axes).
    vocab_size: rows of the embedding in the other library.
  """
  grouped: dict[str, list[Part]] = {}
  for leaf, (shape, axes) in shapes.items():
    for name, part in _parts(family, leaf, shape, axes, vocab_size):
      grouped.setdefault(name, []).append(part)
  return [
    Tensor(name, _shape(family, parts), tuple(sorted(parts, key=_order)))
    for name, parts in grouped.items()
  ]


def _order(part: Part) -> int:
  """Returns the rank of the part in a tensor that has several."""
  name = part.leaf.split("/")[-2] if "/" in part.leaf else ""
  return ("query", "key", "value", "gate", "expand", name).index(name)


def _parts(family, leaf, shape, axes, vocab_size) -> Iterator[tuple[str, Part]]:
  """Yields (name of the tensor, part of the leaf), one for each layer."""
  is_block = leaf.startswith(_BLOCKS)
  module, _, kind = leaf.removeprefix(_BLOCKS).partition("/")
  suffix = _SUFFIXES.get(kind or module, "weight")
  name = f"{family.modules[module]}.{suffix}"
  if is_block:
    num_layers, *shape = shape
    axes = axes[1:] if len(axes) > len(shape) else axes
  if "vocab" in axes:
    shape = [
      vocab_size if a == "vocab" else n
      for a, n in zip(axes, shape, strict=True)
    ]
  num_in = 0
  if kind == "kernel" or module == "untied_head":
    num_in = 1 if axes[0] == "embed" else len(shape) - 1
  shape = tuple(shape)
  if not is_block:
    yield name, Part(leaf, None, shape, num_in)
    return
  for layer in range(num_layers):
    yield name.format(layer), Part(leaf, layer, shape, num_in)


def _flat(part: Part) -> tuple[int, ...]:
  """Returns the shape of a part as a vector, a table or a matrix [in, out]."""
  if part.num_in:
    return math.prod(part.shape[: part.num_in]), math.prod(
      part.shape[part.num_in :]
    )
  is_bias = part.leaf.endswith("/bias")
  return (math.prod(part.shape),) if is_bias else part.shape


def _shape(family: Family, parts: list[Part]) -> tuple[int, ...]:
  flats = [_flat(part) for part in parts]
  if len(flats[0]) == 1:
    return (sum(n for (n,) in flats),)
  if not parts[0].num_in:
    return flats[0]
  num_in, num_out = flats[0][0], sum(n for _, n in flats)
  return _as_stored(family, parts[0], (num_in, num_out))


def _is_transposed(family: Family, part: Part) -> bool:
  """Returns whether the tensor is [in, out], as our matrices are."""
  return family.is_transposed and part.leaf != "untied_head"


def _as_stored(family: Family, part: Part, shape: tuple[int, int]):
  return shape if _is_transposed(family, part) else shape[::-1]


def from_tensor(family: Family, tensor: Tensor, x: Any) -> list[Any]:
  """Returns the parts that a tensor holds, in its order.

  Args:
    family: whose tensor it is.
    tensor: what it holds.
    x: its values, an array of NumPy or JAX, like the parts.
  """
  first = tensor.parts[0]
  if first.num_in and not _is_transposed(family, first):
    x = x.T
  if len(tensor.parts) == 1:
    return [x.reshape(first.shape)]
  if family.fused == "interleaved":
    num_heads, head_dim = first.shape[-2:]
    heads = x.reshape(*x.shape[:-1], num_heads, len(tensor.parts), head_dim)
    return [heads[..., i, :] for i in range(len(tensor.parts))]
  pieces, start = [], 0
  for part in tensor.parts:
    end = start + _flat(part)[-1]
    pieces.append(x[..., start:end].reshape(part.shape))
    start = end
  return pieces


def to_tensor(
  family: Family, tensor: Tensor, parts: list[np.ndarray]
) -> np.ndarray:
  """Returns the contiguous tensor of parts: inverse of `from_tensor`."""
  first = tensor.parts[0]
  if len(parts) > 1 and family.fused == "interleaved":
    stacked = np.stack(parts, axis=-2)
    lead = stacked.shape[:-3]
    x = stacked.reshape(*lead, -1)
  else:
    flats = [
      a.reshape(_flat(p)) for a, p in zip(parts, tensor.parts, strict=True)
    ]
    x = np.concatenate(flats, axis=-1) if len(flats) > 1 else flats[0]
  if first.num_in and not _is_transposed(family, first):
    x = x.T
  return np.ascontiguousarray(x)
