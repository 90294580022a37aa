"""SIGTERM and Ctrl-C as a flag that the loop reads between steps.

Schedulers send SIGTERM before they take a machine away. The run then saves at
the next step boundary and leaves with 143, on which SLURM, XPK and Kubernetes
start a job again. A second signal ends the process at once.
"""

import signal

PREEMPTED = 128 + signal.SIGTERM  # 143: saved, run me again.
INTERRUPTED = 128 + signal.SIGINT  # 130


class StopFlag:
  """The exit code that a signal asked for, or 0."""

  def __init__(self):
    self.exit_code = 0
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._raise_flag)

  def _raise_flag(self, number: int, frame) -> None:
    del frame
    self.exit_code = 128 + number
    signal.signal(number, signal.SIG_DFL)
