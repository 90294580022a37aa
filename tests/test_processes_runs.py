"""Training in several processes: kills and stops do not change the losses."""

import contextlib
import json
import pathlib
import shutil
import signal
import socket
import sys
import time

import pytest

from pausejax import cli
from tests import processes, toys


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
