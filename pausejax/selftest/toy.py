"""A tiny run of `pausejax train`: started, killed and compared.

Every process of the selftest starts one process of the run. They are the
processes that train normally would be: the same command, environment and
devices, with a coordinator of their own.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from pausejax import errors
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders
from pausejax.runtime import distributed, metric_rows
from pausejax.selftest import failure, ports

NUM_STEPS = 60
SAVE_EVERY = 5
KILLED = -signal.SIGKILL
_TIMEOUT_SECONDS = 600
_POLL_SECONDS = 0.004
_FIELDS = {
  "data.task": "text",
  "data.tokenizer": "bytes",
  "data.seq_len": 128,
  "model.num_layers": 1,
  "model.d_model": 64,
  "model.num_heads": 2,
  "model.mlp": "swiglu",
  "model.bias": "false",
  "num_steps": NUM_STEPS,
  "optim.warmup_steps": 2,
  "checkpoint.every": SAVE_EVERY,
  "checkpoint.keep": 3,
  "eval.every": 0,
  "eval.num_batches": 1,
  "log.every": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
  """How to start the run.

  Attributes:
    folder: holds the corpus, the logs and the workdirs; shared by all hosts.
    batch_size: a multiple of the number of devices.
    variables: environment variables of the child processes.
  """

  folder: pathlib.Path
  batch_size: int
  variables: dict[str, str]

  def prepare(self) -> None:
    """Writes the text that it is trained on."""
    corpus = self.folder / "corpus"
    corpus.mkdir()
    for i in range(12):
      words = random.Random(i).choices(["call", "me", "some", "years"], k=900)
      (corpus / f"{i}.txt").write_text(" ".join(words))

  def command(self, workdir: pathlib.Path) -> list[str]:
    """Returns the command line of the run."""
    fields = {
      **_FIELDS,
      "data.files": self.folder / "corpus",
      "batch_size": self.batch_size,
    }
    return [
      *(sys.executable, "-m", "pausejax", "train"),
      *("--config=smoke", f"--workdir={workdir}"),
      *(f"--config.{name}={value}" for name, value in fields.items()),
    ]

  @contextlib.contextmanager
  def started(
    self, workdir: pathlib.Path, log: pathlib.Path
  ) -> Iterator[subprocess.Popen]:
    """Starts one process of the run in every process."""
    variables = {**self.variables, **new_coordinator()}
    with child(self.command(workdir), log, variables) as process:
      yield process

  def run(self, workdir: pathlib.Path, log: pathlib.Path) -> None:
    """Runs to the end; raises UserError if that failed."""
    with self.started(workdir, log) as process:
      require_done(wait(process), log)


@contextlib.contextmanager
def child(
  command: list[str], log: pathlib.Path, variables: dict[str, str]
) -> Iterator[subprocess.Popen]:
  """Starts a command, which does not outlive the context.

  Args:
    command: the program and its arguments.
    log: gets what it prints; other processes append their index to the name.
    variables: environment variables that are set or replaced.
  """
  index = distributed.process_index()
  path = log.with_name(f"{log.name}.{index}") if index else log
  with path.open("w") as output:
    process = subprocess.Popen(
      command,
      env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
      stdout=output,
      stderr=subprocess.STDOUT,
    )
  try:
    yield process
  finally:
    process.kill()
    process.wait()


def new_coordinator() -> dict[str, str]:
  """Returns the variable with a new coordinator, chosen by process 0."""
  if distributed.is_single_process():
    return {}
  host = distributed.coordinator_host()
  is_first = distributed.process_index() == 0
  port = distributed.all_gather(ports.free_port(host) if is_first else 0)[0]
  return {"JAX_COORDINATOR_ADDRESS": f"{host}:{port}"}


def wait(process: subprocess.Popen) -> list[int]:
  """Returns the exit codes of the processes of a run."""
  try:
    code = process.wait(_TIMEOUT_SECONDS)
  except subprocess.TimeoutExpired:
    process.kill()
    code = process.wait()
  return distributed.all_gather(code)


def require_done(codes: list[int], log: pathlib.Path) -> None:
  """Raises UserError unless all processes ended with 0."""
  if any(codes):
    raise failure.failed(
      "runs",
      f"exit codes {codes} of {log.stem}: {last_line(log)}",
      "a run does not work here",
      "see docs/troubleshooting.md, and the logs with --keep",
    )


def last_line(log: pathlib.Path) -> str:
  """Returns the last line of a log, or why it cannot be read."""
  try:
    lines = log.read_text("utf-8", "replace").split("\n")
  except OSError as e:
    return e.strerror or str(e)
  return next(filter(None, map(str.strip, reversed(lines))), "no output")[:300]


def resumed_from(log: pathlib.Path) -> int:
  """Returns the step that a run started from.

  Raises:
    UserError: it set an intact step aside.
  """
  text = log.read_text("utf-8", "replace")
  if "was set aside" in text:
    line = next(line for line in text.split("\n") if "was set aside" in line)
    raise failure.failed(
      "kills",
      f"after a kill, {line}",
      "a kill can damage steps that were saved before",
      "name a --workdir on another disk",
    )
  match = re.search(r"resuming from step (\d+)", text)
  return int(match[1]) if match else 0


def is_training(log: pathlib.Path) -> bool:
  """Returns whether a start has printed that its first step is compiled."""
  return log.exists() and b"\ntrain step: " in log.read_bytes()


def losses(workdir: pathlib.Path) -> dict[int, float]:
  """Returns step -> loss of the complete lines of a run's metrics."""
  path = workdir / "metrics.jsonl"
  rows = metric_rows.scan(path)[0] if path.exists() else []
  return {row["step"]: row["loss"] for row in rows if "loss" in row}


def saving_steps(workdir: pathlib.Path) -> set[int]:
  """Returns the steps that are being written, or that a kill left so."""
  names = [p.name for p in (workdir / CHECKPOINTS).glob("[0-9]*-tmp")]
  return {int(name.partition(".")[0]) for name in names}


def kill_when(
  phase: Callable[[], bool],
  process: subprocess.Popen,
  workdir: pathlib.Path,
  victim: int = 0,
) -> str:
  """Kills one process of a run as soon as it is in a phase.

  Args:
    phase: whether the run is in the phase.
    process: the one that this process started.
    workdir: of the run.
    victim: index of the one to kill.

  Returns:
    "saving" if a step that was being written did not become complete, else
    "training"; "" if the run ended before it was killed.
  """
  hit = ""
  if distributed.process_index() == victim and wait_until(phase, process):
    steps = saving_steps(workdir)
    process.send_signal(signal.SIGKILL)
    if process.wait() == KILLED:
      # Other processes of the run may have removed what was incomplete.
      complete = {*folders.numbered(workdir / CHECKPOINTS)}
      hit = "saving" if steps - complete else "training"
  wait(process)
  return distributed.all_gather(hit)[victim]


def wait_until(
  condition: Callable[[], bool], process: subprocess.Popen
) -> bool:
  """Waits; returns False if the process ended, or too late."""
  deadline = time.monotonic() + _TIMEOUT_SECONDS
  while process.poll() is None and time.monotonic() < deadline:
    if condition():
      return True
    time.sleep(_POLL_SECONDS)
  return False


def compare_runs(a: pathlib.Path, b: pathlib.Path) -> tuple[int, int]:
  """Compares the losses and the final leaves of two runs, bit for bit.

  Returns:
    The number of losses and of leaves that were compared.

  Raises:
    UserError: they differ, or there is nothing to compare.
  """
  ours, theirs = losses(a), losses(b)
  steps = sorted({*ours, *theirs})
  differ = [f"step {s}" for s in steps if ours.get(s) != theirs.get(s)]
  if differ or len(steps) != NUM_STEPS:
    raise _different(a, b, differ, f"{len(steps)} of {NUM_STEPS} losses")
  x, y = _final_meta(a)["digests"], _final_meta(b)["digests"]
  differ = [name for name in sorted({*x, *y}) if x.get(name) != y.get(name)]
  if differ or not x:
    raise _different(a, b, differ, f"{len(x)} leaves")
  return len(steps), len(x)


def _different(
  a: pathlib.Path, b: pathlib.Path, differ: list[str], compared: str
) -> errors.UserError:
  """Returns the error for runs that differ, or were not compared in full."""
  first = f"from {differ[0]} on" if differ else f"in number: {compared}"
  return failure.failed(
    "comparison",
    f"{a.name} and {b.name} differ {first}",
    "a run that is resumed here is not the same as an uninterrupted one",
    "look for faulty memory, or devices that round differently "
    "(docs/guarantees.md)",
  )


def _final_meta(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns meta.json of the last step; raises UserError if it is damaged."""
  return folders.require_step(workdir / CHECKPOINTS, NUM_STEPS).meta
