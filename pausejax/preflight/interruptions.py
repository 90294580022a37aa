"""What interruptions cost: the size of a checkpoint, and the goodput.

Goodput is the share of the time that trains steps which are not lost. With
interruptions at random (exponentially distributed) of rate r, a restart of R
seconds and a checkpoint every t seconds:

  killed without notice  r t / (e^(r R) (e^(r t) - 1)), Daly (2006): the steps
                         since the last checkpoint are trained again, half of
                         the interval on average, and restarts may be
                         interrupted, too.
  stopped by SIGTERM     1 / (1 + r R): the run saves before it ends.

Saving is free: checkpoints are written while the next steps are trained.
"""

import dataclasses
import math

_DAY = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """The size of a checkpoint, and when one is written.

  Attributes:
    num_bytes: of one step on disk, at most.
    host_bytes: host memory of the largest host while one is written, at most.
    keep: how many are kept; one more exists during a save.
    every: steps between two.
  """

  num_bytes: int
  host_bytes: int
  keep: int
  every: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interruptions:
  """How often a run is interrupted.

  Attributes:
    per_day: interruptions of the whole job in 24 hours.
    restart_seconds: from an interruption to the first new step: waiting for
      machines, starting, restoring, compiling.
    step_seconds: time of a step.
    step_source: where it comes from, for the report.
  """

  per_day: float
  restart_seconds: float
  step_seconds: float
  step_source: str

  def goodput(self, checkpoint_every: int) -> float:
    """Returns the goodput of a run that is killed without notice, 0 to 1."""
    rate = self.per_day / _DAY
    x = rate * checkpoint_every * self.step_seconds
    exponent = x + rate * self.restart_seconds
    if x == 0:
      return math.exp(-exponent)
    if exponent > 700:  # e^700 is the largest power that a float holds.
      return 0.0
    return x / (math.exp(rate * self.restart_seconds) * math.expm1(x))

  @property
  def goodput_with_notice(self) -> float:
    """Goodput of a run that saves on SIGTERM, 0 to 1."""
    return 1 / (1 + self.per_day / _DAY * self.restart_seconds)


def checkpoint_lines(checkpoint: Checkpoint) -> list[str]:
  """Returns the lines of the report on the size of checkpoints."""
  kept = checkpoint.keep + 1
  one, total = checkpoint.num_bytes / 1e9, kept * checkpoint.num_bytes / 1e9
  return [
    "checkpoints",
    f"  one                   {one:,.2f} GB on disk, at most",
    f"  checkpoint.keep={checkpoint.keep:<6}{total:,.2f} GB on disk, at most: "
    f"{kept} of them while one is written",
    f"  memory of a host      {checkpoint.host_bytes / 1e9:,.2f} GB while one "
    "is written, at most",
  ]


def goodput_lines(
  interruptions: Interruptions, checkpoint: Checkpoint
) -> list[str]:
  """Returns the lines of the report on interruptions."""
  i, every = interruptions, checkpoint.every
  lines = [
    f"goodput with {i.per_day:g} preemptions a day, {i.restart_seconds / 60:g} "
    "minutes from each to the next step",
    f"  {'stopped by SIGTERM':24}{i.goodput_with_notice:7.1%}  the run saves "
    "before it ends",
  ]
  for steps in dict.fromkeys((every, max(1, every // 10))):
    minutes = steps * i.step_seconds / 60
    lines.append(
      f"  {'killed without notice':24}{i.goodput(steps):7.1%}  "
      f"checkpoint.every={steps}: {minutes:,.1f} minutes apart"
    )
  lines.append(
    f"  (preemptions at random; {i.step_seconds:.3g} s a step, "
    f"{i.step_source}; saving overlaps with training)"
  )
  return lines
