"""Several real processes: they start, agree and end as one run."""

import signal
import socket
import sys
import time

import pytest

from tests import processes, toys

# The bodies below take the place of the train program: how processes meet and
# part does not depend on what they do meanwhile.
PROGRAM = """
import os, signal, sys, time, types
from pausejax import cli, errors
from pausejax.runtime import distributed, signals
distributed._MEETING_SECONDS = 2
if "PATIENCE" in os.environ:
  distributed.INITIALIZATION_SECONDS = int(os.environ["PATIENCE"])
def main(argv):
  index = distributed.process_index()
{body}
  return 0
sys.modules["pausejax.programs.train"] = types.SimpleNamespace(main=main)
sys.exit(cli.main(["train"]))
"""


def run(body: str, tmp_path, **changes: str) -> tuple[list[int], list[str]]:
  """Runs the body in two processes; returns exit codes and what they wrote."""
  body = "\n".join("  " + line for line in body.strip().splitlines())
  command = [sys.executable, "-c", PROGRAM.format(body=body)]
  started = processes.start([command] * 2, tmp_path, devices=1, **changes)
  return processes.wait(started), processes.logs(tmp_path)


@pytest.mark.slow
def test_processes_exchange_values_and_only_the_first_prints(tmp_path):
  codes, (first, second) = run(
    """
print("given", *map(distributed.all_gather, (index, [10 * index])))
os.system("echo from a child")
""",
    tmp_path,
  )
  assert codes == [0, 0]
  assert "given [0, 1] [[0], [10]]" in first and "from a child" in first
  # What it waited for, if it had to wait.
  assert all("waits for" in line for line in second.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("body", "code", "cause"),
  [
    (
      "if index == 1: raise errors.UserError('disk is full')",
      1,
      "disk is full",
    ),
    ("if index == 0: raise errors.UsageError('no such field')", 2, "no such"),
    (
      "if index == 1: raise errors.CheckpointUnusable('none is intact')",
      3,
      "none is intact",
    ),
    (
      "stop = signals.StopFlag(interrupt=True)\n"
      "if index == 1: os.kill(os.getpid(), signal.SIGTERM)",
      143,
      "pausejax: asked to stop",
    ),
  ],
)
def test_a_process_that_stops_the_run_ends_all_processes(
  tmp_path, body, code, cause
):
  began = time.monotonic()
  codes, logs = run(f"{body}\ntime.sleep(100)", tmp_path)
  assert time.monotonic() - began < 60  # JAX alone: 300 s.
  assert codes == [code, code]
  failed = "if index == 1" in body
  assert cause in logs[failed] and cause not in logs[not failed]
  note = f"process {int(failed)} ended with exit code {code}, so"
  assert note in logs[not failed]


@pytest.mark.slow
@pytest.mark.parametrize("failed", [0, 1])
def test_the_other_processes_report_a_crashed_one(tmp_path, failed):
  body = f"if index == {failed}: raise KeyError('a bug')\ntime.sleep(100)"
  codes, logs = run(body, tmp_path)
  assert codes[failed] == 1 and codes[1 - failed] == 143
  assert "KeyError: 'a bug'" in logs[failed]
  assert ours(logs[1 - failed])[-1].startswith(
    f"pausejax: process {failed} on {socket.gethostname()} was lost: it failed "
    "(exit code 1"
  )


# What a process does while another one is lost: it waits in Python, for a value
# of the others, or in a collective.
IDLE = "time.sleep(100)"
IN_EXCHANGE = f"if index == {{lost}}: {IDLE}\ndistributed.all_gather(0)"
IN_COLLECTIVE = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(jax.devices(), "x")
x = jax.make_array_from_callback((2,), NamedSharding(mesh, P("x")),
  lambda i: jnp.ones(1))
add = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
print(float(add(x)))
open(f"met{index}", "w").close()
for _ in range(10**6):
  float(add(x))
"""


def ours(log: str) -> list[str]:
  """Returns the lines that pausejax wrote, except those about waiting."""
  lines = [s for s in log.splitlines() if s.startswith("pausejax: ")]
  return [line for line in lines if "waits for" not in line]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("body", "lost", "number"),
  [
    (IDLE, 0, signal.SIGKILL),
    (IDLE, 1, signal.SIGKILL),
    (IDLE, 0, signal.SIGSTOP),
    (IN_EXCHANGE, 1, signal.SIGSTOP),
    (IN_COLLECTIVE, 0, signal.SIGKILL),
    (IN_COLLECTIVE, 1, signal.SIGKILL),
  ],
)
def test_a_lost_process_is_named_and_the_other_exits_with_143(
  tmp_path, body, lost, number
):
  body = body.format(lost=lost) if body is IN_EXCHANGE else body
  if body is not IN_COLLECTIVE:
    body = f"open(f'met{{index}}', 'w').close()\n{body}"
  text = "\n".join("  " + s for s in body.strip().splitlines())
  program = f"import os; os.chdir({str(tmp_path)!r})\n" + PROGRAM
  command = [sys.executable, "-c", program.replace("{body}", text)]
  started = processes.start(
    [command] * 2, tmp_path, devices=1, PAUSEJAX_PEER_TIMEOUT="4"
  )
  try:
    while not all((tmp_path / f"met{i}").exists() for i in (0, 1)):
      assert all(p.poll() is None for p in started), processes.logs(tmp_path)
      time.sleep(0.05)
    started[lost].send_signal(number)
    code = started[1 - lost].wait(40)
  finally:
    for process in started:
      process.kill()
  log = processes.logs(tmp_path)[1 - lost]
  assert code == 143, log
  (line,) = ours(log)
  assert f"process {lost} on {socket.gethostname()} was lost: " in line
  assert "Traceback" not in log
  if not (lost == 0 and number == signal.SIGKILL):
    # JAX's client, which writes from C++, was not first.
    assert "coordination_service" not in log, log


COMPILE = """
import jax, jax.numpy as jnp
def f(x):
  for i in range(4000):
    x = jnp.sin(x @ x) + i
  return x
lowered = jax.jit(f).lower(jnp.ones((8, 8)))
print("compiling", flush=True)
lowered.compile()
print("compiled", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_during_compilation_exits_immediately(tmp_path, count):
  text = "\n".join("  " + s for s in COMPILE.strip().splitlines())
  command = [sys.executable, "-c", PROGRAM.replace("{body}", text)]
  started = processes.start([command] * count, tmp_path, devices=1)
  while "compiling" not in processes.logs(tmp_path, 1)[0]:
    assert started[0].poll() is None
    time.sleep(0.05)
  time.sleep(0.5)
  began = time.monotonic()
  started[0].send_signal(signal.SIGTERM)
  codes = processes.wait(started, 60)
  logs = processes.logs(tmp_path, count)
  assert codes == [143] * count and "compiled" not in logs[0], logs
  assert logs[0].count("pausejax: asked to stop") == 1
  assert time.monotonic() - began < 15  # On a busy machine.


@pytest.mark.slow
def test_every_process_names_the_settings_that_differ(tmp_path):
  codes, logs = run(
    "distributed.require_agreement("
    "{'seed': 0, 'config': {'model': {'d_ff': 32 + index}}})",
    tmp_path,
  )
  assert codes == [2, 2]
  for log in logs:
    assert "config.model.d_ff is 33 in process 1 and 32 in process 0" in log
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.parametrize("stops", [False, True])
def test_waiting_for_a_missing_process_ends_at_the_timeout(tmp_path, stops):
  command = [sys.executable, "-c", PROGRAM.format(body="  pass")]
  address = f"127.0.0.1:{processes.free_port()}"
  (alone,) = processes.start(
    [command],
    tmp_path,
    devices=1,
    JAX_COORDINATOR_ADDRESS=address,
    JAX_NUM_PROCESSES="2",
    JAX_PROCESS_ID="1",
    PATIENCE="5",
  )
  while "waits for" not in processes.logs(tmp_path, 1)[0]:
    time.sleep(0.05)
  if stops:
    alone.send_signal(signal.SIGTERM)
  (code,), (log,) = processes.wait([alone]), processes.logs(tmp_path, 1)
  assert code == (143 if stops else 1)
  assert f"process 1 of 2 waits for the coordinator at {address}" in log
  said = "asked to stop" if stops else "not all connected within 5 s"
  assert said in log and "Check failure" not in log


def test_a_taken_port_is_named(tmp_path):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = toys.command(tmp_path / "corpus", tmp_path / "run")
    started = processes.start(
      [command],
      tmp_path,
      devices=1,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES="2",
      JAX_PROCESS_ID="0",
    )
    assert processes.wait(started, 300) == [1]
  (log,) = processes.logs(tmp_path, 1)
  (line,) = log.splitlines()
  assert line.startswith(f"pausejax: JAX_COORDINATOR_ADDRESS {address}: port ")
  assert "is used by another program" in line
  assert not (tmp_path / "run").exists()
