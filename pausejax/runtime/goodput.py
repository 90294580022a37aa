"""Where the wall time of a run went, over all its starts.

Goodput is the share of the wall time since the first start that was spent in
the steps that led to the current parameters. Each checkpoint holds the seconds
up to it. So what was computed after it before a crash counts as lost, together
with the time until the run was started again.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pausejax.runtime import phases, stops
from pausejax.runtime.compilation import CompileWatch

# In the order of the printed line.
KINDS = (
  "stepping",
  "compiling",
  "waiting",
  "evaluating",
  "saving",
  "restoring",
  "starting",
  "stopped",
  "lost",
)


class Goodput:
  """Seconds of a run by kind (docs/tuning.md).

  Attributes:
    lost_steps: number of steps that were computed again after a crash.
  """

  def __init__(self, started: float, compiled: CompileWatch):
    """Begins with no time in any kind.

    Args:
      started: time.time() when the program started.
      compiled: counts the time of compilation.
    """
    self._started = self._first = started
    self._before = dict.fromkeys(KINDS, 0.0)  # Of earlier starts.
    self._here = dict.fromkeys(KINDS, 0.0)  # Of this one.
    self._compiled = compiled
    self._taken, self._num_loaded = 0.0, 0
    self._seen_stopped = stops.seconds()
    self._waited = 0.0  # Since the last step.
    self.lost_steps = 0

  def resume(
    self, first: float | None, saved: Mapping[str, Any] | None
  ) -> None:
    """Adds the time of earlier starts.

    Args:
      first: time.time() of the first start; None if not known.
      saved: `state()` in the checkpoint that the run resumes from, if any.
    """
    if first is None and saved:  # Its first start was of an older version.
      first = saved["until"] - sum(saved["seconds"].values())
    self._first = until = min(first or self._started, self._started)
    if saved:
      self._before |= saved["seconds"]
      self.lost_steps = saved["lost_steps"]
      until = saved["until"]
    self._before["lost"] += max(self._started - until, 0.0)

  def state(self) -> dict[str, Any]:
    """Returns the time up to now, for the checkpoint."""
    seconds = {kind: self._before[kind] + self._here[kind] for kind in KINDS}
    return {
      "until": time.time(),
      "seconds": seconds,
      "lost_steps": self.lost_steps,
    }

  @contextlib.contextmanager
  def measure(self, kind: str) -> Iterator[None]:
    """Adds the time of the context to a kind, without its compilation.

    The kind is also the phase of the process (`phases.py`).
    """
    self._take_compiled()
    self._take_stopped()
    began = time.perf_counter()
    try:
      with phases.phase(kind):
        yield
    finally:
      self._here[kind] += self._rest(time.perf_counter() - began)

  def add_wait(self, seconds: float) -> None:
    """Adds time in which the loop waited for a batch."""
    self._here["waiting"] += seconds
    self._waited += seconds

  def add_step(self, seconds: float) -> bool:
    """Adds the time since the last step, without the time of other kinds.

    The batch of the next step is awaited before a step is recorded.

    Returns:
      Whether something was compiled in this time.
    """
    is_compiled = self._compiled.seconds > self._taken
    seconds = self._rest(seconds, self._waited)
    self._waited = 0.0
    self._here["stepping"] += seconds
    phases.add_step(seconds)
    return is_compiled

  def begin_steps(self) -> None:
    """Adds the rest of the time since the program started as starting."""
    seconds = time.time() - self._started - sum(self._here.values())
    self._here["starting"] += self._rest(seconds)

  def _rest(self, seconds: float, waited: float = 0.0) -> float:
    """Counts the compilation and the stops in some seconds.

    Returns:
      What is left of the seconds without them, and without those of waiting.
    """
    compiled, stopped = self._take_compiled(), self._take_stopped()
    rest = seconds - waited - compiled - stopped
    # It was stopped while it compiled or waited. A stop is measured up to a
    # second too long, which is more than a short step takes.
    if rest < -stops.SHORTEST / 2:
      kind = "compiling" if compiled > waited else "waiting"
      self._here[kind] = max(self._here[kind] - stopped, 0.0)
      rest += stopped
    return max(rest, 0.0)

  def _take_compiled(self) -> float:
    """Returns the seconds of compilation since the last call; counts them."""
    seconds = self._compiled.seconds - self._taken
    self._taken += seconds
    self._num_loaded = self._compiled.num_loaded
    self._here["compiling"] += seconds
    return seconds

  def _take_stopped(self) -> float:
    """Returns the seconds of stops since the last call; counts them."""
    seconds = stops.seconds() - self._seen_stopped
    self._seen_stopped += seconds
    self._here["stopped"] += seconds
    return seconds

  def compilation(self, cache: str) -> str:
    """Returns a line on the train step, after its first call.

    Args:
      cache: the folder of compiled programs, "" if there is none.
    """
    seconds = _time(self._compiled.seconds - self._taken)
    if self._compiled.num_loaded > self._num_loaded:
      return f"train step: loaded in {seconds} from {cache}"
    saved = f"; programs are saved in {cache}" if cache else ""
    return f"train step: compiled in {seconds}{saved}"

  def row(self) -> dict[str, float]:
    """Returns the metrics of a step."""
    wall = max(time.time() - self._first, 1e-9)
    stepping = self._before["stepping"] + self._here["stepping"]
    return {
      "wall_seconds": wall,
      "goodput": min(stepping / wall, 1.0),
      "lost_steps": self.lost_steps,
    }

  def seconds_by_kind(self) -> dict[str, float]:
    """Returns the metrics of an evaluation: `stepping_seconds` and so on."""
    return {f"{k}_seconds": x for k, x in self.state()["seconds"].items()}

  def line(self) -> str:
    """Returns the line at the end of a run."""
    row, seconds = self.row(), self.state()["seconds"]
    seconds["other"] = row["wall_seconds"] - sum(seconds.values())
    parts = [f"{kind} {_time(s)}" for kind, s in seconds.items() if s >= 0.05]
    again = f" ({self.lost_steps:,} steps computed again)"
    return (
      f"goodput {row['goodput']:.1%} of {_time(row['wall_seconds'])} since the "
      f"first start: {', '.join(parts)}{again if self.lost_steps else ''}"
    )


def _time(seconds: float) -> str:
  """Returns a duration in a unit that fits it."""
  for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
    if seconds < limit:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds / 3600:.1f} h"
