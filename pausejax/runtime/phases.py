"""The phase of this process: what it is doing, and at which step.

Goodput adds up the time by phase, the watchdog limits it, and the processes of
a run report it to each other.
"""

import collections
import contextlib
import dataclasses
import math
import statistics
from collections.abc import Iterator

# Phases besides the kinds of `goodput.KINDS`.
DATA, PEERS, PREPARING = "waiting for data", "waiting for peers", "preparing"

_MEDIAN_OF = 64  # Steps.


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
  """A phase from its start, or from the last progress in it.

  Attributes:
    name: a kind of `goodput.KINDS`, one of the names above, or what a program
      does, such as "exporting".
    step: the step that is computed, or was computed last; 0 before the first.
  """

  name: str = "starting"
  step: int = 0


@dataclasses.dataclass(frozen=True)
class Status:
  """What a process reports to the others.

  Attributes:
    name: the name of its phase.
    step: the step of its phase.
    seconds: since the last progress.
    remaining: seconds until the limit of the phase, inf without one.
  """

  name: str = "starting"
  step: int = 0
  seconds: float = 0.0
  remaining: float = math.inf

  def text(self) -> str:
    """Returns the phase, step and seconds as text."""
    return f"phase {self.name}, step {self.step}, for {self.seconds:.1f} s"


_current = Phase()
_step_seconds: collections.deque[float] = collections.deque(maxlen=_MEDIAN_OF)


def reset() -> None:
  """Begins the phases of a program, without a step time."""
  _step_seconds.clear()
  enter("starting", 0)


def current_phase() -> Phase:
  """Returns the phase; another object after each sign of progress."""
  return _current


def enter(name: str, step: int | None = None) -> None:
  """Begins a phase; it also is progress if the name stays the same."""
  global _current
  _current = Phase(name, _current.step if step is None else step)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
  """Is in a phase until the context ends; then begins the one before again."""
  before = _current.name
  enter(name)
  try:
    yield
  finally:
    enter(before)


def advance() -> None:
  """Reports progress in the phase, such as a batch of an evaluation."""
  enter(_current.name)


def add_step(seconds: float) -> None:
  """Adds the seconds of a step to those of which the median is taken."""
  _step_seconds.append(seconds)


def median_step() -> float | None:
  """Returns the median seconds of the recent steps; None before the first."""
  recent = list(_step_seconds)
  return statistics.median(recent) if recent else None
