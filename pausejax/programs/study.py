"""Runs a study (variants x pauses x seeds x tasks) and writes one table.

  pausejax study --config=configs/study_smoke.py --workdir=runs/study
  pausejax study --config=configs/study.py --workdir=/runs/study --dry_run
  pausejax study --config=configs/study.py --workdir=/runs/study --shard=2/8

Cells that are done are not run again; a cell that was killed resumes from its
last checkpoint. When a study stops or is killed, the command that it runs stops
as well; a command that is still running is waited for. The output of each cell
is in WORKDIR/logs. When all cells are done, or with --table, the table is
printed and written as JSON, Markdown, CSV and LaTeX; `pausejax report
--workdir=WORKDIR` writes the page.

--shard=i/n runs every n-th cell, for n machines that share the folder; it waits
for cells of other shards on which its own depend. --dry_run prints one shell
line per cell, in order of their dependencies; config files are named as in the
study, so run the lines from the same folder.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import IO

from pausejax import commandline, errors, files, locks
from pausejax.evaluation import results
from pausejax.programs import check_study
from pausejax.runtime import (
  accelerators,
  children,
  compilation,
  environment,
  signals,
)
from pausejax.study import plan as plans
from pausejax.study import render, table
from pausejax.study.cells import Cell
from pausejax.study.config import StudyConfig

_SECONDS_BETWEEN_LOOKS = 2.0
# In the folder of a cell: the last exit code that was not 0.
_FAILED = "failed"
# Exit codes that a restart does not change.
_FINAL = {
  errors.UsageError.exit_code: "a wrong command or config",
  errors.CheckpointUnusable.exit_code: "no checkpoint can be used",
  errors.Diverged.exit_code: "training diverged",
}


def main(argv: list[str]) -> int:
  """Plans the study, runs what is missing, and writes the table."""
  parser = commandline.Parser("study", __doc__, config=True, kind=StudyConfig)
  add = parser.add_argument
  add("--workdir", required=True, help="folder of the study")
  add(
    "--shard",
    type=commandline.shard,
    default="1/1",
    help="i/n: run every n-th cell (1/1)",
  )
  add("--dry_run", action="store_true", help="print the commands only")
  add("--table", action="store_true", help="only write and print the table")
  options, config = parser.parse(argv)
  errors.require(bool(options.workdir), "--workdir: got '', name a folder")
  workdir = pathlib.Path(options.workdir).resolve()
  index, count = options.shard
  plan = plans.make_plan(workdir, config.to_dict())
  plan.check()
  if options.dry_run:
    for cell in plan.cells()[index - 1 :: count]:
      print(cell.shell())
    return 0
  if not options.table:
    accelerators.require_installed()
    check_study.check_cells(plan)
  files.require_writable("--workdir", workdir)
  plan.save()
  code = 0
  if not options.table:
    lock = workdir / f"lock-{index}-of-{count}"
    with locks.hold(
      lock, f"--workdir: this shard of the study is running already ({lock})"
    ):
      code = Runner(plan, index, count).run()
  print(render.terminal(write_table(plan)))
  return code


def write_table(plan: plans.Study) -> list[table.Row]:
  """Writes the table of available results in every format; returns its rows."""
  available = {
    cell.id: results.read_results(cell.workdir / "evaluations")
    for cell in plan.finetuning_cells()
  }
  rows = table.build(plan, available)
  for suffix, text in {
    "json": json.dumps(render.as_json(rows), indent=2) + "\n",
    "md": render.table_markdown(rows, paper=True),
    "csv": render.csv(rows),
    "tex": render.latex(rows, paper=True),
  }.items():
    files.write(plan.workdir / f"table.{suffix}", text)
  return rows


class Runner:
  """Runs the cells of one shard sequentially, each as a process."""

  def __init__(self, plan: plans.Study, index: int, count: int):
    self._plan = plan
    self._index = index
    self._count = count
    self._stop = signals.StopFlag()
    self._began = time.time()
    self._failed: dict[str, int] = {}  # Id of a cell -> exit code.
    self._blocked: dict[str, str] = {}  # Id of a cell -> the one it needs.

  def run(self) -> int:
    """Runs the cells that are not done.

    Returns:
      0: all cells are done. 130 or 143: a signal stopped the study. 2, 3 or 4:
      cells failed in ways that a restart does not change. 143 or 1: cells
      failed in other ways.
    """
    cells = self._plan.cells()
    todo = sum(not cell.is_done() for cell in cells)
    print(f"{len(cells)} cells, {len(cells) - todo} done before", flush=True)
    for number, cell in enumerate(cells):
      if number % self._count != self._index - 1 or cell.is_done():
        continue
      if self._wait_for(cell, cells[:number]):
        self._run(cell, f"[{number + 1}/{len(cells)}]")
      if self._stop.exit_code:
        return self._stop.exit_code
    for cell in cells:
      if cell.id in self._failed:
        why = _explain(self._failed[cell.id])
        print(
          f"failed: {cell.id}: {why}; see {self._log(cell)}", file=sys.stderr
        )
      if cell.id in self._blocked:
        needed = self._blocked[cell.id]
        print(f"not run: {cell.id} needs {needed}", file=sys.stderr)
    return _exit_code([*self._failed.values()])

  def _wait_for(self, cell: Cell, cells: Sequence[Cell]) -> bool:
    """Waits for the cells that a cell needs; returns False if one failed."""
    needed = [c for c in cells if _needs(cell, c)]
    is_reported = False
    while waiting := [c for c in needed if not c.is_done()]:
      if self._stop.exit_code:
        return False
      for other in waiting:
        ours = other.id in self._failed or other.id in self._blocked
        if ours or _failed_since(other, self._began):
          self._blocked[cell.id] = other.id
          return False
      if not is_reported:
        print(f"{cell.id} waits for {waiting[0].id}, of another shard")
      is_reported = True
      time.sleep(_SECONDS_BETWEEN_LOOKS)
    return True

  def _run(self, cell: Cell, number: str) -> None:
    """Runs a cell and marks it as done, unless another process has done so."""
    began = time.monotonic()
    print(f"{number} {cell.id} ...", end=" ", flush=True)
    lock = self._lock(cell)
    if lock is None:
      return
    with lock:
      # Another process may have run it while this one waited for the lock.
      code = 0 if cell.is_done() else self._commands(cell, lock)
      if self._stop.exit_code:
        print("stopped", flush=True)
      elif code:
        self._failed[cell.id] = code
        files.write(cell.workdir / _FAILED, f"{code}\n")
        print(f"{_explain(code)}: {_last_line(self._log(cell))}", flush=True)
      else:
        (cell.workdir / "done").touch()
        print(f"{time.monotonic() - began:.0f} s", flush=True)

  def _lock(self, cell: Cell) -> IO[str] | None:
    """Waits for the lock of a cell and returns it; None if stopped.

    A command holds the lock of its cell until it ends. So this also waits for a
    command whose study was killed, which saves and exits.
    """
    path = self._plan.workdir / "locks" / cell.id.replace("/", "-")
    path.parent.mkdir(exist_ok=True)
    is_reported = False
    while (lock := locks.take(path)) is None:
      if self._stop.exit_code:
        print("stopped", flush=True)
        return None
      if not is_reported:
        holder = path.read_text().strip() or "another study"
        print(
          f"is still run by process {holder}; waiting until that ends ...",
          end=" ",
          flush=True,
        )
      is_reported = True
      time.sleep(_SECONDS_BETWEEN_LOOKS / 4)
    return lock

  def _commands(self, cell: Cell, lock: IO[str]) -> int:
    """Runs the commands of a cell; returns the first nonzero exit code or 0."""
    if not cell.pretraining:
      # An interrupted preparation cannot be resumed.
      shutil.rmtree(cell.workdir, ignore_errors=True)
    cell.workdir.mkdir(parents=True, exist_ok=True)
    log = self._log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    for commands in _by_process(cell):
      code = self._process(commands, log, lock)
      if code or self._stop.exit_code:
        return code
    return 0

  def _process(
    self, commands: Sequence[Sequence[str]], log: pathlib.Path, lock: IO[str]
  ) -> int:
    """Runs commands in one process; forwards a signal to stop to it."""
    variables = compilation.cache_variables(self._plan.workdir) | os.environ
    with log.open("a", encoding="utf-8") as output:
      process = children.start_command(
        [sys.executable, "-m", "pausejax.programs.cell", json.dumps(commands)],
        output=output,
        environment=variables,
        lock=lock,
      )
      is_asked = False
      while (code := process.poll()) is None:
        if self._stop.exit_code and not is_asked:
          process.send_signal(signal.SIGTERM)
          is_asked = True
        time.sleep(0.1)
    return code

  def _log(self, cell: Cell) -> pathlib.Path:
    return self._plan.workdir / "logs" / f"{cell.id.replace('/', '-')}.log"


def _by_process(cell: Cell) -> list[Sequence[Sequence[str]]]:
  """Returns the commands of a cell, in groups that share a process.

  In one process, they load JAX once. Where the environment defines several
  processes, every command connects them, which a process can do only once; so
  each command then has its own.
  """
  if environment.process_arguments() is None:
    return [cell.commands]
  return [[words] for words in cell.commands]


def _needs(cell: Cell, other: Cell) -> bool:
  """Returns whether `other` must be done before `cell`."""
  if not other.pretraining:
    return True  # It prepares the data for all later cells.
  if other.task or not cell.task:
    return False
  names = (other.pretraining, cell.pretraining)
  return names[0] == names[1] and other.pretrain_seed == cell.pretrain_seed


def _last_line(log: pathlib.Path) -> str:
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  return lines[-1] if lines else ""


def _failed_since(cell: Cell, began: float) -> bool:
  """Returns whether a shard recorded a failure of the cell since a time."""
  try:
    return (cell.workdir / _FAILED).stat().st_mtime >= began
  except FileNotFoundError:
    return False


def _exit_code(failures: Sequence[int]) -> int:
  """Returns the exit code of a study whose cells failed with these codes."""
  if not failures or set(failures) <= {*_FINAL}:
    return max(failures, default=0)
  stopped = signals.PREEMPTED
  return stopped if stopped in failures else 1


def _explain(code: int) -> str:
  """Returns the meaning of a command's exit code."""
  if code < 0:
    meaning = f"killed by {signal.Signals(-code).name}"
  else:
    meaning = {**_FINAL, signals.PREEMPTED: "stopped from outside"}.get(
      code, ""
    )
  return f"{meaning} (exit code {code})" if meaning else f"exit code {code}"
