"""Tasks: one file each, plain Python, registered by one call.

A pretraining task says where its documents come from; tokenising, cutting into
segments, pauses and the SeqIO task of the same name follow from that.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

from pausejax import errors
from pausejax.data import corpora
from pausejax.settings import DataConfig


@dataclasses.dataclass(frozen=True)
class PretrainingTask:
  """A name and the source that the data settings select for it."""

  name: str
  source: Callable[[DataConfig], corpora.Source]


_TASKS: dict[str, PretrainingTask] = {}


def register(task: PretrainingTask) -> None:
  """Makes a task known by its name.

  Raises:
    ValueError: another task has the name.
  """
  if task.name in _TASKS:
    raise ValueError(f"task {task.name!r} is already registered")
  _TASKS[task.name] = task


def get(name: str) -> PretrainingTask:
  """Returns the task called `name`; raises UsageError, naming the nearest."""
  for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
  errors.require_one_of("data.task", name, _TASKS)
  return _TASKS[name]
