"""Log lines of libraries are left out, all others are printed."""

import os
import sys

import pytest

from pausejax.data import library_logs

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written
I0000 00:00:1795679684.400690   32658 cudart_stub.cc:31] Could not find cuda
E0000 00:00:1795679752.4 3 cuda_platform.cc:52] failed call to cuInit: INTERNAL
2026-01-01 10:00:00.000001: I tensorflow/core/util/port.cc:153] oneDNN custom
"""
ERRORS = "E0000 00:00:1795679752.4 3 file.cc:5] cannot load it\nreal error\n"


@pytest.mark.parametrize("fails", [False, True])
def test_only_the_noise_is_left_out(fails, capfd):
  try:
    with library_logs.filtered():
      os.write(2, (NOISE + ERRORS).encode())
      print("from Python", file=sys.stderr)
      if fails:
        raise KeyError
  except KeyError:
    assert fails
  print("after it", file=sys.stderr)
  lines = capfd.readouterr().err.splitlines()
  assert {*lines} == {*ERRORS.splitlines(), "from Python", "after it"}
  assert lines[-1] == "after it"
