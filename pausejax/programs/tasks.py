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

from pausejax import commandline, errors, tasks
from pausejax.data.finetuning import examples
from pausejax.programs import check_task, score
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
  rows = [_row(tasks.get(n), folder, notes) for n in tasks.names()]
  for line in (*tables.table_lines([_HEADER, *rows]), *notes):
    print(line)
  return 0


def _row(
  task: tasks.Task | tasks.PretrainingTask,
  folder: pathlib.Path | None,
  notes: list[str],
) -> tuple[str, ...]:
  """Returns the cells of a task; adds notes on what was not counted."""
  if isinstance(task, tasks.PretrainingTask):
    about = sys.modules[task.source.__module__].__doc__ or ""
    about = about.partition(":")[0]
    return (task.name, "pretraining", about, "train, validation", "loss", "-")
  splits = examples.splits(task)
  if folder is not None and isinstance(task.source, records.Files):
    splits = [f"{s} {_count(task, s, folder, notes)}" for s in splits]
  return (
    task.name,
    task.kind,
    task.source.describe(score.data_config("")),
    ", ".join(splits),
    ", ".join(task.metric_names),
    str(task.num_pauses),
  )


def _count(
  task: tasks.Task, split: str, folder: pathlib.Path, notes: list[str]
) -> str:
  own = examples.folder_of(str(folder), task.name)
  data = score.data_config(own if pathlib.Path(own).is_dir() else str(folder))
  try:
    loaded = examples.read_split(task, split, data)
  except records.MissingData:
    return "missing"
  except errors.UserError as e:
    notes.append(f"{task.name} {split}: {e.message}")
    return "unreadable"
  if loaded.num_unusable:
    notes.append(f"{task.name} {loaded.summary()}")
  return f"{len(loaded.rows):,}"
