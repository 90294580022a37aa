"""Learning rate schedules: a linear warm-up, then a named shape."""

import jax.numpy as jnp
import optax

from pausejax import errors
from pausejax.config import OptimConfig


def schedule_notes(
  config: OptimConfig, num_steps: int, branch_step: int
) -> list[str]:
  """Returns lines on settings that may not have been meant.

  Args:
    config: the settings.
    num_steps: of the whole run.
    branch_step: the step of another run from which this one goes on; 0: none.
  """
  c = config
  notes = []
  if c.warmup_steps >= num_steps:
    notes = [
      f"note: optim.warmup_steps={c.warmup_steps} is not less than num_steps="
      f"{num_steps}, so the learning rate only rises"
    ]
  return notes + _decay_notes(c, num_steps, branch_step)


def _decay_notes(
  config: OptimConfig, num_steps: int, branch_step: int
) -> list[str]:
  c = config
  if not c.decay_steps:
    return [
      "note: optim.schedule=wsd is constant after the warm-up, since "
      "optim.decay_steps is 0"
    ] * (c.schedule == "wsd")
  if c.schedule != "wsd":
    return [
      f"note: optim.decay_steps={c.decay_steps} has no effect, since "
      f"optim.schedule is {c.schedule} and not wsd"
    ]
  began = num_steps - c.decay_steps
  if began >= branch_step:
    return []
  return [
    f"note: the decay of the learning rate began at step {began} (num_steps - "
    f"optim.decay_steps), before step {branch_step}, where this run starts"
  ]


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
  """Returns the learning rate at each step, counted from 0.

  After a linear warm-up over `warmup_steps`, from learning_rate / warmup_steps
  at step 0 to `learning_rate` at the last of them:

    cosine    a half cosine down to `final_fraction` of it at `num_steps`
    linear    a straight line down to `final_fraction` of it at `num_steps`
    rsqrt     learning_rate * sqrt(warmup_steps / step); without a warm-up,
              learning_rate / sqrt(step + 1)
    wsd       constant, then linear to `final_fraction` over the last
              `decay_steps`: the schedule of Hu et al. (2024, MiniCPM) with the
              linear decay of Haegele et al. (2024, section 3)
    constant  `learning_rate` to the end
  """
  c, peak = config, config.learning_rate
  # A run shorter than its warm-up only warms up.
  rest = max(num_steps - c.warmup_steps, 1)
  errors.require(
    c.schedule != "wsd" or c.decay_steps <= rest,
    f"optim.decay_steps {c.decay_steps} and optim.warmup_steps "
    f"{c.warmup_steps} do not fit num_steps {num_steps}; lower them",
  )
  last = peak * c.final_fraction
  if c.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, rest, alpha=c.final_fraction)
  elif c.schedule == "linear":
    after = optax.linear_schedule(peak, last, rest)
  elif c.schedule == "rsqrt":
    start = max(c.warmup_steps, 1)
    after = lambda step: peak * jnp.sqrt(start / (start + jnp.maximum(step, 0)))
  elif c.schedule == "wsd":
    after = optax.linear_schedule(
      peak, last, c.decay_steps, rest - c.decay_steps
    )
  else:
    after = optax.constant_schedule(peak)
  if not c.warmup_steps:
    return after
  # The rate is positive at step 0 and peaks at the last step of the warm-up.
  warmup = optax.linear_schedule(
    peak / c.warmup_steps, peak, c.warmup_steps - 1
  )
  return optax.join_schedules([warmup, after], [c.warmup_steps])
