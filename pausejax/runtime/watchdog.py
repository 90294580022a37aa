"""Ends this process when a phase takes longer than its limit.

A thread looks at the phase several times per second. At the limit it prints one
line and every thread's stack, tells the other processes of the run, and exits
with 143, "run again". It counts only the time in which it ran itself: a process
that was stopped, or a machine that was suspended, has not been slow. A second
line of defense (`guard.py`) ends a process whose threads cannot run.

A process that waits for another one, as in a collective, has done nothing
wrong. So while another process is in a different phase and has time left there,
such as a compilation, this one waits.
"""

import contextlib
import faulthandler
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from pausejax.config import WatchdogConfig
from pausejax.runtime import distributed, guard, phases, stops
from pausejax.runtime.phases import Phase
from pausejax.runtime.signals import PREEMPTED

_TICK_SECONDS = 0.5
_TIMES_MEDIAN = 10
_END_SECONDS = 60.0  # For messages and to tell the others.


_current: "Watchdog | None" = None


@contextlib.contextmanager
def watch(config: WatchdogConfig) -> Iterator[None]:
  """Watches the phases of this process until the context ends.

  Inside another such context only the limits change, until this one ends: a
  program is watched from its start, before it has read the limits of a run.
  """
  global _current
  phases.reset()
  if _current is not None:
    before = _current.limit(config)
    try:
      yield
    finally:
      _current.limit(before)
    return
  _current = Watchdog(config)
  try:
    yield
  finally:
    watchdog, _current = _current, None
    watchdog.close()


def set_limits(config: WatchdogConfig) -> None:
  """Changes the limits of this process, if it is watched."""
  if _current is not None:
    _current.limit(config)


class Watchdog:
  """The thread that limits the phases."""

  def __init__(self, config: WatchdogConfig):
    """Starts the thread, and the guard if there is any limit."""
    self._stopped = threading.Event()
    self._guard: guard.Guard | None = None
    self._config = config
    self.limit(config)
    self._check(phases.current_phase(), 0.0)
    stops.report_running()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def limit(self, config: WatchdogConfig) -> WatchdogConfig:
    """Changes the limits; returns those before."""
    before, self._config = self._config, config
    if self._guard is None and (config.step_seconds or config.phase_seconds):
      self._guard = guard.start_guard()
    return before

  def close(self) -> None:
    """Stops watching."""
    self._stopped.set()
    self._thread.join()
    stops.end_reports()
    distributed.report(phases.Status())
    if self._guard is not None:
      self._guard.close()

  def _run(self) -> None:
    phase, seconds, looked = phases.current_phase(), 0.0, time.monotonic()
    while not self._stopped.wait(_TICK_SECONDS):
      now = time.monotonic()
      elapsed, looked = min(now - looked, 4 * _TICK_SECONDS), now
      stops.report_running()
      last, phase = phase, phases.current_phase()
      seconds = seconds + elapsed if phase is last else 0.0
      self._check(phase, seconds)

  def _check(self, phase: Phase, seconds: float) -> None:
    """Reports the phase; ends this process if it exceeds its limit."""
    limit = phase_limit(phase, self._config, phases.median_step())
    status = phases.Status(phase.name, phase.step, seconds, limit - seconds)
    distributed.report(status)
    has_limit = math.isfinite(limit)
    line = f"pausejax: {_own_name()} is stuck: {status.text()}"
    line += f", limit {limit:.0f} s" if has_limit else ""
    if self._guard is not None:
      self._guard.beat(line, limit if has_limit else 0.0)
    is_stuck = seconds > limit and not distributed.is_another_busy()
    if is_stuck and distributed.begin_end():
      if self._guard is not None:
        self._guard.beat(line, _END_SECONDS)
      _end(line)


def _end(line: str) -> None:
  others = distributed.furthest_behind()
  others = f"; {others}" if others else ""
  line = f"{line}; exits with {PREEMPTED}, run again{others}"
  print(line, file=sys.stderr, flush=True)
  faulthandler.dump_traceback(file=2, all_threads=True)
  distributed.leave_stuck()


def phase_limit(
  phase: Phase, config: WatchdogConfig, median_step: float | None
) -> float:
  """Returns the seconds that a phase may take; inf: no limit.

  Args:
    phase: the phase.
    config: the limits.
    median_step: median seconds of the recent steps; None: not yet timed, so the
      longer limit holds for the first steps, too.
  """
  if phase.name == phases.PREPARING:  # Another process prepares, for hours.
    return math.inf
  follows_steps = phase.name in ("stepping", phases.DATA, phases.PEERS)
  if not follows_steps or median_step is None:
    return config.phase_seconds or math.inf
  if not config.step_seconds:
    return math.inf
  return max(config.step_seconds, _TIMES_MEDIAN * median_step)


def _own_name() -> str:
  index, host = distributed.process_index(), socket.gethostname()
  return f"process {index} on {host} (pid {os.getpid()})"
