"""A run in an object store that is killed while it saves, against a quiet one.

Every process of every start has an empty folder for its local copy, as on
another machine, and must resume from the newest step that was committed before.
Losses and digests must be those of the same run on a disk, to the last bit. The
stores are moto's S3 server and gcp-storage-emulator.
"""

import collections
import dataclasses
import json
import pathlib
import random
import signal
import subprocess

import pytest

from pausejax.buckets import layout
from pausejax.buckets.objects import Objects
from pausejax.runtime import metric_rows
from tests import object_store, processes
from tests.soak import training

_MAX_REQUESTS = 150  # About steps, before the kill: some saves.
_TIMES_IF_SHARDED = 4  # Several processes write a file for each shard.


@dataclasses.dataclass(frozen=True)
class BucketRun(training.Run):
  """A run whose workdir is in the store.

  Attributes:
    store: "s3" or "gs".
  """

  store: str = "s3"

  @property
  def place(self) -> str:
    """The URL of the run."""
    return f"{self.store}://{object_store.BUCKET}/{self.name}"

  def start(self, **variables: str) -> list[subprocess.Popen]:
    """Starts all processes, each with its own PAUSEJAX_STAGING."""
    staging = variables.pop("PAUSEJAX_STAGING")
    words, logs = self._command(), self.folder / f"{self.name}-logs"
    commands = [
      ["env", f"PAUSEJAX_STAGING={staging}-{i}", *words]
      for i in range(self.setting.count)
    ]
    return processes.start(
      commands, logs, devices=self.setting.devices, **variables
    )

  def losses(self) -> dict[int, float]:
    """Returns step -> loss of the metrics in the store."""
    objects, names = Objects(self.place), self._names()
    path = self.folder / f"{self.name}.jsonl"
    parts = sorted(n for n in names if n.startswith("metrics.jsonl/"))
    path.write_bytes(b"".join(map(objects.read, parts)))
    rows = metric_rows.read_rows(path)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}

  def newest_step(self) -> int:
    """Returns the newest committed step, 0 if none."""
    return max(layout.committed_steps(self._names()), default=0)

  def saved(self) -> dict:
    """Returns the meta.json of the newest checkpoint."""
    name = layout.step_name(self.newest_step(), "meta/meta.json")
    return json.loads(Objects(self.place).read(name))

  def _names(self) -> dict[str, int]:
    return Objects(self.place).sizes()


def soak(
  kills: int,
  seed: int,
  folder: pathlib.Path,
  *,
  store: str,
  num_processes: int,
) -> collections.Counter:
  """Kills a process of a run in the store; returns what was counted.

  Raises:
    AssertionError: a loss, a digest or a resumed step is wrong.
  """
  rng, counts = random.Random(seed), collections.Counter()
  setting = training.Setting(
    num_steps=max(40, 8 * kills), count=num_processes, fsdp=num_processes
  )
  quiet = training.quiet_run(setting, folder)
  run = BucketRun(setting, folder, "killed", store)
  with (
    pytest.MonkeyPatch.context() as patch,
    object_store.running(store, patch) as link,
  ):
    for start in range(kills + 1):
      before, staging = run.newest_step(), str(folder / f"copy{start}")
      if start < kills:
        times = _TIMES_IF_SHARDED if num_processes > 1 else 1
        requests = rng.randint(1, _MAX_REQUESTS * times)
        victim = rng.randrange(num_processes)
        counts["kills"] += _kill(run, link, requests, staging, victim)
      else:
        run.finish(PAUSEJAX_STAGING=staging)
      found = run.resumed_from()
      assert found == before, f"{found}, not {before}: {run.log()}"
      counts["resumes above step 0"] += before > 0
      done = start == kills
      counts["comparisons"] += training.compare(run, quiet, is_complete=done)
    counts["committed steps"] = len(layout.committed_steps(run._names()))
  return counts


def _kill(
  run: BucketRun,
  link: object_store.Link,
  count: int,
  staging: str,
  victim: int,
) -> bool:
  """Kills a process at the `count`-th request about a step that is written."""
  started = run.start(PAUSEJAX_STAGING=staging)
  seen = 0

  def watch(data: bytes) -> None:
    nonlocal seen
    is_write = not data.startswith((b"GET", b"HEAD", b"DELETE"))
    seen += b"checkpoints/" in data and is_write
    if seen == count:
      started[victim].send_signal(signal.SIGKILL)

  link.on_data = watch
  codes = processes.wait(started)
  link.on_data = lambda data: None
  return codes[victim] == -signal.SIGKILL
