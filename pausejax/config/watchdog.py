"""The fields of the watchdog, which ends a run that is stuck."""

import dataclasses
from typing import ClassVar

from pausejax.config.fields import ConfigGroup, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogConfig(ConfigGroup):
  """How long a phase of a run may take (docs/reliability.md)."""

  GROUP: ClassVar[str] = "watchdog"

  step_seconds: int = field(
    300,
    "Seconds that a step, or the wait for a batch, may take, once a step has "
    "been timed; at least 10 times the median step. After that the run exits "
    "with 143; 0: no limit.",
    minimum=0,
    before=0,
    may_change=True,
  )
  phase_seconds: int = field(
    3600,
    "Seconds that any other phase may take: start, restore, compilation, save, "
    "a batch of an evaluation; 0: no limit.",
    minimum=0,
    before=0,
    may_change=True,
  )
