"""Which signals are one request to stop, and which end a process at once."""

import signal
import subprocess
import sys
import time

import pytest

from pausejax.runtime import signals

# A program listens, a notebook does not.
PROGRAM, NOTEBOOK = "signals.listen(lambda number: os._exit(99))", ""
RUN = """
import os, sys, time
from pausejax.runtime import signals
{listen}
flag = signals.StopFlag()
print("ready", flush=True)
try:
  while not flag.exit_code:
    time.sleep(0.01)
  time.sleep({seconds})
  print("saved", flush=True)
except signals.Stopped as e:
  sys.exit(e.exit_code)
sys.exit(flag.exit_code)
"""


def run(
  *numbers: int, seconds: float, seconds_between: float, listen: str
) -> tuple[int, str]:
  """Returns the exit code and the output of a run that gets the signals.

  Args:
    numbers: the signals.
    seconds: that the run takes to save.
    seconds_between: from one signal to the next.
    listen: `PROGRAM` or `NOTEBOOK`.
  """
  code = RUN.format(listen=listen, seconds=seconds)
  process = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "ready\n"
  for number in numbers:
    process.send_signal(number)
    time.sleep(seconds_between)
  output, _ = process.communicate()
  return process.returncode, output


@pytest.mark.parametrize("listen", [PROGRAM, NOTEBOOK])
@pytest.mark.parametrize(
  "numbers", [(15,), (15, 15), (15, 15, 15), (2, 15), (2, 2)]
)
def test_simultaneous_signals_count_as_one(numbers, listen):
  found = run(*numbers, seconds=0.5, seconds_between=0.05, listen=listen)
  assert found == (128 + numbers[0], "saved\n")


@pytest.mark.parametrize("listen", [PROGRAM, NOTEBOOK])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_later_signal_ends_the_process_immediately(second, listen):
  numbers = (signal.SIGTERM, second)
  found = run(*numbers, seconds=60, seconds_between=2.0, listen=listen)
  assert found == (128 + second, "")


def test_inside_deferred_a_signal_does_not_end_the_process(monkeypatch):
  monkeypatch.setattr(signals, "_GRACE_SECONDS", 0.0)
  monkeypatch.setattr(signals, "_is_deferred", False)
  left = []
  with signals.deferred():
    signals._leave_later(left.append, 15)
  assert left == []
  signals._leave_later(left.append, 15)
  assert left == [15]
