"""Tasks: one file each, plain Python, registered by one call.

A pretraining task says where its documents come from. A downstream task says
where its records come from, how a record becomes a prefix and a target, and by
which metrics answers are judged. Everything else follows: pauses, packing,
finetuning, decoding or scoring, the SeqIO task of the same name.

A task of your own is such a file outside the package (docs/tasks.md):
`--config.tasks_module=my_tasks` imports it, and so does an entry point of the
group "pausejax.tasks".
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import pathlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pausejax import errors
from pausejax.config import DataConfig
from pausejax.tasks import corpora, records

KINDS = ("decode", "options")
# Metrics of kind "options" -> how log-likelihoods compete there.
ACCURACIES = {
  "accuracy": "sum",
  "accuracy_per_token": "per_token",
  "accuracy_per_character": "per_character",
}

Metric = Callable[[str, Sequence[str]], float]
Unusable = records.Unusable


@dataclasses.dataclass(frozen=True)
class PretrainingTask:
  """A name and the source that the data settings select for it."""

  name: str
  source: Callable[[DataConfig], corpora.Source]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One question as text, with what is needed to train on it and to judge it.

  An example to which no answer can be right is left out and counted when it is
  loaded: an empty prefix, an empty answer or option, no published label, fewer
  than two different options, the right option twice.

  Attributes:
    id: names the example in files of predictions; "" for the place of its
      record in the split, from 0 ("PLACE#1", "PLACE#2" ... if it has several).
    prefix: what the model reads before the pauses.
    target: what it must then say; training appends EOS.
    references: answers that a metric accepts; kind "decode" only.
    options: texts to choose from; kind "options" only.
    label: index of the right option, -1 if it is not published.
    hints: one text for each of the last positions before the one that predicts
      the target, to be predicted there; every one a single token. With pauses
      appended these positions are pauses: targets on the pauses themselves.
    group: names the text that the question is on, where others are on the same
      one: their answers are not independent, and intervals take them as one
      draw. Several examples of one record are a group by default.
    num_characters: what `accuracy_per_character` divides the log-likelihood of
      each option by; the lengths of `options` if it is empty.
  """

  id: str
  prefix: str
  target: str
  references: Sequence[str] = ()
  options: Sequence[str] = ()
  label: int = -1
  hints: Sequence[str] = ()
  group: str = ""
  num_characters: Sequence[int] = ()


def option(options: Sequence[str], label: int) -> str:
  """Returns the target of an example with options: "" if there is none."""
  return options[label] if 0 <= label < len(options) else ""


def predictions_by_id(document: Any) -> Mapping[str, str]:
  """Returns an object from id to text; raises UserError for other values."""
  if not isinstance(document, dict):
    raise errors.UserError(
      f"expected a JSON object from id to text, got {document!r:.60}"
    )
  return document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A downstream task.

  Attributes:
    name: what `data.task` says.
    kind: "decode" writes an answer, "options" chooses the likeliest option.
    source: where the records of each split are.
    examples: record -> its examples (several for a conversation). Raises
      `Unusable` for a record to leave out; any other error names the record
      and stops.
    metrics: name -> (prediction, references) -> a value in [0, 1]. The first
      one chooses the best checkpoint. Kind "options" needs none: it reports
      accuracies.
    num_pauses: default number of pauses, M.
    max_target_len: most tokens that an answer may have when decoding.
    delimiter: stands between prefix and target; " " lets the tokenizer treat
      the target as a new word.
    stop: text at which an answer ends, besides EOS; "" for none.
    perplexity: whether to report that of the target, for kind "decode".
    read_predictions: a file of predictions as JSON -> {id: text}; raises
      UserError for another shape. Kind "options": text or index of an option.
  """

  name: str
  kind: str
  source: records.Source
  examples: Callable[[Any], Iterable[Example]]
  metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
  num_pauses: int = 10
  max_target_len: int = 32
  delimiter: str = " "
  stop: str = ""
  perplexity: bool = False
  read_predictions: Callable[[Any], Mapping[str, str]] = predictions_by_id

  @property
  def metric_names(self) -> list[str]:
    """Returns the names of all that an evaluation reports, the first first."""
    names = list(self.metrics or ACCURACIES)
    return [*names, "perplexity"] if self.perplexity else names

  def __post_init__(self):
    errors.require(
      re.fullmatch(r"[\w.-]+", self.name) is not None,
      f"task {self.name!r}: a name is letters, digits and _ . - only",
    )
    errors.require_one_of(f"task {self.name}: kind", self.kind, KINDS)
    errors.require(
      hasattr(self.source, "records"),
      f"task {self.name}: source must be records.Files or records.Generated, "
      f"got {self.source!r:.60}",
    )
    errors.require(
      self.kind == "decode" or not self.metrics,
      f"task {self.name}: kind 'options' reports accuracies, leave out metrics",
    )
    errors.require(
      self.kind == "options" or bool(self.metrics),
      f"task {self.name}: kind 'decode' needs at least one metric",
    )


_TASKS: dict[str, PretrainingTask | Task] = {}


def register(task: PretrainingTask | Task) -> None:
  """Makes a task known by its name.

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


def mixture(spec: str) -> dict[str, float]:
  """Returns task -> rate of "squad" or of "gsm8k=1,squad=3".

  Rates are relative numbers of examples.

  Raises:
    UsageError: a rate that is not a positive number.
  """
  rates = {}
  for part in spec.split(","):
    name, equals, text = part.strip().partition("=")
    try:
      rate = float(text) if equals else 1.0
    except ValueError:
      rate = 0.0
    errors.require(
      0 < rate < float("inf") and name not in rates,
      f"data.task: {part!r} is not TASK or TASK=RATE with a positive rate, "
      "each task once, as in 'gsm8k=1,squad=3'",
    )
    rates[name] = rate
  return rates


def rate_stages(data: DataConfig) -> list[tuple[int, dict[str, float]]]:
  """Returns (first step, task -> rate) of `data.task` and `data.later_rates`.

  Raises:
    UsageError: later rates that are not STEP:RATES, by rising step.
  """
  stages = [(0, mixture(data.task))]
  for part in filter(None, data.later_rates.split(";")):
    step, colon, rates = part.strip().partition(":")
    is_later = step.isdecimal() and int(step) > stages[-1][0]
    errors.require(
      bool(colon) and is_later,
      f"data.later_rates: {part!r} is not STEP:RATES with a step above "
      f"{stages[-1][0]}, as in '50000:c4=1,text=3;80000:text=1'",
    )
    stages.append((int(step), mixture(rates)))
  return stages


def import_module(name: str) -> None:
  """Imports a module of tasks by name, also from the working directory.

  Raises:
    UsageError: no such module, or it fails.
  """
  if not name:
    return
  _import_all()  # So that a name taken twice is the module's fault.
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
  for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
  for entry in importlib.metadata.entry_points(group="pausejax.tasks"):
    entry.load()
