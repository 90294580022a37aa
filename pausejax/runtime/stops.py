"""For how long this process was stopped: by SIGSTOP, Ctrl-Z or its container.

A thread reports regularly. Two reports far apart, between which the process
used hardly any processor, are the two ends of a stop. A process that computes
in C, so that no other thread runs, uses one. What all processors computed just
before a stop counts, too, so on many cores a short stop is not found. A
suspended machine stops the clock, too.
"""

import dataclasses
import time

SHORTEST = 2.0  # Seconds; the thread may be late without a stop.
_MOST_BUSY = 0.5  # Of one processor; it may have computed before the stop.


@dataclasses.dataclass(frozen=True)
class _Report:
  """The last report.

  Attributes:
    stopped: seconds of the stops before it.
    now: its time; None before the first.
    cpu: processor seconds of this process at that time.
  """

  stopped: float = 0.0
  now: float | None = None
  cpu: float = 0.0


_last = _Report()


def report_running() -> None:
  """Reports that this process runs; call it several times per second."""
  global _last
  _last = _Report(seconds(), time.monotonic(), time.process_time())


def end_reports() -> None:
  """Ends the reports: what follows is no stop."""
  global _last
  _last = _Report(seconds())


def seconds() -> float:
  """Returns the seconds of all stops of at least `SHORTEST` seconds."""
  last = _last
  if last.now is None:
    return last.stopped
  elapsed = time.monotonic() - last.now
  is_busy = time.process_time() - last.cpu > _MOST_BUSY * elapsed
  was_stopped = elapsed >= SHORTEST and not is_busy
  return last.stopped + (elapsed if was_stopped else 0.0)
