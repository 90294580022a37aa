"""Several real processes: they start, agree, save and end as one run."""

import contextlib
import json
import pathlib
import shutil
import signal
import socket
import sys
import time

import pytest

from pausejax import cli, errors
from pausejax.runtime import environment
from tests import processes, toys

PLAIN = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
  "JAX_NUM_PROCESSES": "4",
  "JAX_PROCESS_ID": "3",
}
SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_NTASKS": "2",
  "SLURM_STEP_NODELIST": "node[1-2]",
}


@pytest.fixture
def variables(monkeypatch):
  """Sets the variables of a launcher, and no others."""
  for name in (*PLAIN, *SLURM, "JOB_COMPLETION_INDEX"):
    monkeypatch.delenv(name, raising=False)

  def set_all(found):
    for name, value in found.items():
      monkeypatch.setenv(name, value)

  return set_all


@pytest.mark.parametrize(
  "found",
  [
    {},
    {"JAX_NUM_PROCESSES": "1"},
    {"SLURM_JOB_ID": "7"},
    {**SLURM, "SLURM_NTASKS": "1"},
    {**SLURM, "SLURM_NTASKS": ""},
  ],
)
def test_one_process_runs_alone(variables, found):
  variables(found)
  assert environment.process_arguments() is None


def test_plain_variables_are_sufficient(variables):
  variables(PLAIN | SLURM)  # And win.
  found = environment.process_arguments()
  assert found["coordinator_address"] == "10.0.0.1:1234"
  assert (found["num_processes"], found["process_id"]) == (4, 3)


@pytest.mark.parametrize(
  ("host", "is_own"),
  [
    ("127.0.0.1", True),
    ("localhost", True),
    ("127.0.0.2", True),
    ("203.0.113.9", False),  # For documentation: no machine has it.
    ("node1", False),
  ],
)
def test_a_run_listens_at_an_address_of_its_machine_alone(
  variables, host, is_own
):
  variables(PLAIN | {"JAX_COORDINATOR_ADDRESS": f"{host}:1"})
  found = environment.process_arguments()
  assert found["coordinator_bind_address"] == (f"{host}:1" if is_own else None)


@pytest.mark.parametrize(
  ("tasks_per_node", "expected"),
  [
    ("2", {}),  # JAX gives each its GPU.
    ("4(x2)", {}),
    ("1(x2)", {"local_device_ids": []}),  # All GPUs of the node.
    ("1", {"local_device_ids": []}),
  ],
)
def test_jax_initializes_from_slurm_variables(
  variables, tasks_per_node, expected
):
  variables({**SLURM, "SLURM_STEP_TASKS_PER_NODE": tasks_per_node})
  assert environment.process_arguments() == expected


@pytest.mark.parametrize(
  ("found", "fragment"),
  [
    ({"JAX_NUM_PROCESSES": "2"}, "not set: JAX_COORDINATOR_ADDRESS, JAX_PROC"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "not set: JAX_NUM_PROCESSES"),
    ({**PLAIN, "JAX_PROCESS_ID": "4"}, "a number below it, got '4' and '4'"),
    ({**PLAIN, "JAX_NUM_PROCESSES": "x"}, "got 'x' and '3'"),
    ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "node"}, "HOST:PORT, got 'node'"),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "not started by srun"),
    ({**SLURM, "SLURM_NTASKS": "two"}, "a whole number, got 'two'"),
    ({"JOB_COMPLETION_INDEX": "0"}, "JAX_NUM_PROCESSES=1 runs alone"),
  ],
)
def test_an_incomplete_environment_is_refused(variables, found, fragment):
  variables(found)
  with pytest.raises(errors.UsageError, match=fragment):
    environment.process_arguments()


@pytest.mark.parametrize("text", ["2", "x", "nan", "-1", "1e9"])
def test_an_impossible_timeout_is_refused(monkeypatch, text):
  monkeypatch.setenv("PAUSEJAX_PEER_TIMEOUT", text)
  with pytest.raises(errors.UsageError, match="PAUSEJAX_PEER_TIMEOUT"):
    environment.peer_timeout()
  monkeypatch.setenv("PAUSEJAX_PEER_TIMEOUT", "")
  assert environment.peer_timeout() == 30


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


# Real runs.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Segments of a small corpus, made once; returns more of a command line."""
  folder = tmp_path_factory.mktemp("prepared")
  toys.write_corpus(folder / "corpus")
  command = toys.command(folder / "corpus", folder / "none")
  config = [a for a in command if a.startswith("--config")]
  assert not cli.main(["segments", *config, f"--out={folder / 'segments'}"])
  return (
    folder / "corpus",
    f"--config.data.segments_dir={folder / 'segments'}",
    "--config.num_steps=12",
    "--config.eval.num_batches=0",  # 58 segments: no multiple of a batch.
  )


def begin(
  prepared, workdir, count: int, *more: str, devices: int = 4, hook: str = ""
):
  """Starts a run with these numbers of processes and devices in all."""
  command = toys.command(prepared[0], workdir, *prepared[1:], *more)
  code = f"import os, signal, sys\nfrom pausejax import cli\n{hook}\n"
  code += "sys.exit(cli.main(sys.argv[1:]))"
  command = [sys.executable, "-c", code, *command[3:]]
  logs = workdir.with_name(f"{workdir.name}-logs")
  return processes.start([command] * count, logs, devices=devices // count)


def finish(prepared, workdir, count: int, *more: str, devices: int = 4) -> None:
  started = begin(prepared, workdir, count, *more, devices=devices)
  codes = processes.wait(started)
  logs = processes.logs(workdir.with_name(f"{workdir.name}-logs"), count)
  assert codes == [0] * count, "\n".join(logs)


def wait_for_step(workdir, step: int, started) -> None:
  while all(p.poll() is None for p in started):
    if any(row["step"] >= step for row in toys.rows(workdir)):
      return
    time.sleep(0.01)


def losses(workdir) -> dict[int, float]:
  return {row["step"]: row["loss"] for row in toys.rows(workdir)}


def evaluations(workdir) -> dict[int, tuple]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {
    row["step"]: (row["eval_loss"], row["eval_num_targets"])
    for row in rows
    if "eval_loss" in row
  }


@pytest.fixture(scope="module")
def quiet(prepared, tmp_path_factory):
  """An uninterrupted run of two processes."""
  workdir = tmp_path_factory.mktemp("quiet") / "run"
  finish(prepared, workdir, 2)
  return workdir


@pytest.mark.slow
def test_kills_stops_and_fewer_processes_do_not_change_the_losses(
  prepared, quiet, tmp_path
):
  workdir = tmp_path / "run"
  expected = losses(quiet)

  started = begin(prepared, workdir, 2)
  wait_for_step(workdir, 5, started)
  started[1].kill()
  # A collective fails, and some silent seconds later it is known why.
  assert processes.wait(started, 60) == [143, -9]

  started = begin(prepared, workdir, 2)
  wait_for_step(workdir, 7, started)
  started[1].send_signal(signal.SIGTERM)  # The other one hears of it.
  assert processes.wait(started) == [143, 143]
  found = losses(workdir)
  step = toys.last_meta(workdir)["step"]
  assert step == max(found) < 12
  # On as many processes and devices: to the last bit.
  assert found == {s: expected[s] for s in found}

  finish(prepared, workdir, 1, f"--config.stop_at_step={step + 2}")
  finish(prepared, workdir, 2)
  # float32 sums over four devices, in the order of one process or of two.
  assert losses(workdir) == pytest.approx(expected, rel=1e-6)
  assert evaluations(workdir).keys() == {12} == evaluations(quiet).keys()
  (loss, count), (wanted, num) = (
    evaluations(workdir)[12],
    evaluations(quiet)[12],
  )
  assert count == num and loss == pytest.approx(wanted, rel=1e-6)
  kept = {p.name for p in workdir.iterdir()}
  assert kept >= {"config.json", "metrics.jsonl", "checkpoints"}


# SIGTERM in each phase: the hook sends it from inside.
SIGNAL = "os.kill(os.getpid(), signal.SIGTERM)"
IN_RESTORE = f"""
from pausejax.checkpoints import store
restore = store.Store.restore
def patched(*args):
  if os.environ.get("JAX_PROCESS_ID") == "1": {SIGNAL}
  return restore(*args)
store.Store.restore = patched
"""
IN_MEASUREMENT = f"""
from pausejax.training import held_out
evaluate = held_out.HeldOut._sums
def patched(*args):
  if os.environ.get("JAX_PROCESS_ID") == "1": {SIGNAL}
  return evaluate(*args)
held_out.HeldOut._sums = patched
"""
IN_SAVE = f"""
from pausejax.checkpoints import store
save = store.Store.save
def patched(*args, **kwargs):
  save(*args, **kwargs)
  if int(args[1].step) == 4: {SIGNAL}
store.Store.save = patched
"""
IN_FIRST_STEP = f"""
from pausejax.training import step
train_step = step.train_step
def patched(*args, **kwargs):
  {SIGNAL}  # Traced once, so sent while it is compiled.
  return train_step(*args, **kwargs)
step.train_step = patched
"""


@pytest.mark.slow
def test_an_evaluation_interrupted_in_one_process_is_repeated(
  prepared, quiet, tmp_path
):
  workdir = shutil.copytree(quiet, tmp_path / "run")
  more = ("--config.num_steps=13",)
  started = begin(prepared, workdir, 2, *more, devices=2, hook=IN_MEASUREMENT)
  assert processes.wait(started) == [143, 143]
  assert toys.last_meta(workdir)["step"] == 13
  assert evaluations(workdir).keys() == {12}
  finish(prepared, workdir, 1, *more, devices=1)
  assert evaluations(workdir).keys() == {12, 13}


@pytest.mark.slow
def test_sigterm_in_one_process_before_the_first_step_ends_both(
  prepared, quiet, tmp_path
):
  workdir = shutil.copytree(quiet, tmp_path / "run")
  more = ("--config.num_steps=13",)
  started = begin(prepared, workdir, 2, *more, devices=2, hook=IN_RESTORE)
  assert processes.wait(started) == [143, 143]
  assert toys.last_meta(workdir)["step"] == 12


@pytest.mark.slow
def test_sigterm_during_a_save_finishes_it_and_saves_the_next_step(
  prepared, tmp_path
):
  workdir = tmp_path / "run"
  started = begin(prepared, workdir, 1, devices=1, hook=IN_SAVE)
  assert processes.wait(started) == [143]
  assert toys.last_meta(workdir)["step"] == 5 == max(losses(workdir))


@pytest.mark.slow
def test_sigterm_during_the_first_compilation_exits_immediately(
  prepared, tmp_path
):
  workdir = tmp_path / "run"
  for _ in range(2):  # Started twice.
    started = begin(prepared, workdir, 1, devices=1, hook=IN_FIRST_STEP)
    assert processes.wait(started) == [143]
    (log,) = processes.logs(tmp_path / "run-logs", 1)
    assert "asked to stop" in log and "Traceback" not in log
    assert not losses(workdir)
    assert not list((workdir / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_lost_during_a_save_leaves_no_partial_checkpoint(
  prepared, quiet, tmp_path, lost
):
  hook = f"""
from pausejax.checkpoints import store
save = store.Store.save
def patched(*args, **kwargs):
  save(*args, **kwargs)
  if int(args[1].step) == 8 and os.environ.get("JAX_PROCESS_ID") == "{lost}":
    os.kill(os.getpid(), signal.SIGKILL)
store.Store.save = patched
"""
  workdir, expected = tmp_path / "run", losses(quiet)
  started = begin(prepared, workdir, 2, hook=hook)
  codes = processes.wait(started, 90)
  assert codes[lost] == -9 and codes[1 - lost] == 143
  log = processes.logs(tmp_path / "run-logs")[1 - lost]
  assert f"process {lost} on {socket.gethostname()} was lost" in log
  finish(prepared, workdir, 2)
  assert losses(workdir) == expected


@pytest.mark.slow
def test_sigterm_during_data_preparation_ends_all_workers(prepared, tmp_path):
  workdir, corpus = tmp_path / "run", tmp_path / "corpus"
  corpus.mkdir()
  for book in range(20):  # It takes many seconds.
    (corpus / f"{book}.txt").write_text("call me some years ago " * 100_000)
  more = (corpus, "--config.data.segments_dir=", *prepared[2:])
  (process,) = started = begin(more, workdir, 1, devices=1)
  log = tmp_path / "run-logs" / "0.log"
  while "preparing segments" not in log.read_text() and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  assert processes.wait(started) == [143]
  assert not list((workdir / "checkpoints").glob("*"))
  deadline = time.monotonic() + 60  # Workers end soon after their parent.
  while running(workdir) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not running(workdir)


def running(workdir) -> list[str]:
  """The command lines of the processes that name a workdir."""
  lines = []
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    with contextlib.suppress(OSError):
      lines.append(path.read_text())
  return [line for line in lines if str(workdir) in line]
