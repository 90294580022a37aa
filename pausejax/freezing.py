"""Parameters that are not trained, in the whole run or in its first steps.

`optim.freeze` lists what stays as it is: parameters or modules by name
(embedding, blocks/query, bias: any part of blocks/query/bias), logical axes
(mlp), and layers (blocks[:28]: the first 28). Frozen parameters keep their
bits and have no optimizer state; no gradient flows to them.

With `optim.pause_only_steps`, a run first trains only the row of `<pause>`.

L layers.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from pausejax import errors, parameter_groups
from pausejax.config import OptimConfig

Optimizer = optax.GradientTransformation
# The index of what is trained of a parameter: (): all of it; None: nothing.
Index = tuple[slice | np.ndarray, ...] | None

_BLOCKS = "blocks"
_LAYERS = re.compile(rf"{_BLOCKS}\[(-?\d+)?:(-?\d+)?\]")


def trained_index(
  name: str, param: nnx.Variable, freeze: tuple[str, ...]
) -> Index:
  """Returns the index of the part of a parameter that is trained.

  Args:
    name: its path, as in blocks/query/kernel.
    param: the parameter.
    freeze: a list such as `optim.freeze`.
  """
  axes = param.get_metadata("axes")
  if any(w in axes or f"/{w}/" in f"/{name}/" for w in freeze):
    return None
  ranges = [found for word in freeze if (found := _layers(word))]
  if not (ranges and name.startswith(f"{_BLOCKS}/")):
    return ()
  is_trained_L = np.ones(jax.tree.leaves(param)[0].shape[0], bool)
  for layers in ranges:
    is_trained_L[layers] = False
  if is_trained_L.all():
    return ()
  return (np.flatnonzero(is_trained_L),) if is_trained_L.any() else None


def with_frozen(optimizer: Optimizer, freeze: tuple[str, ...]) -> Optimizer:
  """Returns the optimizer of the parameters that are not frozen.

  Its `init` raises a UsageError if a word of `freeze` names no parameter, or if
  nothing is left to train.
  """
  if not freeze:
    return optimizer
  restricted = _restricted(optimizer, lambda n, p: trained_index(n, p, freeze))

  def init(params: Any) -> Any:
    _require_known(params, freeze)
    return restricted.init(params)

  return optax.GradientTransformation(init, restricted.update)


def frozen_and_trained(
  params: Any, freeze: tuple[str, ...]
) -> tuple[list[nnx.Variable], list[nnx.Variable]]:
  """Returns the parameters that are frozen, and those that are trained.

  A parameter of which some layers are frozen has a part in both. Only shapes
  are computed.
  """
  frozen, trained = [], []

  def add(name: str, param: nnx.Variable) -> None:
    index = trained_index(name, param, freeze)
    if index is None:
      frozen.append(param)
    elif not index:
      trained.append(param)
    else:
      trained.append(jax.eval_shape(lambda p: _at(p, index), param))
      frozen.append(jax.eval_shape(lambda p: _without(p, index), param))

  parameter_groups.each_named(add, params)
  return frozen, trained


def stop_gradients(config: OptimConfig) -> Callable[[Any], Any]:
  """Returns a function that stops the gradients of frozen parameters.

  Tables whose row of `<pause>` is trained first keep their gradients.
  """

  def stop(name: str, param: nnx.Variable) -> nnx.Variable:
    is_first = config.pause_only_steps and _vocab_axis(param) is not None
    index = () if is_first else trained_index(name, param, config.freeze)
    if index == ():
      return param
    stopped = jax.tree.map(jax.lax.stop_gradient, param)
    return stopped if index is None else _set(stopped, index, _at(param, index))

  if not config.freeze:
    return lambda model: model
  return lambda model: parameter_groups.each_named(stop, model)


class PauseRowState(NamedTuple):
  """The state of `pause_row_first`: int32 steps taken, and two optimizers'."""

  count: jax.Array
  row: Any
  rest: Any


def pause_row_first(
  num_steps: int, row: Optimizer, rest: Optimizer
) -> Optimizer:
  """Returns an optimizer whose first steps train the row of `<pause>` only.

  Both tables have such a row if the head is separate. All other parameters keep
  their bits and their initial optimizer state during these steps.

  Args:
    num_steps: number of these steps.
    row: the optimizer of the row in these steps.
    rest: the optimizer of all parameters, whose first step follows them.
  """

  def of_row(model: Any) -> Optimizer:
    pause_id = model.config.vocab_size - 1
    return _restricted(row, lambda _, p: _row_index(p, pause_id))

  def init(params: Any) -> PauseRowState:
    count = jnp.zeros((), jnp.int32)
    return PauseRowState(count, of_row(params).init(params), rest.init(params))

  def update(updates: Any, state: PauseRowState, params: Any) -> tuple:
    def first() -> tuple:
      new_updates, new = of_row(params).update(updates, state.row, params)
      return new_updates, new, state.rest

    def later() -> tuple:
      new_updates, new = rest.update(updates, state.rest, params)
      return new_updates, state.row, new

    is_first = state.count < num_steps
    new_updates, *states = jax.lax.cond(is_first, first, later)
    return new_updates, PauseRowState(state.count + 1, *states)

  return optax.GradientTransformation(init, update)


def _restricted(
  optimizer: Optimizer, index_of: Callable[[str, nnx.Variable], Index]
) -> Optimizer:
  """Returns the optimizer of only the indexed parts; the rest keeps its bits.

  Where nothing of a parameter is trained, the optimizer sees no parameter.
  """

  def take(params: Any) -> Any:
    def part(name: str, param: nnx.Variable) -> Any:
      index = index_of(name, param)
      return optax.MaskedNode() if index is None else _at(param, index)

    return parameter_groups.each_named(part, params)

  def place(updates: Any, parts: Any) -> Any:
    def placed(name: str, update: nnx.Variable, part: Any) -> nnx.Variable:
      index = index_of(name, update)
      return part if index == () else _set(_unchanged(update), index, part)

    return parameter_groups.each_named(placed, updates, parts)

  def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    parts, state = optimizer.update(take(updates), state, take(params))
    return place(updates, parts), state

  return optax.GradientTransformation(
    lambda params: optimizer.init(take(params)), update
  )


def _at(param: nnx.Variable, index: tuple) -> nnx.Variable:
  return param if index == () else jax.tree.map(lambda x: x[index], param)


def _without(param: nnx.Variable, index: tuple) -> nnx.Variable:
  return jax.tree.map(lambda x: jnp.delete(x, index[0], axis=0), param)


def _set(param: nnx.Variable, index: Index, part: Any) -> nnx.Variable:
  if index is None:
    return param
  return jax.tree.map(lambda x, y: x.at[index].set(y), param, part)


def _unchanged(update: nnx.Variable) -> nnx.Variable:
  """Returns an update that changes no bit: 0.0 would turn -0.0 into 0.0."""
  return jax.tree.map(lambda x: jnp.full_like(x, -0.0), update)


def _vocab_axis(param: nnx.Variable) -> int | None:
  """Returns the dimension of the vocabulary, None if there is none."""
  axes = param.get_metadata("axes")
  return axes.index("vocab") if "vocab" in axes else None


def _row_index(param: nnx.Variable, pause_id: int) -> Index:
  if (axis := _vocab_axis(param)) is None:
    return None
  return (*[slice(None)] * axis, slice(pause_id, pause_id + 1))


def _layers(word: str) -> slice | None:
  """Returns the layers that a word names, None if it names something else."""
  if not (match := _LAYERS.fullmatch(word)):
    return None
  return slice(*(int(end) if end else None for end in match.groups()))


def _require_known(params: Any, freeze: tuple[str, ...]) -> None:
  """Raises unless each word names a parameter, and one is left to train."""
  words: set[str] = set()
  indexes: list[Index] = []
  num_layers = 0

  def add(name: str, param: nnx.Variable) -> None:
    nonlocal num_layers
    words.update(param.get_metadata("axes"), _parts(name))
    indexes.append(trained_index(name, param, freeze))
    if name.startswith(f"{_BLOCKS}/"):
      num_layers = jax.tree.leaves(param)[0].shape[0]

  parameter_groups.each_named(add, params)
  for word in freeze:
    if not (layers := _layers(word)):
      errors.require_one_of("optim.freeze", word, words)
    elif not range(num_layers)[layers]:
      raise errors.UsageError(
        f"optim.freeze: {word} is none of the {num_layers} layers; choose "
        f"others, such as {_BLOCKS}[:{max(num_layers - 1, 1)}], or leave it out"
      )
  errors.require(
    any(index is not None for index in indexes),
    f"optim.freeze: {', '.join(freeze)} is every parameter; nothing is left to "
    "train",
  )


def _parts(name: str) -> Iterator[str]:
  """Yields each part of a path, such as blocks/query of blocks/query/bias."""
  parts = name.split("/")
  for start in range(len(parts)):
    for end in range(start + 1, len(parts) + 1):
      yield "/".join(parts[start:end])
