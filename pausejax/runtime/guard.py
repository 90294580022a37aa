"""Ends a process that reports nothing more.

No Python thread runs while one of them holds the GIL, or the process was to end
and does not.

`Guard` starts this file as a small program. The watchdog's thread writes a line
to it several times per second. When no line comes for the limit in the last
one, the program prints that line, sends a signal on which faulthandler prints
every thread's stack, and makes the process exit with 143. None of this needs
the GIL: faulthandler's handler is C code, and so is the exit. A process that is
stopped (SIGSTOP, Ctrl-Z, a debugger) is left alone.

The exit is a read in advance: POSIX asynchronous I/O waits for a byte in a pipe
and then calls a function of one integer in a new C thread. The function is
_exit, the integer 143.
"""

import contextlib
import ctypes
import faulthandler
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time

_EXIT_CODE = 143
_SIGEV_THREAD = 2  # <signal.h>
_TICK_SECONDS = 0.5
_DUMP_SECONDS = 1.0  # Time to print the stacks.


class Guard:
  """The program that watches this process; on Linux with glibc only."""

  def __init__(self):
    """Starts the program."""
    exit_pipe = _exit_pipe()
    faulthandler.register(_dump_signal(), file=2, all_threads=True)
    command = [sys.executable, "-I", "-S", __file__]
    reader, self._input = os.pipe()
    os.set_blocking(self._input, False)
    self._process = subprocess.Popen(
      [*command, str(os.getpid()), str(exit_pipe)],
      stdin=reader,
      stdout=subprocess.DEVNULL,
      pass_fds=[exit_pipe],
    )
    os.close(reader)

  def beat(self, line: str, limit: float) -> None:
    """Reports that Python threads run.

    Args:
      line: what to print if this is the last report.
      limit: seconds until the next report, at most; 0: no limit.
    """
    content = json.dumps([line, limit]) + "\n"
    # The program may have been killed, or stopped.
    with contextlib.suppress(OSError):
      os.write(self._input, content.encode())

  def close(self) -> None:
    """Ends the program."""
    self._process.kill()
    self._process.wait()
    os.close(self._input)


def start_guard() -> Guard | None:
  """Returns a guard; None where the C library lacks what it needs."""
  if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "aio_read"):
    return None
  try:
    return Guard()
  except OSError as e:
    print(
      f"pausejax: warning: no watchdog without the GIL: {e}", file=sys.stderr
    )
    return None


class _SigEvent(ctypes.Structure):
  """`struct sigevent`, 64 bytes."""

  _fields_ = (
    ("value", ctypes.c_void_p),
    ("signo", ctypes.c_int),
    ("notify", ctypes.c_int),
    ("function", ctypes.c_void_p),
    ("attributes", ctypes.c_void_p),
    ("padding", ctypes.c_char * 32),
  )


class _AioControl(ctypes.Structure):
  """`struct aiocb` of glibc: its public fields, and space for the others."""

  _fields_ = (
    ("fd", ctypes.c_int),
    ("opcode", ctypes.c_int),
    ("priority", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("num_bytes", ctypes.c_size_t),
    ("event", _SigEvent),
    ("rest", ctypes.c_char * 256),
  )


@functools.cache
def _exit_pipe() -> int:
  """Returns a file descriptor; a byte written there ends this process.

  Both ends stay open, so that the end of the program is no end of file.
  """
  libc = ctypes.CDLL(None, use_errno=True)
  reader, writer = os.pipe()
  control, buffer = _AioControl(fd=reader, num_bytes=1), ctypes.c_char()
  control.buffer = ctypes.addressof(buffer)
  control.event.value = _EXIT_CODE
  control.event.notify = _SIGEV_THREAD
  control.event.function = ctypes.cast(libc._exit, ctypes.c_void_p).value
  _kept.extend((control, buffer))
  if libc.aio_read(ctypes.byref(control)):
    raise OSError(ctypes.get_errno(), "aio_read failed")
  return writer


_kept: list = []  # Memory that C code refers to.


def _dump_signal() -> int:
  """Returns a real-time signal that nothing else uses."""
  return signal.SIGRTMIN + 9


def _watch(process: int, exit_pipe: int) -> None:
  """Ends a process that reports nothing for the limit; returns when it ends."""
  line, limit, silence, looked = "", 0.0, 0.0, time.monotonic()
  content = b""
  while True:
    ready, _, _ = select.select([0], [], [], _TICK_SECONDS)
    now = time.monotonic()
    elapsed, looked = min(now - looked, 4 * _TICK_SECONDS), now
    if ready:
      received = os.read(0, 2**16)
      if not received:
        return
      *lines, content = (content + received).split(b"\n")
      line, limit = json.loads(lines[-1]) if lines else (line, limit)
      silence = 0.0
    elif not _is_stopped(process):
      silence += elapsed
    if 0 < limit < silence:
      break
  print(
    f"{line}; has reported nothing for {silence:.0f} s: one of its threads "
    f"holds the GIL, or its end is stuck; exits with {_EXIT_CODE}, run again",
    file=sys.stderr,
    flush=True,
  )
  os.kill(process, _dump_signal())
  time.sleep(_DUMP_SECONDS)
  os.write(exit_pipe, b"x")


def _is_stopped(process: int) -> bool:
  """Returns whether a process is stopped by a signal or a debugger."""
  try:
    with open(f"/proc/{process}/stat") as file:
      state = file.read().rpartition(")")[2].split()[0]
  except OSError:
    return False
  return state in "Tt"


if __name__ == "__main__":
  # They are sent to all processes of a job.
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  _watch(*map(int, sys.argv[1:]))
