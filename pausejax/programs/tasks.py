"""Lists the tasks, and checks one (`check_task.py`).

  pausejax tasks list [--local_dir=DIR] [--tasks_module=my_tasks]
  pausejax tasks check NAME [--local_dir=DIR] [--tasks_module=my_tasks]

Prints one line per task: kind, source, splits, metrics and default number of
pauses. With --local_dir, a folder with the files of one task or with a folder
per task (whose name starts with the task's), the examples of each published and
each held-out split are counted; tasks that generate their data have no files.
"""

import pathlib
import sys
from collections.abc import Mapping

from pausejax import commandline, errors, tasks
from pausejax.config import DataConfig
from pausejax.data.finetuning import examples
from pausejax.programs import check_task
from pausejax.runtime import tables
from pausejax.tasks import records

_HEADER = ("name", "kind", "source", "splits", "metrics", "pauses")


def main(argv: list[str]) -> int:
  """Runs the action in the first argument."""
  actions = {"list": _list, "check": check_task.main}
  if not argv or argv[0].startswith("-"):
    argv = ["list", *argv]
  errors.require_one_of("tasks", argv[0], actions)
  return actions[argv[0]](argv[1:])


def _list(argv: list[str]) -> int:
  parser = commandline.Parser("tasks list", __doc__, config=False)
  parser.add_argument("--local_dir", default="", help="folder of data")
  parser.add_argument("--tasks_module", default="", help="a module of tasks")
  options, _ = parser.parse(argv)
  tasks.import_module(options.tasks_module)
  folder = pathlib.Path(options.local_dir) if options.local_dir else None
  errors.require(
    folder is None or folder.is_dir(),
    f"--local_dir: no folder {options.local_dir!r}",
  )
  notes: list[str] = []
  counts = _counts(folder, notes) if folder else {}
  rows = [_row(tasks.get(n), counts) for n in tasks.names()]
  for line in (*tables.table_lines([_HEADER, *rows]), *notes):
    print(line)
  return 0


def _row(
  task: tasks.Task | tasks.PretrainingTask,
  counts: Mapping[tuple[str, str], str],
) -> tuple[str, ...]:
  """Returns the cells of a task, with the counts of its splits, if any."""
  if isinstance(task, tasks.PretrainingTask):
    about = sys.modules[task.source.__module__].__doc__ or ""
    about = about.partition(":")[0]
    return (task.name, "pretraining", about, "train, validation", "loss", "-")
  splits = [
    f"{split} {counts.get((task.name, split), '')}".rstrip()
    for split in examples.splits(task)
  ]
  return (
    task.name,
    task.kind,
    task.source.describe(DataConfig()),
    ", ".join(splits),
    ", ".join(task.metric_names),
    str(task.num_pauses),
  )


def _counts(
  folder: pathlib.Path, notes: list[str]
) -> dict[tuple[str, str], str]:
  """Returns (task, split) -> number of examples, or why there is none.

  Several tasks publish files of the same name in different formats. So a file
  that a task cannot read is missing, not damaged, if another task can read it.

  Args:
    folder: the files of one task, or a folder for each task.
    notes: gets a line on each split that is damaged or has unusable records.
  """
  counts: dict[tuple[str, str], str] = {}
  failed: dict[tuple[str, str], tuple[str, set[pathlib.Path]]] = {}
  was_read: set[pathlib.Path] = set()
  for name in tasks.downstream_names():
    task = tasks.downstream(name)
    if not isinstance(task.source, records.Files):
      continue
    own = pathlib.Path(examples.folder_of(str(folder), name))
    place = own if own.is_dir() else folder
    for split in examples.splits(task):
      files: set[pathlib.Path] = set()
      try:
        published = split if split in task.source.splits else "train"
        files = {*task.source.find(published, place)}
        data = DataConfig(local_dir=str(place))
        loaded = examples.read_split(task, split, data)
      except records.MissingData:
        counts[name, split] = "missing"
      except errors.UserError as e:
        failed[name, split] = e.message, files
      else:
        counts[name, split] = f"{len(loaded.rows):,}"
        was_read |= files
        if loaded.num_unusable:
          notes.append(f"{name} {loaded.summary()}")
  for (name, split), (message, files) in failed.items():
    is_other = bool(files) and files <= was_read
    counts[name, split] = "missing" if is_other else "unreadable"
    if not is_other:
      notes.append(f"{name} {split}: {message}")
  return counts
