"""SIGTERM and Ctrl-C: what is saved, and when the process ends.

Schedulers send SIGTERM before they take a machine away. Until the first step is
compiled there is nothing to save and the run leaves at once; later it saves at
the next step boundary. Either way it leaves with 143, on which SLURM, XPK and
Kubernetes start a job again. A signal that comes a second or more after the
first ends the process at once. What comes sooner is the first one again: Ctrl-C
reaches a study and the run it started, which the study asks to stop as well;
srun and slurmstepd both pass a SIGTERM on; and Linux announces the death of a
parent process once for each of its threads that ends after the main one.

Python calls a handler only when the main thread is back from C++, where XLA
compiles for minutes. So a thread reads from a pipe, which Python's own C code
fills at once, and ends the process where the main thread does not.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

PREEMPTED = 128 + signal.SIGTERM  # 143: saved, run me again.
INTERRUPTED = 128 + signal.SIGINT  # 130

# For the main thread to leave by itself, and to end its child processes.
_GRACE_SECONDS = 1.0

# Two signals that come closer together are one.
_SAME_SIGNAL_SECONDS = 1.0

_is_listening = False
_is_deferred = False


class Stopped(BaseException):
  """A signal came where nothing is lost by leaving at once.

  Attributes:
    exit_code: 143 or 130.
  """

  def __init__(self, exit_code: int):
    super().__init__(exit_code)
    self.exit_code = exit_code


class StopFlag:
  """The exit code that a signal asked for, or 0."""

  def __init__(self, *, at_once: bool = False):
    """Takes over both signals.

    Args:
      at_once: raise `Stopped` when a signal comes, until `defer` is called.
    """
    global _is_deferred
    self.exit_code = 0
    self._raises = at_once
    _is_deferred = not at_once
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._receive)

  def defer(self) -> None:
    """From now on a signal only sets the flag.

    Raises:
      Stopped: a signal came before, and its exception was lost in a callback.
    """
    global _is_deferred
    self._raises = False
    if self.exit_code:
      raise Stopped(self.exit_code)
    _is_deferred = True

  def _receive(self, number: int, frame) -> None:
    del frame
    if self.exit_code:
      return  # `_listen` ends the process.
    self.exit_code = 128 + number
    if self._raises:
      raise Stopped(self.exit_code)


def listen(leave: Callable[[int], None]) -> None:
  """Ends this process on a signal even while the main thread is in C++.

  Args:
    leave: called in a thread with the number of a signal that came where
      nothing is lost by leaving, unless the main thread left before.
  """
  global _is_listening, _is_deferred
  _is_deferred = False
  if _is_listening:
    return
  _is_listening = True
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(target=_listen, args=(reader, leave), daemon=True).start()


def _listen(reader: int, leave: Callable[[int], None]) -> None:
  first = None
  while True:
    (number,) = os.read(reader, 1)
    if number not in (signal.SIGTERM, signal.SIGINT):
      continue
    now = time.monotonic()
    if first is not None:
      if now - first >= _SAME_SIGNAL_SECONDS:
        os._exit(128 + number)
      continue
    first = now
    if not _is_deferred:
      threading.Thread(
        target=_leave_later, args=(leave, number), daemon=True
      ).start()


def _leave_later(leave: Callable[[int], None], number: int) -> None:
  time.sleep(_GRACE_SECONDS)
  leave(number)
