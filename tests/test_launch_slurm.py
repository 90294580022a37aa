"""The project's own sbatch script, on a real SLURM of two nodes.

Which arguments arrive and what is requeued is shown with a stand-in
for `pausejax`; then a decoder is really trained, preempted, crashed, resumed
and compared.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from tests import mini_slurm, processes, toys
from tests.test_launch import HOSTILE, RECORDER, ROOT, write_program

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not mini_slurm.is_installed(),
    reason=f"no {', '.join(mini_slurm.PROGRAMS)} (slurm-wlm, munge) here",
  ),
]

# Saves, or not, and ends as MODE says.
STAND_IN = f"""{RECORDER}
import pathlib, signal, time
mode = os.environ["MODE"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if mode == "saves":
  folder = pathlib.Path(sys.argv[2].removeprefix("--workdir=")) / "checkpoints"
  attempt = int(os.environ.get("SLURM_RESTART_COUNT", 0))
  (folder / str(attempt)).mkdir(parents=True, exist_ok=True)
  sys.exit(143 if attempt < 3 else 0)
if mode == "crashes":
  os.kill(os.getpid(), signal.SIGKILL)
if mode == "waits":
  time.sleep(60)
sys.exit(int(mode))
"""


@pytest.fixture(scope="module")
def slurm():
  with (
    # Sockets want short paths.
    tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as folder,
    mini_slurm.cluster(pathlib.Path(folder)) as env,
  ):
    yield {**env, "PYTHONPATH": str(ROOT)}


class Job:
  """A job of the script on two nodes."""

  def __init__(self, env, log: pathlib.Path, *words: str):
    self._env, self._log, self._put_back = env, log, 0.0
    command = ["sbatch", "--parsable", "--nodes=2", f"--output={log}"]
    script = str(ROOT / "launch/slurm.sbatch")
    self.id = self._call(*command, script, *words).strip()

  def log(self) -> str:
    return self._log.read_text() if self._log.exists() else ""

  def signal(self, *how: str) -> None:
    self._call("scancel", *how, self.id)

  def state(self) -> str:
    """Returns its state; a requeued job starts in a second.

    Not in the two minutes that SLURM gives it, and not at once, as the end of
    the attempt before may still be on its way.
    """
    shown = self._call("scontrol", "show", "job", self.id)
    if "JobState=PENDING Reason=BeginTime" not in shown:
      self._put_back = time.monotonic()
    elif time.monotonic() > self._put_back + 1:
      self._call("scontrol", "update", f"JobId={self.id}", "StartTime=now")
    return shown.split("JobState=")[1].split()[0]

  def wait_for(self, words: str, timeout_s: float = 240) -> None:
    """Waits until the log has the words."""
    deadline = time.monotonic() + timeout_s
    while words not in self.log():
      assert time.monotonic() < deadline, self.log()
      self.state()
      time.sleep(0.1)

  def end(self, timeout_s: float = 240) -> str:
    """Waits for the end and returns the state."""
    deadline = time.monotonic() + timeout_s
    while (state := self.state()) in ("PENDING", "RUNNING", "COMPLETING"):
      assert time.monotonic() < deadline, self.log()
      time.sleep(0.1)
    return state

  def _call(self, *command: str) -> str:
    return subprocess.check_output(
      command, env=self._env, cwd=ROOT, text=True, stderr=subprocess.STDOUT
    )


@pytest.fixture
def submit(slurm, tmp_path):
  """Returns a function that submits a job of the stand-in."""
  write_program(tmp_path / "bin/pausejax", STAND_IN)
  path = f"{tmp_path / 'bin'}:{slurm['PATH']}"
  record = str(tmp_path / "record")

  def start(mode: str, *words: str) -> Job:
    env = {**slurm, "PATH": path, "MODE": mode, "RECORD": record}
    words = (f"--workdir={tmp_path}/a run", *words)
    return Job(env, tmp_path / "log", *words)

  return start


def test_arguments_arrive_unchanged(submit, tmp_path):
  assert submit("0", *HOSTILE).end() == "COMPLETED"
  lines = (tmp_path / "record").read_text().splitlines()
  words = ["train", f"--workdir={tmp_path}/a run", *HOSTILE]
  assert [json.loads(line) for line in lines] == [words] * 2


def test_a_run_is_requeued_as_long_as_it_saves(submit):
  job = submit("saves")
  assert job.end() == "COMPLETED"
  assert job.log().count("; requeued") == 3
  assert "attempt 3, newest checkpoint: 2" in job.log()


def test_a_crash_without_a_new_checkpoint_is_requeued_a_limited_number_of_times(
  submit,
):
  job = submit("crashes")
  assert job.end() == "FAILED"
  assert job.log().count("; requeued") == 2
  assert "no new checkpoint in 3 attempts" in job.log()


@pytest.mark.parametrize("code", ["2", "3", "4"])
def test_a_permanent_error_is_not_requeued(submit, code):
  job = submit(code)
  assert job.end() == "FAILED" and "; requeued" not in job.log()


def test_a_cancelled_job_is_not_requeued(submit, tmp_path):
  job = submit("waits")
  while not (tmp_path / "record").exists():
    time.sleep(0.1)
  job.signal()
  assert job.end() == "CANCELLED" and "not requeued" in job.log()


def process_of(job: Job, rank: int) -> int:
  """Returns the id of the training process of a rank."""
  wanted = {f"SLURM_JOB_ID={job.id}".encode(), f"SLURM_PROCID={rank}".encode()}
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      is_it = wanted <= set((path / "environ").read_bytes().split(b"\0"))
      if is_it and b"train" in (path / "cmdline").read_bytes().split(b"\0"):
        return int(path.name)
    except OSError:  # It has ended, or is not ours.
      continue
  raise AssertionError(f"no process {rank} in job {job.id}: {job.log()}")


def test_training_resumes_bit_for_bit(slurm, tmp_path):
  """Two nodes: preempted, then one process killed, then undisturbed.

  Compared with two processes that nothing disturbs: the same number of devices
  and the same sums, so every loss has the same bits.
  """
  toys.write_corpus(tmp_path / "corpus")
  more = ("--config.num_steps=80", "--config.checkpoint.every=20")

  def words(workdir: pathlib.Path) -> list[str]:
    return toys.command(tmp_path / "corpus", workdir, *more)[4:]

  environment = {**slurm, "JAX_PLATFORMS": "cpu"}
  environment["XLA_FLAGS"] = processes.QUICK_COMPILER
  # Where this interpreter's `pausejax` is.
  environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{slurm['PATH']}"
  quiet, run = tmp_path / "quiet", tmp_path / "run"
  local = [sys.executable, "-m", "launch.local", "--processes=2", "--"]
  subprocess.run([*local, *words(quiet)], env=environment, cwd=ROOT, check=True)

  def reach(step: int) -> None:
    deadline = time.monotonic() + 240
    while (toys.rows(run) or [{"step": 0}])[-1]["step"] < step:
      assert time.monotonic() < deadline, job.log()
      job.state()
      time.sleep(0.02)

  job = Job(environment, tmp_path / "log", *words(run))
  reach(10)
  job.signal("--signal=TERM")
  job.wait_for("exit code 143, newest checkpoint")
  saved = toys.last_meta(run)["step"]
  assert saved == toys.rows(run)[-1]["step"]
  reach(saved + 25)
  os.kill(process_of(job, 1), signal.SIGKILL)
  assert job.end() == "COMPLETED", job.log()
  assert job.log().count("; requeued") == 2, job.log()
  assert f"resuming from step {saved}" in job.log()
  losses = [
    [(r["step"], r["loss"]) for r in toys.rows(d)] for d in (quiet, run)
  ]
  assert losses[0] == losses[1] and len(losses[0]) == 80
  assert toys.last_meta(quiet)["digests"] == toys.last_meta(run)["digests"]
