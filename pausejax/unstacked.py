"""Makes optimizers treat stacked layers as separate layers.

The parameters of all blocks are stacked along a leading axis. Elementwise
optimizers, such as AdamW, work unchanged. An optimizer that takes the norm of a
leaf or factors it (LAMB, Adafactor) would mix the layers, so it is mapped over
them. An optimizer that combines several leaves (DoG) receives each layer as
separate leaves, since the rounding of its sums depends on them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from pausejax.model.blocks import Block

Optimizer = optax.GradientTransformation


def adapt(optimizer: Optimizer, jaxpr: core.Jaxpr) -> Optimizer:
  """Returns an optimizer that gives the result of separate layers.

  Args:
    optimizer: any optax optimizer.
    jaxpr: the jaxpr of its initialization and one step, traced with the
      parameters as their own gradients, so that every input is one leaf.
  """
  if not _mixes_elements(jaxpr):
    return optimizer
  return _separated(optimizer) if _mixes_leaves(jaxpr) else _mapped(optimizer)


def _mixes_elements(jaxpr: core.Jaxpr) -> bool:
  """Returns whether any array is computed from arrays of other shapes.

  This holds for reductions, products and factored moments, but not for
  elementwise arithmetic or scalars such as the step count.
  """
  for equation in jaxpr.eqns:
    inner = list(_inner_jaxprs(equation))
    if any(map(_mixes_elements, inner)):
      return True
    shapes = set(map(_shape, equation.invars)) - {()}
    outputs = set(map(_shape, equation.outvars))
    if shapes and not inner and (len(shapes) > 1 or outputs != shapes):
      return True
  return False


def _mixes_leaves(jaxpr: core.Jaxpr) -> bool:
  """Returns whether any output depends on more than one input."""
  none: frozenset[Any] = frozenset()
  sources = {v: frozenset([v]) for v in jaxpr.invars}
  read = lambda v: none if isinstance(v, core.Literal) else sources.get(v, none)
  for equation in jaxpr.eqns:
    merged = none.union(*map(read, equation.invars))
    sources |= dict.fromkeys(equation.outvars, merged)
  return any(len(read(v)) > 1 for v in jaxpr.outvars)


def _shape(x: core.Var | core.Literal) -> tuple[int, ...]:
  return getattr(x.aval, "shape", ())


def _inner_jaxprs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
  """Yields the jaxprs that an operation calls."""
  for value in equation.params.values():
    for one in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one


class _MappedState(NamedTuple):
  """The stacked state of the blocks, and the state of everything else."""

  blocks: Any
  rest: Any


def _mapped(optimizer: Optimizer) -> Optimizer:
  """Returns the optimizer, mapped over the layers of a tree's `Block`s."""

  def init(params: Any) -> _MappedState:
    blocks, rest = _split(params)
    stacked = jax.vmap(optimizer.init)(blocks) if blocks else None
    return _MappedState(stacked, optimizer.init(rest))

  def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    parts = zip(_split(updates), state, _split(params), strict=True)
    of_blocks, of_rest = parts
    rest, rest_state = optimizer.update(*of_rest)
    if not of_blocks[0]:
      return rest, _MappedState(None, rest_state)
    blocks, blocks_state = jax.vmap(optimizer.update)(*of_blocks)
    return _join(blocks, rest), _MappedState(blocks_state, rest_state)

  return optax.GradientTransformation(init, update)


class _Placeholder(NamedTuple):
  """A placeholder for the blocks in a tree without them."""


def _split(tree: Any) -> tuple[list[Block], Any]:
  """Returns the blocks of a tree and the tree without them."""
  blocks = [x for x in jax.tree.leaves(tree, is_leaf=_is_block) if _is_block(x)]
  hide = lambda x: _Placeholder() if _is_block(x) else x
  return blocks, jax.tree.map(hide, tree, is_leaf=_is_block)


def _join(blocks: list[Block], rest: Any) -> Any:
  """The inverse of `_split`."""
  is_gap = lambda x: isinstance(x, _Placeholder)
  remaining = iter(blocks)
  return jax.tree.map(
    lambda x: next(remaining) if is_gap(x) else x, rest, is_leaf=is_gap
  )


class _Layers(NamedTuple):
  """The layers of a stack, one `Block` each."""

  layers: tuple[Block, ...]


def _separated(optimizer: Optimizer) -> Optimizer:
  """Returns the optimizer, applied to each layer as a separate `Block`.

  Its state is stacked again after each step, so that it is sharded and saved
  like any other. Compilation time grows with the number of layers.
  """

  def init(params: Any) -> Any:
    return _stack(optimizer.init(_unstack(params, _num_layers(params))))

  def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    count = _num_layers(params)
    args = [_unstack(tree, count) for tree in (updates, state, params)]
    return _stack(optimizer.update(*args))

  return optax.GradientTransformation(init, update)


def _num_layers(params: Any) -> int:
  """Returns the number of stacked layers, without those that are frozen."""
  blocks, _ = _split(params)
  return len(jax.tree.leaves(blocks)[0]) if blocks else 0


def _unstack(tree: Any, count: int) -> Any:
  """Returns the tree with `_Layers` in place of every stacked `Block`.

  Args:
    tree: parameters, or a state, some of whose blocks may have no leaves.
    count: number of layers; 0: nothing is stacked.
  """
  is_block = lambda x: bool(count) and isinstance(x, Block)

  def layers(x: Any) -> Any:
    if not is_block(x):
      return x
    return _Layers(
      tuple(jax.tree.map(lambda a, i=i: a[i], x) for i in range(count))
    )

  return jax.tree.map(layers, tree, is_leaf=is_block)


def _stack(tree: Any) -> Any:
  """The inverse of `_unstack`."""

  def stack(x: Any) -> Any:
    if not isinstance(x, _Layers):
      return x
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *x.layers)

  return jax.tree.map(stack, tree, is_leaf=lambda x: isinstance(x, _Layers))


def _is_block(x: Any) -> bool:
  """Returns whether it is a stack; frozen ones have no leaves to map over."""
  return isinstance(x, Block) and bool(jax.tree.leaves(x))
