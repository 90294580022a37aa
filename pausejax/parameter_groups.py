"""Groups of parameters for the optimizer, derived from their logical axes.

The number of dimensions does not identify a matrix: layers are stacked along a
leading axis, and heads are a separate dimension.
"""

import collections
import enum
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx


class Kind(enum.Enum):
  """Kinds of parameters; the values are names for the user."""

  TOKEN_EMBEDDING = "token embedding"
  POSITION_EMBEDDING = "position embedding"
  BLOCK_MATRIX = "block matrices"
  HEAD = "head"
  VECTOR = "norm scales and biases"


_TABLES = {
  ("vocab", "embed"): Kind.TOKEN_EMBEDDING,
  ("position", "embed"): Kind.POSITION_EMBEDDING,
  ("embed", "vocab"): Kind.HEAD,
  ("vocab",): Kind.HEAD,
}


def kind(param: nnx.Variable) -> Kind:
  """Returns the kind of a parameter, or of the parameter of a moment."""
  axes = param.get_metadata("axes")
  default = Kind.BLOCK_MATRIX if "embed" in axes else Kind.VECTOR
  return _TABLES.get(axes, default)


def is_decayed(param: nnx.Variable, decay_axes: tuple[str, ...]) -> bool:
  """Returns whether weight decay applies: to matrices with one of the axes."""
  axes = param.get_metadata("axes")
  return "embed" in axes and any(a in decay_axes for a in axes)


def each(function: Callable[[nnx.Variable], Any], params: Any) -> Any:
  """Returns the tree with `function` applied to each parameter."""
  return jax.tree.map(function, params, is_leaf=_is_param)


def each_named(function: Callable[..., Any], params: Any, *more: Any) -> Any:
  """Returns the tree with `function` applied to each name and parameter.

  Args:
    function: (path, as in blocks/query/kernel; parameter; what each other tree
      has in its place) -> new value.
    params: the parameters.
    *more: other trees that have anything in place of parameters.
  """
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return jax.tree_util.tree_map_with_path(
    lambda path, *p: function(name(path), *p), params, *more, is_leaf=_is_param
  )


def decay_mask(decay_axes: tuple[str, ...]) -> Callable[[Any], Any]:
  """Returns a function: parameters -> the same tree, True where decayed."""

  def mask(params: Any) -> Any:
    return each(
      lambda p: jax.tree.map(lambda _: is_decayed(p, decay_axes), p), params
    )

  return mask


def muon_dimensions(params: Any) -> Any:
  """Returns Muon's dimension numbers of each parameter; None: not for Muon.

  Block matrices map "embed" to the other axes or back; heads and head_dim
  together are one axis of the matrix. The leading axis of stacked layers is
  excluded: optax maps over it.
  """

  def dimensions(param: nnx.Variable) -> Any:
    if kind(param) != Kind.BLOCK_MATRIX:
      return None
    axes = param.get_metadata("axes")
    # Counted from the end, so that stacking does not change the numbers.
    embed = axes.index("embed") - len(axes)
    rest = tuple(i for i in range(-len(axes), 0) if i != embed)
    is_input = axes[0] == "embed"
    return optax.contrib.MuonDimensionNumbers(
      reduction_axis=(embed,) if is_input else rest,
      output_axis=rest if is_input else (embed,),
    )

  return each(dimensions, params)


def sizes(
  params: Any, decay_axes: tuple[str, ...]
) -> dict[tuple[Kind, bool], int]:
  """Returns (kind, is_decayed) -> number of elements, in `Kind` order."""
  total: dict[tuple[Kind, bool], int] = collections.Counter()
  for param in jax.tree.leaves(params, is_leaf=_is_param):
    key = kind(param), is_decayed(param, decay_axes)
    total[key] += sum(x.size for x in jax.tree.leaves(param))
  order = list(Kind)
  return dict(sorted(total.items(), key=lambda item: order.index(item[0][0])))


def _is_param(x: Any) -> bool:
  return isinstance(x, nnx.Variable)
