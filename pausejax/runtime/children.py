"""Child processes that do not outlive their parent."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def start_command(
  command: Sequence[str],
  *,
  output: IO[str],
  environment: Mapping[str, str],
  lock: IO[str],
) -> subprocess.Popen:
  """Starts a command that receives SIGTERM when this process ends.

  On Linux the kernel sends the signal, however this process ended. The child
  holds the lock as long as it lives, even if its parent has ended.

  Args:
    command: the program and its arguments.
    output: the file for its standard output and standard error.
    environment: its environment variables.
    lock: an open file that this process has locked; the child's process id is
      written into it.
  """
  parent = os.getpid()

  def prepare() -> None:
    """Runs in the child, before the command."""
    if _LIBC is None:
      return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # The parent ended before the line above.
      os.kill(os.getpid(), signal.SIGKILL)

  process = subprocess.Popen(
    command,
    stdout=output,
    stderr=subprocess.STDOUT,
    env=environment,
    pass_fds=[lock.fileno()],
    preexec_fn=prepare,
  )
  lock.truncate(0)
  lock.write(f"{process.pid}\n")
  lock.flush()
  return process
