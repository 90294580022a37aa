"""The project's own sbatch script, on a real SLURM of two nodes.

Which words arrive and what is put back into the queue is shown with a stand-in
for `pausejax`; then a decoder is really trained, preempted, crashed, resumed
and compared.
"""

import json
import pathlib
import subprocess
import tempfile
import time

import pytest

from tests import mini_slurm
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
    """Returns its state; a job that was put back starts in a second.

    Not in the two minutes that SLURM gives it, and not at once, as the end of
    the attempt before may still be on its way.
    """
    shown = self._call("scontrol", "show", "job", self.id)
    if "JobState=PENDING Reason=BeginTime" not in shown:
      self._put_back = time.monotonic()
    elif time.monotonic() > self._put_back + 1:
      self._call("scontrol", "update", f"JobId={self.id}", "StartTime=now")
    return shown.split("JobState=")[1].split()[0]

  def wait_for(self, words: str, timeout_s: float = 60) -> None:
    """Waits until the log has the words."""
    deadline = time.monotonic() + timeout_s
    while words not in self.log():
      assert time.monotonic() < deadline, self.log()
      self.state()
      time.sleep(0.1)

  def end(self, timeout_s: float = 90) -> str:
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


def test_words_arrive_as_they_are(submit, tmp_path):
  assert submit("0", *HOSTILE).end() == "COMPLETED"
  lines = (tmp_path / "record").read_text().splitlines()
  words = ["train", f"--workdir={tmp_path}/a run", *HOSTILE]
  assert [json.loads(line) for line in lines] == [words] * 2


def test_a_run_is_put_back_as_long_as_it_saves(submit):
  job = submit("saves")
  assert job.end() == "COMPLETED"
  assert job.log().count("back into the queue") == 3
  assert "attempt 3, newest checkpoint: 2" in job.log()


def test_a_crash_that_saves_nothing_comes_to_an_end(submit):
  job = submit("crashes")
  assert job.end() == "FAILED"
  assert job.log().count("back into the queue") == 2
  assert "3 attempts in a row saved nothing new" in job.log()


def test_an_error_of_the_user_is_not_put_back(submit):
  job = submit("2")
  assert job.end() == "FAILED" and "queue" not in job.log()


def test_a_job_that_is_cancelled_stays_so(submit, tmp_path):
  job = submit("waits")
  while not (tmp_path / "record").exists():
    time.sleep(0.1)
  job.signal()
  assert job.end() == "CANCELLED" and "not put back" in job.log()
