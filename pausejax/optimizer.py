"""Any optax optimizer by name, with clipping, weight decay and learning rates.

  make_optimizer(OptimConfig(name="lion", kwargs={"b2": 0.99}, ...), num_steps)

There is no list of optimizers here: `name` is looked up in optax, `kwargs` are
checked against the signature in optax, and the result is traced on a small
tree. The trace shows whether the optimizer needs only parameters and gradients,
and whether it supports stacked layers (`unstacked.py`).
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pausejax import errors, freezing, parameter_groups, unstacked
from pausejax.config import OptimConfig
from pausejax.parameter_groups import Kind, decay_mask
from pausejax.schedules import make_schedule

__all__ = [
  "decay_mask",
  "make_optimizer",
  "make_schedule",
  "optimizer_names",
  "treatments",
]

# Arguments of optax's optimizers that are set here.
_MASKS = ("mask", "weight_decay_mask")
_DIMENSIONS = "muon_weight_dimension_numbers"
_FILLED_IN = ("learning_rate", _DIMENSIONS, *_MASKS)
# Arguments for the weight decay; the last is that of the Adam inside Muon.
_DECAYS = ("weight_decay", "weight_decay_rate")
_ADAM_DECAY = "adam_weight_decay"

_REFUSED = {
  "galore": "it projects leaves of two dimensions only, and attention has a "
  "dimension for heads here",
}
# They divide 0 by 0 while all gradients of a group of parameters are 0, as
# those of `<pause>` are until the first batch that has one.
NAN_AT_ZERO = ("dadapt_adamw", "prodigy")


def make_optimizer(
  config: OptimConfig, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimizer and the schedule of its learning rate.

  Gradients are clipped to a global norm of `clip_norm` (0: no clipping), then
  passed to the optimizer, which updates every parameter as in a model with
  separate layers. Weight decay applies to parameters that have an axis in
  `decay_axes` and the axis "embed": matrices, never biases or norm scales,
  although stacked ones have more dimensions. Muon updates the matrices of the
  blocks; the Adam inside `optax.contrib.muon` updates all other parameters.

  The learning rate of the embeddings is multiplied by
  `embedding_lr_multiplier`, that of the head by `head_lr_multiplier`. Groups
  that differ in their multiplier, or in a weight decay for which optax has no
  mask, are optimized separately: an optimizer that estimates one scale for all
  its parameters (dog, prodigy) then estimates one for each group.

  Parameters of `freeze` keep their bits (`freezing.py`). For the first
  `pause_only_steps`, only the row of `<pause>` is trained, at a constant
  learning rate and with an optimizer of its own. The schedule and the optimizer
  of all parameters begin after them.

  Raises:
    UsageError: optax has no such optimizer, the optimizer lacks one of the
      kwargs, or it needs more than parameters, gradients and a learning rate.
  """
  num_first = config.pause_only_steps
  errors.require(
    num_first <= num_steps,
    f"optim.pause_only_steps {num_first} is more than num_steps {num_steps}",
  )
  schedule = make_schedule(config, num_steps - num_first)
  if config.name not in _factories():
    errors.require_one_of("optim.name", config.name, optimizer_names(config))
  known = _arguments(config.name)
  for key in config.kwargs:
    errors.require(
      key in known and key not in _FILLED_IN,
      f"optim.kwargs: optax.{config.name} takes no {key!r}"
      f"{errors.nearest(key, set(known) - set(_FILLED_IN))}; "
      "--config.optim.kwargs={} leaves out those of the config",
    )
  optimizer = freezing.with_frozen(_clipped(config, schedule), config.freeze)
  errors.require(
    not (num_first and config.name in NAN_AT_ZERO),
    f"optim.pause_only_steps: not with optax.{config.name}, which needs a "
    "gradient in every step, and a batch may have no pause; set it to 0, or "
    "choose another optimizer, such as adamw",
  )
  if not num_first:
    return optimizer, schedule
  constant = optax.constant_schedule(config.pause_only_learning_rate)
  row = _clipped(config, constant)
  optimizer = freezing.pause_row_first(num_first, row, optimizer)
  return optimizer, optax.join_schedules([constant, schedule], [num_first])


def _clipped(
  config: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns the optimizer after clipping."""
  # With a place for clipping in any case, so that a resume may change it.
  clip = optax.identity()
  if config.clip_norm:
    clip = _clip_by_global_norm(config.clip_norm)
  return optax.chain(clip, _build(config, schedule))


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
  """Returns optax's transformation of this name, with one factor for all.

  optax divides each gradient by the norm and chooses between two gradients: on
  a CPU, quotients are written to memory and then read.
  """

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    factor = jnp.minimum(1.0, largest / optax.tree.norm(grads))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def optimizer_names(config: OptimConfig) -> list[str]:
  """Returns the optimizers that are accepted with optax's default settings."""

  def is_accepted(name: str) -> bool:
    try:
      with warnings.catch_warnings(action="ignore"):
        _build(dataclasses.replace(config, name=name, kwargs={}), lambda _: 0.1)
    except errors.UsageError:
      return False
    return True

  return [name for name in sorted(_factories()) if is_accepted(name)]


def treatments(
  config: OptimConfig, params: Any
) -> list[tuple[str, str, str, str, str]]:
  """Returns the rows of a table of the optimizer's settings per group.

  Args:
    config: the config of an optimizer that `make_optimizer` accepts.
    params: the decoder, or its shapes.

  Returns:
    The headings, then a row for each group of parameters.
  """
  rows = [("parameters", "number", "optimizer", "weight decay", "rate")]
  frozen, trained = freezing.frozen_and_trained(params, config.freeze)
  for (kind, _), size in parameter_groups.sizes(frozen, ()).items():
    rows.append((kind.value, f"{size:,}", "none: frozen", "no", "x 0"))
  for group, size in parameter_groups.sizes(trained, config.decay_axes).items():
    kind, is_decayed = group
    is_adam = _is_muon(config.name) and kind != Kind.BLOCK_MATRIX
    decay = _value(config, _ADAM_DECAY) if is_adam else _masked_decay(config)
    rows.append(
      (
        kind.value,
        f"{size:,}",
        "adam (in muon)" if is_adam else config.name,
        f"{decay:g}" if is_decayed and decay else "no",
        f"x {_multipliers(config).get(kind, 1.0):g}",
      )
    )
  return rows


def _build(
  config: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns the optimizer without clipping; raises a UsageError if it fails."""
  try:
    optimizer = _grouped(config, schedule)
    jaxpr, state = _trace(optimizer)
  except Exception as e:  # Any error from optax or from what it calls.
    why = f"it fails with {type(e).__name__}: {errors.first_line(e)}"
    raise errors.UsageError(_refusal(config, why)) from e
  why = _REFUSED.get(config.name) or _obstacle(state)
  errors.require(not why, _refusal(config, why))
  if _is_muon(config.name):  # Its dimension numbers exclude the stacked axis.
    return optimizer
  return unstacked.adapt(optimizer, jaxpr)


def _refusal(config: OptimConfig, why: str) -> str:
  given = f" with kwargs {dict(config.kwargs)}" if config.kwargs else ""
  return (
    f"optim.name: optax.{config.name}{given} cannot be used: {why}; choose "
    "another, such as adamw"
  )


def _trace(optimizer: optax.GradientTransformation) -> tuple[Any, Any]:
  """Returns (jaxpr, state's shapes) of init and one step on a small tree.

  Its leaves are large enough to be factored by any optimizer. Nothing is
  computed.
  """

  def params() -> dict[str, nnx.Param]:
    zeros = lambda *shape: jnp.zeros(shape)
    return {
      "bias": nnx.Param(zeros(3, 2**14), axes=("mlp",)),
      "embedding": nnx.Param(zeros(2**15, 2**13), axes=("vocab", "embed")),
      "kernel": nnx.Param(zeros(3, 2**13, 2**14), axes=("embed", "mlp")),
    }

  def step(params: Any) -> tuple[Any, Any]:
    state = optimizer.init(params)
    return state, optimizer.update(params, state, params)

  shapes = jax.eval_shape(params)
  closed, (state, _) = jax.make_jaxpr(step, return_shape=True)(shapes)
  return closed.jaxpr, state


def _obstacle(state: Any) -> str:
  """Returns why an optimizer with this state cannot be used, or ""."""
  is_schedule_free = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)
  if any(
    is_schedule_free(x)
    for x in jax.tree.leaves(state, is_leaf=is_schedule_free)
  ):
    return (
      "it must be evaluated at other parameters than those it trains, and only "
      "the trained ones are evaluated and saved here"
    )
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  if any(is_key(x) for x in jax.tree.leaves(state)):
    return "its state has a random key, which checkpoints do not save"
  return ""


def _grouped(
  config: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns optax's optimizer, separate for each group that requires it."""
  unmasked = [key for key in _unmasked_decays(config) if _value(config, key)]
  multipliers = _multipliers(config)
  if not unmasked and set(multipliers.values()) == {1.0}:
    return _one(config, schedule, 1.0, ())

  def label(param: nnx.Variable) -> str:
    group = parameter_groups.kind(param)
    is_decayed = parameter_groups.is_decayed(param, config.decay_axes)
    return _label(multipliers.get(group, 1.0), is_decayed or not unmasked)

  return optax.partition(
    {
      _label(multiplier, is_decayed): _one(
        config, schedule, multiplier, () if is_decayed else unmasked
      )
      for multiplier in {1.0, *multipliers.values()}
      for is_decayed in ((True, False) if unmasked else (True,))
    },
    lambda params: parameter_groups.each(label, params),
  )


def _label(multiplier: float, is_decayed: bool) -> str:
  return f"rate_x_{multiplier:g}" + ("" if is_decayed else "_without_decay")


def _one(
  config: OptimConfig, schedule: optax.Schedule, multiplier: float, undecayed
) -> optax.GradientTransformation:
  """Returns optax's optimizer at a multiple of the learning rate.

  Args:
    config: the optimizer.
    schedule: the learning rate.
    multiplier: the factor of the learning rate.
    undecayed: arguments for the weight decay that are set to 0.
  """
  known = _arguments(config.name)
  kwargs: dict[str, Any] = dict(config.kwargs) | dict.fromkeys(undecayed, 0.0)
  for key in _MASKS:
    if key in known:
      kwargs[key] = decay_mask(config.decay_axes)
  if _is_muon(config.name):
    kwargs[_DIMENSIONS] = parameter_groups.muon_dimensions
    if (peak := kwargs.get("adam_learning_rate")) is not None:
      ratio = peak / config.learning_rate
      kwargs["adam_learning_rate"] = _scaled(schedule, multiplier * ratio)
  rate = _scaled(schedule, multiplier)
  return _factories()[config.name](learning_rate=rate, **kwargs)


def _scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
  return schedule if factor == 1.0 else lambda step: factor * schedule(step)


def _multipliers(config: OptimConfig) -> dict[Kind, float]:
  return {
    Kind.TOKEN_EMBEDDING: config.embedding_lr_multiplier,
    Kind.POSITION_EMBEDDING: config.embedding_lr_multiplier,
    Kind.HEAD: config.head_lr_multiplier,
  }


def _unmasked_decays(config: OptimConfig) -> list[str]:
  """Returns the arguments for the weight decay that have no mask in optax."""
  known = _arguments(config.name)
  has_mask = any(key in known for key in _MASKS)
  keys = (_ADAM_DECAY,) if has_mask else (*_DECAYS, _ADAM_DECAY)
  return [key for key in keys if key in known]


def _masked_decay(config: OptimConfig) -> float:
  return sum(_value(config, key) for key in _DECAYS)


def _value(config: OptimConfig, key: str) -> float:
  """Returns an argument for the weight decay, 0 if there is none."""
  known = _arguments(config.name)
  given = config.kwargs.get(key, known[key].default if key in known else 0.0)
  return given or 0.0


def _is_muon(name: str) -> bool:
  return _DIMENSIONS in _arguments(name)


def _arguments(name: str) -> Mapping[str, inspect.Parameter]:
  return inspect.signature(_factories()[name]).parameters


@functools.cache
def _factories() -> dict[str, Callable[..., optax.GradientTransformation]]:
  """Returns name -> function of all optax optimizers with a learning rate.

  Excludes parts of optimizers, which optax calls scale_by_NAME.
  """
  return {
    name: function
    for module in (optax.contrib, optax)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if "learning_rate" in inspect.signature(function).parameters
    and not name.startswith(("_", "scale_by_"))
  }
