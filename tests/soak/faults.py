"""Faults around a run: a full disk, a clock that jumps, a port in use.

After each, the command is started again and must end as an undisturbed run.
"""

import collections
import contextlib
import pathlib
import random
import signal
import socket
import subprocess
from collections.abc import Iterator

from tests import processes
from tests.soak import training

_ALLOWED = (0, 1)  # 1: the last save, or three saves in a row, failed.
_LARGE = 2**28  # Bytes.
# `sitecustomize` of a child: time.time jumps by up to a day, back and forth.
_CLOCK = """
import random, time
rng, real, real_ns = random.Random({seed}), time.time, time.time_ns
state = {{"offset": 0.0, "calls": 0}}
def offset():
  state["calls"] += 1
  if state["calls"] % 50 == 0:
    state["offset"] = rng.uniform(-86400, 86400)
  return state["offset"]
time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + int(1e9 * offset())
"""


def soak_disk(
  trials: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Runs on file systems of many sizes; needs the right to mount.

  Raises:
    AssertionError: a run ends otherwise, or goes on differently.
  """
  rng, counts = random.Random(seed), collections.Counter()
  setting = training.Setting(num_steps=40)
  quiet = training.quiet_run(setting, folder)
  used = sum(p.stat().st_size for p in quiet.workdir.rglob("*") if p.is_file())
  for trial in range(trials):
    run = training.Run(setting, folder, f"full{trial}")
    run.workdir.mkdir()
    with _mounted(run.workdir, rng.randint(used // 10, used)):
      (code,) = processes.wait(run.start())
      assert code in _ALLOWED and "Traceback" not in run.log(), run.log()
      counts["disks that were full"] += code != 0
      training.compare(run, quiet, is_complete=False)
      _call("mount", "-o", f"remount,size={_LARGE}", str(run.workdir))
      run.finish()
      counts["resumes above step 0"] += run.resumed_from() > 0
      counts["comparisons"] += training.compare(run, quiet, is_complete=True)
  return counts


def soak_port(
  trials: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Starts runs of two processes whose coordinator's port is in use.

  Raises:
    AssertionError: a process goes on or prints a traceback, or the run is not
      an undisturbed one with another port.
  """
  rng, counts = random.Random(seed), collections.Counter()
  setting = training.Setting(num_steps=20, count=2)
  quiet = training.quiet_run(setting, folder)
  for trial in range(trials):
    run = training.Run(setting, folder, f"taken{trial}")
    if rng.random() < 0.5:  # Also a run that has a checkpoint.
      training.kill_at(run, rng.randrange(5, 15), 0, rng)
    before = run.newest_step()
    with socket.create_server(("127.0.0.1", 0)) as taken:
      address = f"127.0.0.1:{taken.getsockname()[1]}"
      first, other = run.start(JAX_COORDINATOR_ADDRESS=address)
      codes = [first.wait()]
      other.send_signal(signal.SIGTERM)  # As a launcher does.
      codes += processes.wait([other])
    assert 0 not in codes and "Traceback" not in run.log(), run.log()
    assert address in run.log() and run.newest_step() == before, run.log()
    counts["ports in use"] += 1
    run.finish()
    assert run.resumed_from() == before, (run.resumed_from(), before)
    counts["resumes above step 0"] += before > 0
    counts["comparisons"] += training.compare(run, quiet, is_complete=True)
  return counts


def soak_clock(
  trials: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Kills runs whose clock jumps by up to a day.

  Raises:
    AssertionError: a run is different from one with a steady clock.
  """
  rng, counts = random.Random(seed), collections.Counter()
  setting = training.Setting(num_steps=40)
  quiet = training.quiet_run(setting, folder)
  for trial in range(trials):
    site = folder / f"clock{trial}"
    site.mkdir()
    code = _CLOCK.format(seed=rng.random())
    (site / "sitecustomize.py").write_text(code)
    path = f"{site}:{processes.ROOT}"
    run = training.Run(setting, folder, f"jumps{trial}")
    step = rng.randrange(4, setting.num_steps)
    counts["kills"] += bool(
      training.kill_at(run, step, 0, rng, PYTHONPATH=path)
    )
    run.finish(PYTHONPATH=path)
    counts["resumes above step 0"] += run.resumed_from() > 0
    counts["comparisons"] += training.compare(run, quiet, is_complete=True)
  return counts


@contextlib.contextmanager
def _mounted(folder: pathlib.Path, size: int) -> Iterator[None]:
  """Mounts an empty file system of `size` bytes in memory."""
  _call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
  try:
    yield
  finally:
    _call("umount", "-l", str(folder))


def _call(*words: str) -> None:
  subprocess.run(words, check=True)
