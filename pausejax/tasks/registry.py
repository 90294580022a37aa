"""Tasks by name: those of this package, of installed ones, and of a module."""

import functools
import importlib
import importlib.metadata
import pathlib
import pkgutil
import sys
from collections.abc import Sequence

from pausejax import errors
from pausejax.tasks.task import PretrainingTask, Task

_TASKS: dict[str, PretrainingTask | Task] = {}


def register(task: PretrainingTask | Task) -> None:
  """Registers a task under its name.

  Raises:
    ValueError: another task has the name.
  """
  if task.name in _TASKS:
    raise ValueError(f"task {task.name!r} is already registered")
  _TASKS[task.name] = task


def get(name: str) -> PretrainingTask | Task:
  """Returns the task called `name`; raises UsageError, naming the nearest."""
  _require_known("data.task", name, names())
  return _TASKS[name]


def pretraining(name: str) -> PretrainingTask:
  """Returns the pretraining task called `name`."""
  task = get(name)
  if not isinstance(task, PretrainingTask):
    raise errors.UsageError(
      f"data.task: {name!r} is a downstream task, a pretraining task is needed"
    )
  return task


def downstream(name: str) -> Task:
  """Returns the downstream task called `name`."""
  _require_known("task", name, downstream_names())
  task = _TASKS[name]
  assert isinstance(task, Task)
  return task


def names() -> list[str]:
  """Returns the names of all tasks."""
  _import_all()
  return sorted(_TASKS)


def downstream_names() -> list[str]:
  """Returns the names of all downstream tasks."""
  return [name for name in names() if isinstance(_TASKS[name], Task)]


def import_module(name: str) -> None:
  """Imports a module of tasks by name, also from the working directory.

  Raises:
    UsageError: no such module, or it fails.
  """
  if not name:
    return
  _import_all()  # A name that is already taken is then the module's error.
  here = str(pathlib.Path.cwd())
  if here not in sys.path:
    sys.path.insert(0, here)
  try:
    importlib.import_module(name)
  except errors.UserError:
    raise
  except Exception as e:
    raise errors.UsageError(
      f"tasks_module: importing {name!r} failed: {type(e).__name__}: {e} (give "
      "a module's name, as in my_tasks for ./my_tasks.py)"
    ) from e


def _require_known(what: str, name: str, known: Sequence[str]) -> None:
  errors.require(
    name in known,
    f"{what}: unknown value {name!r}{errors.nearest(name, known)}; name the "
    "module of a task of your own with --tasks_module, in a config "
    "--config.tasks_module",
  )


@functools.cache
def _import_all() -> None:
  """Registers the tasks of this package and of installed ones, once."""
  for module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
    importlib.import_module(f"{__package__}.{module.name}")
  for entry in importlib.metadata.entry_points(group="pausejax.tasks"):
    entry.load()
