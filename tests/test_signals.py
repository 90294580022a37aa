"""Which signals are one request to stop, and which end a process at once."""

import signal
import subprocess
import sys
import time

import pytest

RUN = """
import os, sys, time
from pausejax.runtime import signals
signals.listen(lambda number: os._exit(99))
flag = signals.StopFlag()
print("ready", flush=True)
while not flag.exit_code:
  time.sleep(0.01)
time.sleep(1.5)
print("saved", flush=True)
sys.exit(flag.exit_code)
"""


def run(*numbers: int, seconds_between: float) -> tuple[int, str]:
  """Returns the exit code and the output of a run that gets the signals."""
  process = subprocess.Popen(
    [sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "ready\n"
  for number in numbers:
    process.send_signal(number)
    time.sleep(seconds_between)
  output, _ = process.communicate()
  return process.returncode, output


@pytest.mark.parametrize(
  "numbers", [(15,), (15, 15), (15, 15, 15), (2, 15), (2, 2)]
)
def test_signals_at_the_same_time_are_one(numbers):
  expected = 128 + numbers[0]
  assert run(*numbers, seconds_between=0.05) == (expected, "saved\n")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_later_signal_ends_the_process_at_once(second):
  found = run(signal.SIGTERM, second, seconds_between=1.1)
  assert found == (128 + second, "")
