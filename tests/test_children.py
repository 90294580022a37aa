"""A child does not outlive its parent, and holds the lock while it lives."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pausejax import locks

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's"),
]

CHILD = """
import pathlib, signal, sys, time
def save(*_):
  time.sleep(1)
  pathlib.Path(sys.argv[1], "saved").touch()
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
PARENT = """
import os, pathlib, sys, time
from pausejax import locks
from pausejax.runtime import children
folder = pathlib.Path(sys.argv[1])
with (folder / "log").open("w") as log:
  children.start_command(
    [sys.executable, "-c", sys.argv[2], str(folder)],
    output=log, environment=os.environ, lock=locks.take(folder / "lock"),
  )
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_holds_the_lock_until_it_has_stopped(tmp_path, number):
  parent = subprocess.Popen(
    [sys.executable, "-c", PARENT, str(tmp_path), CHILD]
  )
  until = time.monotonic() + 60
  while not (tmp_path / "ready").exists():
    assert time.monotonic() < until
    time.sleep(0.02)
  os.kill(parent.pid, number)
  parent.wait()
  assert locks.take(tmp_path / "lock") is None
  child = int((tmp_path / "lock").read_text())
  os.kill(child, 0)  # It lives, and its number is right.
  while (lock := locks.take(tmp_path / "lock")) is None:
    assert time.monotonic() < until
    time.sleep(0.02)
  lock.close()
  assert (tmp_path / "saved").exists()
