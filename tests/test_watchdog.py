"""A stuck process is named, prints its stacks and exits with 143; others not.

Real processes; what hangs in them is a stand-in: a sleep for a collective that
does not return, the opening of a FIFO that nobody writes for a file system that
does not respond, a C function called with the GIL for a stuck extension.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from pausejax.config import WatchdogConfig
from pausejax.runtime import arrivals, phases, watchdog
from tests import processes

PROGRAM = """
import ctypes, os, random, signal, sys, time, types
from pausejax import cli
from pausejax.config import WatchdogConfig
from pausejax.runtime import distributed, phases, stops, watchdog
def hang(index):
{body}
def main(argv):
  index = distributed.process_index()
  with watchdog.watch(WatchdogConfig(step_seconds={step}, phase_seconds=6)):
    phases.add_step(0.1)
    phases.enter("stepping", 7)
    hang(index)
  return 0
sys.modules["pausejax.programs.train"] = types.SimpleNamespace(main=main)
sys.exit(cli.main(["train"]))
"""
STEP_SECONDS, PHASE_SECONDS = 3, 6
SLEEP = "time.sleep(100)"
# Locks a mutex twice, in C; PyDLL keeps the GIL.
IN_C = """
mutex = ctypes.create_string_buffer(64)
for _ in range(2): ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""
COMPILING = "phases.enter('compiling')\ntime.sleep(1)"
FIFO = """
os.mkfifo(os.environ["FIFO"])
with phases.phase("saving"):
  open(os.environ["FIFO"])
"""


def start(body: str, folder, count: int = 1, **changes: str):
  lines = "\n".join("  " + line for line in body.strip().splitlines())
  text = PROGRAM.format(body=lines, step=STEP_SECONDS)
  command = [sys.executable, "-c", text]
  changes = {"FIFO": str(folder / "fifo"), **changes}
  return processes.start([command] * count, folder, devices=1, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("body", "phase", "limit"),
  [
    (SLEEP, "stepping", STEP_SECONDS),
    (IN_C, "stepping", STEP_SECONDS),
    (FIFO, "saving", PHASE_SECONDS),
    (
      f"with phases.phase(phases.DATA): {SLEEP}",
      "waiting for data",
      STEP_SECONDS,
    ),
    (
      f"phases.enter('compiling')\ntime.sleep(1){IN_C}",
      "compiling",
      PHASE_SECONDS,
    ),
  ],
)
def test_a_stuck_process_exits_with_143_within_twice_the_limit(
  tmp_path, body, phase, limit
):
  # A second, for a report of this phase to the guard.
  body = f"time.sleep(1)\nprint('hangs', flush=True)\n{body}"
  started = start(body, tmp_path)
  while "hangs" not in processes.logs(tmp_path, 1)[0]:
    time.sleep(0.01)
  began = time.monotonic()
  assert processes.wait(started, 60) == [143]
  assert time.monotonic() - began < 2 * limit
  (log,) = processes.logs(tmp_path, 1)
  (line,) = [s for s in log.splitlines() if s.startswith("pausejax: ")]
  pid = started[0].pid
  assert f"process 0 on {socket.gethostname()} (pid {pid}) is stuck" in line
  assert f"phase {phase}, step 7, for " in line and f"limit {limit} s" in line
  assert ("holds the GIL" in line) == (IN_C in body)
  assert " in hang\n" in log and " in _run\n" in log  # Every thread's stack.


@pytest.mark.slow
def test_a_process_whose_end_is_stuck_exits_with_143(tmp_path):
  body = "distributed.leave_stuck = hang_at_end\nwatchdog._END_SECONDS = 2.0"
  hang_at_end = "def hang_at_end(): time.sleep(100)"
  started = start(f"{hang_at_end}\n{body}\n{SLEEP}", tmp_path)
  assert processes.wait(started, 60) == [143]
  (log,) = processes.logs(tmp_path, 1)
  lines = [s for s in log.splitlines() if s.startswith("pausejax: ")]
  assert len(lines) == 2 and lines[1].startswith(lines[0].split(";")[0])
  assert "its end is stuck" in lines[1]


HEALTHY = """
random.seed(0)
for step in range(8, 40):
  phases.enter("stepping", step)
  with phases.phase("compiling" if step == 20 else "stepping"):
    time.sleep(4 if step == 20 else random.choice([0.01, 0.05, 0.6]))
  phases.add_step(0.1)
for _ in range(5):
  with phases.phase("evaluating"):
    time.sleep(1.5)
    phases.advance()
    time.sleep(1.5)
"""


@pytest.mark.slow
def test_a_slow_or_stopped_process_goes_on(tmp_path):
  body = (
    f"print('on', flush=True)\n{HEALTHY}\nprint('stopped', stops.seconds())"
  )
  (process,) = started = start(body, tmp_path)
  while "on" not in processes.logs(tmp_path, 1)[0]:
    time.sleep(0.01)
  process.send_signal(signal.SIGSTOP)  # As by Ctrl-Z, or a debugger.
  time.sleep(3 * STEP_SECONDS)
  process.send_signal(signal.SIGCONT)
  assert processes.wait(started, 120) == [0]
  (log,) = processes.logs(tmp_path, 1)
  assert "stuck" not in log
  # From the report before to the one after.
  stopped = float(log.split("stopped")[1])
  assert 3 * STEP_SECONDS <= stopped < 3 * STEP_SECONDS + 1.5


@pytest.mark.slow
def test_the_guard_ends_with_its_process_and_its_end_does_no_harm(tmp_path):
  def guards() -> list[str]:
    found = subprocess.run(
      ["pgrep", "-P", str(started[0].pid)], capture_output=True, text=True
    )
    return found.stdout.split()

  started = start("time.sleep(2)\n", tmp_path)
  while not guards():
    assert started[0].poll() is None
    time.sleep(0.01)
  (guard,) = guards()
  os.kill(int(guard), signal.SIGKILL)
  assert processes.wait(started, 60) == [0]

  started = start(SLEEP, tmp_path)
  while not guards():
    time.sleep(0.01)
  (guard,) = guards()
  started[0].kill()
  deadline = time.monotonic() + 30
  while os.path.exists(f"/proc/{guard}") and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not os.path.exists(f"/proc/{guard}")


# The first process waits for the second one, which hangs.
COLLECTIVE = """
def stuck():
{what}
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(jax.devices(), "x")
x = jax.make_array_from_callback((2,), NamedSharding(mesh, P("x")),
  lambda i: jnp.ones(1))
add = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
for step in range(8, 12):
  phases.enter("stepping", step)
  if step == 11 and index == 1:
    time.sleep(1.5)  # For a report to the other process.
    print("hangs", file=sys.stderr, flush=True)
    stuck()
  float(add(x))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("what", "second"),
  [
    (SLEEP, 143),
    (IN_C, 143),
    ("os.kill(os.getpid(), signal.SIGSTOP)", -signal.SIGKILL),  # By `wait`.
  ],
)
def test_all_processes_name_a_stuck_one(tmp_path, what, second):
  lines = "\n".join(f"  {line}" for line in what.strip().splitlines())
  body = COLLECTIVE.replace("{what}", lines)
  started = start(body, tmp_path, 2, PAUSEJAX_PEER_TIMEOUT="4")
  try:
    while "hangs" not in processes.logs(tmp_path)[1]:
      assert started[0].poll() is None, processes.logs(tmp_path)
      time.sleep(0.01)
    began = time.monotonic()
    assert started[0].wait(60) == 143
    assert time.monotonic() - began < 12
    if second == 143:
      assert started[1].wait(60) == 143
  finally:
    codes = processes.wait(started, 10) if second == 143 else []
    for process in started:
      process.kill()
  assert codes in ([], [143, 143])
  logs = processes.logs(tmp_path)
  ours = [s for s in logs[0].splitlines() if s.startswith("pausejax: proc")]
  (line,) = (s for s in ours if "waits for" not in s)
  assert f"process 1 on {socket.gethostname()}" in line
  assert f"(pid {started[1].pid}) last reported phase stepping, step " in line
  if what is SLEEP:
    assert " in hang\n" in logs[0] and " in stuck\n" in logs[1]


def limit(name: str, median: float | None, **changes: int) -> float:
  config = WatchdogConfig(**changes)
  return watchdog.phase_limit(phases.Phase(name, 1), config, median)


def test_the_limit_of_a_step_follows_the_measured_step_time():
  assert limit("stepping", 0.1) == 300
  assert limit("stepping", 40.0) == 400
  assert limit("stepping", None) == 3600  # The first step is not timed yet.
  assert limit(phases.DATA, None) == 3600 and limit(phases.DATA, 1.0) == 300
  for name in ("compiling", "saving", "restoring", "evaluating", "starting"):
    assert limit(name, 0.1) == 3600
  assert limit(phases.PREPARING, 0.1) == math.inf
  assert limit("stepping", 0.1, step_seconds=0) == math.inf
  assert limit("saving", 0.1, phase_seconds=0) == math.inf


def test_a_run_replaces_the_limits_of_the_program_while_it_lasts():
  program, run = WatchdogConfig(), WatchdogConfig(phase_seconds=0)
  with watchdog.watch(program):
    ours = watchdog._current
    phases.enter("stepping", 9)
    with watchdog.watch(run):
      assert watchdog._current is ours and ours._config is run
      assert phases.current_phase().name == "starting"
    assert ours._config is program
  assert watchdog._current is None


IMPORTING = """
import sys, threading
from pausejax.runtime import distributed
def ask():
  while not done:
    assert distributed.process_index() == 0
done = []
thread = threading.Thread(target=ask)
thread.start()
import jax
done.append(True)
thread.join()
"""


def test_the_index_can_be_asked_for_while_jax_is_imported():
  # Another thread's import of a part of JAX would break that of this one.
  done = subprocess.run([sys.executable, "-c", IMPORTING], cwd=processes.ROOT)
  assert done.returncode == 0


def test_connections_to_a_port_are_counted_by_host():
  with socket.socket(socket.AF_INET6) as server:
    server.bind(("::", 0))
    server.listen()
    port = server.getsockname()[1]
    address = f"localhost:{port}"
    assert arrivals.connected(address) == []
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in "ab"]
    hosts = arrivals.connected(address)
    for client in clients:
      client.close()
  assert hosts == ["127.0.0.1"] * 2
  assert arrivals.counted([*hosts, "10.0.0.3"]) == "127.0.0.1 (2), 10.0.0.3"
