"""Runs that are repeated, killed and resumed, and compared bit for bit."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pausejax.runtime import distributed
from pausejax.selftest import failure, ports, toy
from pausejax.selftest.toy import Toy

# Where in the run it is killed: (phase, earliest step).
_KILLS = (("training", 8), ("saving", 18), ("training", 30), ("saving", 42))
_ATTEMPTS = 3  # A kill may miss its phase on a busy machine.


@dataclasses.dataclass
class Counts:
  """What was done and compared."""

  starts: int = 0
  kills: dict[str, int] = dataclasses.field(
    default_factory=lambda: {"training": 0, "saving": 0}
  )
  resumes: list[int] = dataclasses.field(default_factory=list)
  losses: int = 0
  leaves: int = 0

  def compare(self, a: pathlib.Path, b: pathlib.Path) -> None:
    """Compares two complete runs and counts what was compared."""
    losses, leaves = toy.compare_runs(a, b)
    self.losses += losses
    self.leaves += leaves


def run_quietly(made: Toy, counts: Counts, name: str) -> pathlib.Path:
  """Runs once to the end; returns the workdir."""
  workdir, log = made.folder / name, made.folder / f"{name}.log"
  counts.starts += 1
  made.run(workdir, log)
  return workdir


def run_and_list_ports(
  made: Toy, counts: Counts, name: str
) -> tuple[pathlib.Path, str]:
  """Runs once; returns (the workdir, a summary of the ports it listens on).

  Raises:
    UserError: a run of one process can be reached from other machines.
  """
  workdir, log = made.folder / name, made.folder / f"{name}.log"
  counts.starts += 1
  with made.started(workdir, log) as process:
    toy.wait_until(lambda: bool(toy.losses(workdir)), process)
    found = _listeners(process)
    toy.require_done(toy.wait(process), log)
  if found is None:
    return workdir, "not listed on this system"
  is_single = distributed.is_single_process()
  reached = [a for a in found if not ports.is_loopback(a)]
  if is_single and reached:
    raise failure.failed(
      "ports",
      f"a run of one process listens on {', '.join(reached)}",
      "other machines can connect to it",
      "find out which library or variable of the environment opens it",
    )
  return workdir, f"a run listens on {', '.join(found) or 'none'}"


def _listeners(process: subprocess.Popen) -> list[str] | None:
  try:
    return ports.listeners(process.pid)
  except OSError:  # The process has ended.
    return None


def run_with_kills(made: Toy, counts: Counts, quiet: pathlib.Path) -> None:
  """Kills a run in training and while it saves, twice each, and compares.

  Each start but the first must resume from a step above 0. The run in the end
  must have the losses and leaves of the uninterrupted one.

  Raises:
    UserError: they differ, or no kill hit one of the phases.
  """
  for attempt in range(_ATTEMPTS):
    _kill_and_resume(made, counts, f"killed{attempt}")
    counts.compare(quiet, made.folder / f"killed{attempt}")
    if all(counts.kills.values()) and len(counts.resumes) >= 2:
      return
  raise failure.failed(
    "kills",
    f"of {_ATTEMPTS * len(_KILLS)} tries to kill a run, "
    f"{counts.kills['training']} hit it in training and "
    f"{counts.kills['saving']} while it saved",
    "the resume was not tested",
    "start the selftest again when the machine is less busy",
  )


def _kill_and_resume(made: Toy, counts: Counts, name: str) -> None:
  """Starts a run until it is complete, killing it in the phases."""
  workdir = made.folder / name
  for i, (phase, step) in enumerate(_KILLS):
    log = made.folder / f"{name}-{i}.log"
    with made.started(workdir, log) as process:
      counts.starts += 1
      victim = i % distributed.num_processes()
      is_due = _is_due(workdir, log, phase, step)
      hit = toy.kill_when(is_due, process, workdir, victim)
    _count_resume(counts, log, is_first=i == 0)
    if not hit:
      break
    counts.kills[hit] += 1
  last = made.folder / f"{name}-last.log"
  counts.starts += 1
  made.run(workdir, last)
  _count_resume(counts, last, is_first=False)


def _count_resume(counts: Counts, log: pathlib.Path, *, is_first: bool) -> None:
  """Counts a resume; raises UserError if a later start was at step 0."""
  step = toy.resumed_from(log) if distributed.process_index() == 0 else 0
  step = distributed.all_gather(step)[0]
  if 0 < step < toy.NUM_STEPS:
    counts.resumes.append(step)
  elif not (step or is_first):
    raise failure.failed(
      "kills",
      f"a run that had saved steps started over at step 0 ({log.name})",
      "a kill can lose saved steps",
      "name a --workdir on another disk",
    )


def _is_due(
  workdir: pathlib.Path, log: pathlib.Path, phase: str, step: int
) -> Callable[[], bool]:
  """Returns whether a start is past a step, and in the phase."""

  def is_due() -> bool:
    # Before its first step, metrics.jsonl has rows of the start before.
    if not toy.is_training(log):
      return False
    losses = toy.losses(workdir)
    if not losses or max(losses) < step:
      return False
    return bool(toy.saving_steps(workdir)) == (phase == "saving")

  return is_due


def run_readers(made: Toy, workdir: pathlib.Path) -> dict[str, Any]:
  """Damages a step in every way and reads it; process 0 does it.

  Returns:
    The counts of `readers.count_detected`.
  """
  result, log = made.folder / "readers.json", made.folder / "readers.log"
  code, line = 0, ""
  if distributed.process_index() == 0:
    words = ["-m", "pausejax.selftest.readers", str(workdir), str(result)]
    alone = {"JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "1"}
    with toy.child([sys.executable, *words], log, alone) as process:
      code = process.wait()
    line = toy.last_line(log)
  code, line = distributed.all_gather([code, line])[0]
  if code:
    failure.reraise("damage", line)
  return json.loads(result.read_text())
