"""A training run that is killed again and again, against a quiet one.

Every loss that was ever written and every digest of the last checkpoint must be
equal to the last bit, and every start must resume from the newest step that was
complete before it. Of several processes one is killed, and the others must end
by themselves.
"""

import collections
import dataclasses
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

from pausejax.checkpoints import listing
from tests import processes, toys

PIPELINES = ("segments", "seqio", "finetuning")
_MAX_DELAY = 0.05  # Seconds after a step, so that saves are hit, too.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """Which run is killed.

  Attributes:
    pipeline: one of `PIPELINES`.
    num_steps: of the run.
    count: processes of the run.
    devices: virtual devices of each process.
    fsdp: devices that split the parameters.
  """

  pipeline: str = "segments"
  num_steps: int = 200
  count: int = 1
  devices: int = 1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True)
class Run:
  """A run in one folder, which is started several times."""

  setting: Setting
  folder: pathlib.Path
  name: str

  @property
  def workdir(self) -> pathlib.Path:
    """The workdir of the run."""
    return self.folder / self.name

  @property
  def place(self) -> str:
    """The value of --workdir."""
    return str(self.workdir)

  def start(self, **variables: str) -> list[subprocess.Popen]:
    """Starts all processes."""
    setting, logs = self.setting, self.folder / f"{self.name}-logs"
    commands = [self._command()] * setting.count
    return processes.start(commands, logs, devices=setting.devices, **variables)

  def finish(self, **variables: str) -> None:
    """Runs to the end.

    Raises:
      AssertionError: a process failed.
    """
    codes = processes.wait(self.start(**variables), None)
    assert codes == [0] * self.setting.count, self.log()

  def log(self) -> str:
    """Returns what process 0 printed since its last start."""
    return (self.folder / f"{self.name}-logs" / "0.log").read_text()

  def resumed_from(self) -> int:
    """Returns the step that the last start resumed from, 0 if none."""
    found = re.search(r"resuming from step (\d+)", self.log())
    return int(found[1]) if found else 0

  def losses(self) -> dict[int, float]:
    """Returns step -> loss of metrics.jsonl."""
    return {row["step"]: row["loss"] for row in toys.rows(self.workdir)}

  def newest_step(self) -> int:
    """Returns the newest complete step, 0 if none."""
    steps, _ = listing.list_run(self.workdir)
    newest = listing.newest_complete(steps)
    return newest.step if newest else 0

  def saved(self) -> dict:
    """Returns the meta.json of the newest checkpoint."""
    return toys.last_meta(self.workdir)

  def is_saving(self) -> bool:
    """Returns whether a step is being written."""
    return any((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

  def _command(self) -> list[str]:
    setting = self.setting
    steps = f"--config.num_steps={setting.num_steps}"
    if setting.pipeline == "finetuning":
      return [
        *(sys.executable, "-m", "pausejax", "train"),
        *("--config=configs/finetune_smoke.py:pauses=3", steps),
        f"--init_from={self.folder / 'pretrained'}",
        f"--workdir={self.place}",
        "--config.checkpoint.every=4",
        "--config.checkpoint.keep=100",
        "--config.log.every=1",
      ]
    return toys.command(
      self.folder / "corpus",
      self.place,
      steps,
      f"--config.data.pipeline={setting.pipeline}",
      f"--config.mesh.fsdp={setting.fsdp}",
    )


def quiet_run(setting: Setting, folder: pathlib.Path) -> Run:
  """Returns a run that was not disturbed, and what it needs beside it."""
  corpus = folder / "corpus"
  toys.write_corpus(corpus)
  if setting.pipeline == "finetuning":
    words = "--config.num_steps=2", "--config.data.seq_len=512"
    args = toys.command(corpus, folder / "pretrained", *words)
    toys.finish([*args, "--config.model.max_seq_len=512"])
  quiet = Run(setting, folder, "quiet")
  quiet.finish()
  return quiet


def compare(ours: Run, quiet: Run, *, is_complete: bool) -> int:
  """Compares all losses, and at the end the digests; returns their number.

  Raises:
    AssertionError: something differs.
  """
  expected, found = quiet.losses(), ours.losses()
  for step, loss in found.items():
    assert loss == expected[step], f"step {step}: {loss} != {expected[step]}"
  if not is_complete:
    return len(found)
  assert found.keys() == expected.keys()
  metas = [run.saved() for run in (ours, quiet)]
  for name in ("digests", "counters"):
    assert metas[0][name] == metas[1][name], name
  return len(found) + len(metas[0]["digests"])


def soak(
  setting: Setting, kills: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Kills a run and compares it; returns what was counted.

  Raises:
    AssertionError: a loss, a digest or a resumed step is wrong.
  """
  rng = random.Random(seed)
  counts = collections.Counter()
  quiet, run = quiet_run(setting, folder), Run(setting, folder, "killed")
  for i in range(kills):
    # Spread over the run, a little before or behind the even places.
    even = (i + 1) * setting.num_steps // (kills + 1)
    step = max(1, min(setting.num_steps - 1, even + rng.randint(-2, 2)))
    # On a busy machine the last run came further than planned: one step more.
    step = max(step, max(run.losses(), default=0) + 1)
    before = run.newest_step()
    hit = kill_at(run, step, rng.randrange(setting.count), rng)
    counts[f"kills, {hit or 'too late'}"] += 1
    counts["kills"] += bool(hit)
    if before:
      assert run.resumed_from() == before, (run.resumed_from(), before)
      counts["resumes above step 0"] += 1
    counts["comparisons"] += compare(run, quiet, is_complete=False)
  run.finish()
  counts["resumes above step 0"] += run.resumed_from() > 0
  counts["comparisons"] += compare(run, quiet, is_complete=True)
  run.finish()  # A complete run that is started again changes nothing.
  counts["comparisons"] += compare(run, quiet, is_complete=True)
  return counts


def kill_at(
  run: Run, step: int, victim: int, rng: random.Random, **variables: str
) -> str:
  """Starts a run and kills a process soon after a step.

  Returns:
    "saving", "training", or "" if the run had ended before.
  """
  started = run.start(**variables)
  while started[victim].poll() is None:
    if max(run.losses(), default=0) >= step:
      break
    time.sleep(0.002)
  time.sleep(rng.uniform(0, _MAX_DELAY))
  phase = "saving" if run.is_saving() else "training"
  started[victim].send_signal(signal.SIGKILL)
  is_killed = processes.wait(started)[victim] == -signal.SIGKILL
  return phase if is_killed else ""
