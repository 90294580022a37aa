"""Parameters that are not trained, in the whole run or in its first steps.

`optim.freeze` lists names of parameters or of modules (embedding, blocks/query,
bias: any part of blocks/query/bias) and logical axes (mlp). Frozen parameters
keep their bits and have no optimizer state; their gradients are not computed.

With `optim.pause_only_steps`, a run first trains only the row of `<pause>`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pausejax import errors, parameter_groups
from pausejax.config import OptimConfig

Optimizer = optax.GradientTransformation


def is_frozen(name: str, param: nnx.Variable, freeze: tuple[str, ...]) -> bool:
  """Returns whether a list such as `optim.freeze` names the parameter.

  Args:
    name: its path, as in blocks/query/kernel.
    param: the parameter.
    freeze: the list.
  """
  axes = param.get_metadata("axes")
  return any(w in axes or f"/{w}/" in f"/{name}/" for w in freeze)


def with_frozen(optimizer: Optimizer, freeze: tuple[str, ...]) -> Optimizer:
  """Returns the optimizer, restricted to parameters that are not frozen.

  Its `init` raises a UsageError if `freeze` names no parameter, or all.
  """
  if not freeze:
    return optimizer

  def labels(params: Any) -> Any:
    label = lambda name, p: (
      "frozen" if is_frozen(name, p, freeze) else "trained"
    )
    return parameter_groups.each_named(label, params)

  both = {"trained": optimizer, "frozen": optax.stateless(_unchanged)}
  partition = optax.partition(both, labels)

  def init(params: Any) -> Any:
    _require_known(params, freeze)
    return partition.init(params)

  return optax.GradientTransformation(init, partition.update)


def frozen_and_rest(params: Any, freeze: tuple[str, ...]) -> tuple[Any, Any]:
  """Returns the parameters that are frozen and those that are not."""

  def part(frozen: bool) -> Any:
    return parameter_groups.each_named(
      lambda name, p: (
        p if is_frozen(name, p, freeze) == frozen else optax.MaskedNode()
      ),
      params,
    )

  return part(True), part(False)


def stop_gradients(config: OptimConfig) -> Callable[[Any], Any]:
  """Returns a function of the decoder that keeps its values.

  No gradient flows to its frozen parameters, except to tables whose row of
  `<pause>` is trained first.
  """

  def stop(name: str, param: nnx.Variable) -> nnx.Variable:
    is_first = config.pause_only_steps and _vocab_axis(param) is not None
    if is_first or not is_frozen(name, param, config.freeze):
      return param
    return jax.tree.map(jax.lax.stop_gradient, param)

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

  def init(params: Any) -> PauseRowState:
    count = jnp.zeros((), jnp.int32)
    return PauseRowState(count, row.init(_rows(params)), rest.init(params))

  def update(updates: Any, state: PauseRowState, params: Any) -> tuple:
    def first() -> tuple:
      rows, new = row.update(_rows(updates), state.row, _rows(params))
      return _placed(rows, updates), new, state.rest

    def later() -> tuple:
      new_updates, new = rest.update(updates, state.rest, params)
      return new_updates, state.row, new

    is_first = state.count < num_steps
    new_updates, *states = jax.lax.cond(is_first, first, later)
    return new_updates, PauseRowState(state.count + 1, *states)

  return optax.GradientTransformation(init, update)


def _vocab_axis(param: nnx.Variable) -> int | None:
  """Returns the dimension of the vocabulary, None if there is none."""
  axes = param.get_metadata("axes")
  return axes.index("vocab") if "vocab" in axes else None


def _rows(model: Any) -> Any:
  """Returns the decoder with only the row of `<pause>` in each table."""
  pause_id = model.config.vocab_size - 1

  def row(param: nnx.Variable) -> Any:
    if (axis := _vocab_axis(param)) is None:
      return optax.MaskedNode()
    take = lambda x: jax.lax.slice_in_dim(x, pause_id, pause_id + 1, axis=axis)
    return jax.tree.map(take, param)

  return parameter_groups.each(row, model)


def _placed(rows: Any, updates: Any) -> Any:
  """Returns updates of the decoder that change only the row of `<pause>`."""
  pause_id = updates.config.vocab_size - 1

  def place(update: nnx.Variable, row: Any) -> nnx.Variable:
    if (axis := _vocab_axis(update)) is None:
      return _unchanged(update)
    put = lambda x, r: jax.lax.dynamic_update_slice_in_dim(x, r, pause_id, axis)
    return jax.tree.map(put, _unchanged(update), row)

  return parameter_groups.each(place, updates, rows)


def _unchanged(updates: Any, params: Any = None) -> Any:
  """Returns updates that change no bit: 0.0 would turn -0.0 into 0.0."""
  return jax.tree.map(lambda x: jnp.full_like(x, -0.0), updates)


def _require_known(params: Any, freeze: tuple[str, ...]) -> None:
  """Raises unless each word names a parameter, and one is left to train."""
  words: set[str] = set()
  trained = []

  def add(name: str, param: nnx.Variable) -> None:
    words.update(param.get_metadata("axes"), _parts(name))
    trained.append(not is_frozen(name, param, freeze))

  parameter_groups.each_named(add, params)
  for word in freeze:
    errors.require_one_of("optim.freeze", word, words)
  errors.require(
    any(trained),
    f"optim.freeze: {', '.join(freeze)} is every parameter; "
    "nothing is left to train",
  )


def _parts(name: str) -> Iterator[str]:
  """Yields each part of a path, such as blocks/query of blocks/query/bias."""
  parts = name.split("/")
  for start in range(len(parts)):
    for end in range(start + 1, len(parts) + 1):
      yield "/".join(parts[start:end])
