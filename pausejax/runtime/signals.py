"""Handles SIGTERM and Ctrl-C: saves the run, then ends the process.

Schedulers send SIGTERM before they preempt a machine. Until the first step is
compiled there is nothing to save and the run exits immediately; later it saves
at the next step boundary. In both cases it exits with 143, on which SLURM, XPK
and Kubernetes restart a job. A second signal, a second or more after the first,
ends the process immediately. A signal that comes sooner is a copy of the first
one: Ctrl-C reaches a study and the run it started, to which the study sends a
signal as well; srun and slurmstepd both forward a SIGTERM; and Linux announces
the death of a parent process once for each of its threads that ends after the
main one.

Python calls a handler only when the main thread returns from C++, where XLA
compiles for minutes. So a thread reads from a pipe, to which Python's own C
code writes immediately, and ends the process if the main thread does not.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

PREEMPTED = 128 + signal.SIGTERM  # 143: saved, run again.
INTERRUPTED = 128 + signal.SIGINT  # 130

# Time for the main thread to exit and to end its child processes.
_GRACE_SECONDS = 1.0

# Two signals closer together count as one.
_SAME_SIGNAL_SECONDS = 1.0

_is_listening = False
_is_deferred = False


class Stopped(BaseException):
  """A signal came while there is nothing to save.

  Attributes:
    exit_code: 143 or 130.
  """

  def __init__(self, exit_code: int):
    super().__init__(exit_code)
    self.exit_code = exit_code


class StopFlag:
  """The exit code that belongs to the signal received, or 0."""

  def __init__(self, *, interrupt: bool = False):
    """Installs a handler for both signals, in the main thread.

    Args:
      interrupt: raise `Stopped` on a signal, until `defer` is called.
    """
    global _is_deferred
    self.exit_code = 0
    self._received = 0.0
    self._raises = interrupt
    _is_deferred = not interrupt
    if can_handle():
      for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, self._receive)

  def defer(self) -> None:
    """Makes later signals only set the flag.

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
    now = time.monotonic()
    if self.exit_code:
      # `listen` ends the process; without it, as in a notebook, this does.
      if not _is_listening and now - self._received >= _SAME_SIGNAL_SECONDS:
        raise Stopped(128 + number)
      return
    self.exit_code, self._received = 128 + number, now
    if self._raises:
      raise Stopped(self.exit_code)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Inside, only a second signal ends this process."""
  global _is_deferred
  before, _is_deferred = _is_deferred, True
  try:
    yield
  finally:
    _is_deferred = before


def can_handle() -> bool:
  """Returns whether this thread may set handlers: the main thread may."""
  return threading.current_thread() is threading.main_thread()


def listen(leave: Callable[[int], None]) -> None:
  """Ends this process on a signal even while the main thread is in C++.

  Args:
    leave: called in a thread with the number of the signal, if there is nothing
      to save and the main thread has not exited by then.
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
  if not _is_deferred:
    leave(number)
