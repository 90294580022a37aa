"""Which checkpoints stay: the newest, the best, every so many steps.

A score that is not a finite number is no score: it is never the best, and never
takes the place of one that is. Of equal scores the newest is the better.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp

from pausejax.settings import CheckpointConfig

_policies = ocp.checkpoint_managers


@dataclasses.dataclass
class NewestUpTo:
  """Keeps the newest checkpoint of a step up to `step`."""

  step: int = 0

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Returns a flag for each checkpoint."""
    del context
    older = [c.step for c in checkpoints if c.step <= self.step]
    return [c.step == max(older, default=None) for c in checkpoints]


@dataclasses.dataclass(frozen=True)
class Best:
  """Keeps the `n` checkpoints of the highest scores."""

  n: int

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Returns a flag for each checkpoint."""
    del context
    scored = [
      (score(c.metrics), c.step)
      for c in checkpoints
      if score(c.metrics) is not None
    ]
    best = {step for _, step in sorted(scored)[-self.n :]}
    return [c.step in best for c in checkpoints]


def score(metrics: Mapping[str, Any] | None) -> float | None:
  """Returns the score of a checkpoint, None if it has none that is finite."""
  found = (metrics or {}).get("score")
  is_number = isinstance(found, int | float) and math.isfinite(found)
  return float(found) if is_number else None


def policy(
  config: CheckpointConfig, before_skipped: NewestUpTo
) -> _policies.PreservationPolicy:
  """Returns what a run keeps.

  Args:
    config: the run's.
    before_skipped: the step before a series of skipped steps; moved along by
      the caller, since Orbax takes a policy once.
  """
  keep: list[Any] = [_policies.LatestN(n=config.keep), before_skipped]
  if config.keep_best:
    keep.append(Best(config.keep_best))
  if config.keep_period:
    keep.append(_policies.EveryNSteps(config.keep_period))
  return _policies.AnyPreservationPolicy(keep)
