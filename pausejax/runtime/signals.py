"""SIGTERM and Ctrl-C: what is saved, and when the process ends.

Schedulers send SIGTERM before they take a machine away. Before the first step
there is nothing to save and the run leaves at once; later it saves at the next
step boundary. Either way it leaves with 143, on which SLURM, XPK and
Kubernetes start a job again. A second signal ends the process at once.
"""

import signal

PREEMPTED = 128 + signal.SIGTERM  # 143: saved, run me again.
INTERRUPTED = 128 + signal.SIGINT  # 130


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
    self.exit_code = 0
    self._raises = at_once
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._receive)

  def defer(self) -> None:
    """From now on a signal only sets the flag.

    Raises:
      Stopped: a signal came before, and its exception was lost in a callback.
    """
    self._raises = False
    if self.exit_code:
      raise Stopped(self.exit_code)

  def _receive(self, number: int, frame) -> None:
    del frame
    self.exit_code = 128 + number
    signal.signal(number, signal.SIG_DFL)
    if self._raises:
      raise Stopped(self.exit_code)
