"""Runs a study: variants x pauses x seeds x tasks, into one table.

  pausejax study --config=configs/study_smoke.py --workdir=runs/study
  pausejax study --config=configs/study.py --workdir=/runs/study --dry_run
  pausejax study --config=configs/study.py --workdir=/runs/study --shard=2/8

Cells that are done are not run again; a cell that was killed goes on where its
last checkpoint was. Each cell's output lands in WORKDIR/logs. When nothing is
left, or with --table alone, the table is printed and written as JSON, Markdown,
CSV and LaTeX; `pausejax report --workdir=WORKDIR` makes the page.

--shard=i/n runs every n-th cell, for n machines that share the folder; it waits
for cells of other shards that its own need. --dry_run prints one shell line a
cell, in an order that respects what needs what; config files are named as the
study names them, so run the lines from the same folder.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from pausejax import commandline, errors, files, locks
from pausejax.evaluation import render, results, study, table
from pausejax.runtime import signals

_SECONDS_BETWEEN_LOOKS = 2.0


def main(argv: list[str]) -> int:
  """Plans the study, runs what is missing, and writes the table."""
  parser = commandline.Parser(
    "study", __doc__, config=True, fields="configs.study"
  )
  add = parser.add_argument
  add("--workdir", required=True, help="folder of the study")
  add("--shard", default="1/1", help="i/n: run every n-th cell (1/1)")
  add("--dry_run", action="store_true", help="print the commands only")
  add("--table", action="store_true", help="only write and print the table")
  options, config = parser.parse(argv)
  errors.require(bool(options.workdir), "--workdir: got '', name a folder")
  workdir = pathlib.Path(options.workdir).resolve()
  index, count = commandline.shard(options.shard)
  plan = study.make(workdir, config.to_dict())
  if options.dry_run:
    for cell in plan.cells()[index - 1 :: count]:
      print(cell.shell())
    return 0
  plan.save()
  code = 0
  if not options.table:
    lock = workdir / f"lock-{index}-of-{count}"
    with locks.alone(
      lock, f"--workdir: this shard of the study is running already ({lock})"
    ):
      code = Runner(plan, index, count).run()
  print(render.terminal(write_table(plan)))
  return code


def write_table(plan: study.Study) -> list[table.Row]:
  """Writes the table of what there is in every format; returns its rows."""
  found = {
    cell.id: results.read(cell.workdir / "evaluations")
    for cell in plan.finetuning_cells()
  }
  rows = table.build(plan, found)
  for suffix, text in {
    "json": json.dumps(render.as_json(rows), indent=2) + "\n",
    "md": render.markdown(rows, paper=True),
    "csv": render.csv(rows),
    "tex": render.latex(rows, paper=True),
  }.items():
    files.write(plan.workdir / f"table.{suffix}", text)
  return rows


class Runner:
  """Runs the cells of one shard, one after another, each as a process."""

  def __init__(self, plan: study.Study, index: int, count: int):
    self._plan = plan
    self._index = index
    self._count = count
    self._stop = signals.StopFlag()
    self._failed: list[study.Cell] = []

  def run(self) -> int:
    """Runs what is missing; returns 0, 1 if a cell failed, 143 if stopped."""
    cells = self._plan.cells()
    todo = sum(not cell.is_done() for cell in cells)
    print(f"{len(cells)} cells, {len(cells) - todo} done before", flush=True)
    for number, cell in enumerate(cells):
      if number % self._count != self._index - 1 or cell.is_done():
        continue
      if not self._wait_for(cell, cells[:number]):
        self._failed.append(cell)
        continue
      if self._stop.exit_code:
        return self._stop.exit_code
      self._run(cell, f"[{number + 1}/{len(cells)}]")
      if self._stop.exit_code:
        return self._stop.exit_code
    for cell in self._failed:
      print(f"failed: {cell.id}; see {self._log(cell)}", file=sys.stderr)
    return 1 if self._failed else 0

  def _wait_for(self, cell: study.Cell, cells: Sequence[study.Cell]) -> bool:
    """Waits until what a cell needs is done; False if that failed here."""
    needed = [c for c in cells if _needs(cell, c)]
    told = False
    while waiting := [c for c in needed if not c.is_done()]:
      if any(c in self._failed for c in waiting) or self._stop.exit_code:
        return False
      if not told:
        print(f"{cell.id} waits for {waiting[0].id}, of another shard")
      told = True
      time.sleep(_SECONDS_BETWEEN_LOOKS)
    return True

  def _run(self, cell: study.Cell, number: str) -> None:
    """Runs the commands of a cell and marks it as done."""
    began = time.monotonic()
    print(f"{number} {cell.id} ...", end=" ", flush=True)
    if not cell.pretraining:
      # What was cut short there cannot be gone on with.
      shutil.rmtree(cell.workdir, ignore_errors=True)
    log = self._log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    for words in cell.commands:
      code = self._command(words, log)
      if code:
        print(f"exit {code}: {_last_line(log)}", flush=True)
        if not self._stop.exit_code:
          self._failed.append(cell)
        return
    (cell.workdir / "done").touch()
    print(f"{time.monotonic() - began:.0f} s", flush=True)

  def _command(self, words: Sequence[str], log: pathlib.Path) -> int:
    """Runs one `pausejax` command; hands SIGTERM on to it."""
    cache = self._plan.workdir / "compilation_cache"
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
      **os.environ,
    }
    with log.open("a", encoding="utf-8") as output:
      print("$ pausejax", *words, file=output, flush=True)
      process = subprocess.Popen(
        [sys.executable, "-m", "pausejax", *words],
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
      )
      told = False
      while (code := process.poll()) is None:
        if self._stop.exit_code and not told:
          process.send_signal(signal.SIGTERM)
          told = True
        time.sleep(0.1)
    return code

  def _log(self, cell: study.Cell) -> pathlib.Path:
    return self._plan.workdir / "logs" / f"{cell.id.replace('/', '-')}.log"


def _needs(cell: study.Cell, other: study.Cell) -> bool:
  """Returns whether `other` must be done before `cell`."""
  if not other.pretraining:
    return True  # It prepares for all that come behind it.
  is_own = other.pretraining == cell.pretraining
  return bool(cell.task) and not other.task and is_own


def _last_line(log: pathlib.Path) -> str:
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  return lines[-1] if lines else ""
