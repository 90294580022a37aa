"""Any optax optimizer by name, with a schedule, clipping and decay by axis.

  make(OptimConfig(name="lion", kwargs={"b2": 0.99}, ...), model, num_steps)

There is no list of optimizers here: `name` is looked up in optax, and `kwargs`
are checked against the signature found there.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pausejax import errors
from pausejax.settings import OptimConfig

_MASK_NAMES = ("mask", "weight_decay_mask")


def make(
  config: OptimConfig, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimizer and the schedule of its learning rate.

  Gradients are clipped to a global norm of `clip_norm` (0: not), then passed
  to the optimizer. Where that takes a mask for its weight decay, it decays the
  parameters with a `decay_axes` axis beside "embed": matrices, never biases or
  norms, however many dimensions the stacking over layers gives them.

  Raises:
    UsageError: optax has no such optimizer, or it lacks one of the kwargs.
  """
  schedule = make_schedule(config, num_steps)
  factory = _lookup(config.name)
  known = inspect.signature(factory).parameters
  for key in config.kwargs:
    errors.require(
      key in known and key not in ("learning_rate", *_MASK_NAMES),
      f"optim.kwargs: optax.{config.name} takes no {key!r}"
      f"{errors.nearest(key, set(known) - {'learning_rate', *_MASK_NAMES})}",
    )
  kwargs: dict[str, Any] = dict(config.kwargs)
  for key in _MASK_NAMES:
    if key in known:
      kwargs[key] = decay_mask(config.decay_axes)
  steps = [factory(learning_rate=schedule, **kwargs)]
  if config.clip_norm:
    steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
  return optax.chain(*steps), schedule


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
  """Returns the learning rate at each step, counted from 0.

  After a linear warm-up over `warmup_steps`, from learning_rate / warmup_steps
  at step 0 to `learning_rate` at the last of them:

    cosine    a half cosine down to `final_fraction` of it at `num_steps`
    rsqrt     learning_rate * sqrt(warmup_steps / step)
    wsd       constant, then linear to `final_fraction` over the last
              `decay_steps` (Hu et al., 2024, MiniCPM)
    constant  as it says
  """
  c, peak = config, config.learning_rate
  # A run shorter than its warm-up only warms up.
  rest = max(num_steps - c.warmup_steps, 1)
  errors.require(
    c.schedule != "wsd" or c.decay_steps <= rest,
    f"optim.decay_steps {c.decay_steps} and optim.warmup_steps "
    f"{c.warmup_steps} do not fit num_steps {num_steps}; lower them",
  )
  if c.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, rest, alpha=c.final_fraction)
  elif c.schedule == "rsqrt":
    start = max(c.warmup_steps, 1)
    after = lambda step: peak * jnp.sqrt(start / (start + jnp.maximum(step, 0)))
  elif c.schedule == "wsd":
    after = optax.linear_schedule(
      peak, peak * c.final_fraction, c.decay_steps, rest - c.decay_steps
    )
  else:
    after = optax.constant_schedule(peak)
  if not c.warmup_steps:
    return after
  # Step 0 already moves: the warm-up reaches the peak at its last step.
  warmup = optax.linear_schedule(
    peak / c.warmup_steps, peak, c.warmup_steps - 1
  )
  return optax.join_schedules([warmup, after], [c.warmup_steps])


def decay_mask(decay_axes: tuple[str, ...]) -> Callable[[Any], Any]:
  """Returns a function of the parameters: the same tree, True where decayed."""

  def is_decayed(param: nnx.Param) -> bool:
    axes = param.get_metadata("axes")
    return "embed" in axes and any(a in decay_axes for a in axes)

  def mask(params: Any) -> Any:
    return jax.tree.map(
      lambda p: jax.tree.map(lambda _: is_decayed(p), p),
      params,
      is_leaf=lambda x: isinstance(x, nnx.Param),
    )

  return mask


def _lookup(name: str) -> Callable[..., optax.GradientTransformation]:
  """Returns the optax function that makes the optimizer called `name`."""
  known = {
    n: f
    for module in (optax.contrib, optax)
    for n, f in inspect.getmembers(module, inspect.isfunction)
    if "learning_rate" in inspect.signature(f).parameters
  }
  errors.require_one_of("optim.name", name, known)
  return known[name]
