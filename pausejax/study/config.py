"""The fields of a study's config."""

import dataclasses
import typing
from collections.abc import Mapping

from pausejax.config import ConfigGroup, field
from pausejax.json_files import Shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(ConfigGroup):
  """The runs of a study and the rows of its table; `plan.py` plans commands.

  The arguments of a `pausejax` command are one text, separated by spaces, or
  one per element. In them, {task} stands for the task and {workdir} for the
  folder of the study.
  """

  title: str = field("Study", "Title above the table.")
  local_dir: str = field(
    "",
    "Folder that holds one folder of published files per task, named after the "
    "task; empty: TFDS.",
  )
  prepare: tuple[tuple[str, ...], ...] = field(
    (),
    "Run once, before all runs, in order: (name, arguments of a command); "
    "{workdir}/prepare/NAME is its folder.",
  )
  pretrain_words: str = field(
    "",
    "Arguments of every pretraining, separated by spaces; {workdir} stands for "
    "the folder of the study.",
  )
  finetune_words: str = field(
    "",
    "Arguments of every finetuning; {task} stands for its task, {workdir} for "
    "the folder of the study.",
  )
  evaluate_words: str = field(
    "", "Arguments of every evaluation; {task} and {workdir} as in finetuning."
  )
  pretrainings: Mapping[str, tuple[str, ...]] = field(
    {}, "Pretrainings: name -> a config and arguments, or the folder of a run."
  )
  tasks: tuple[str, ...] = field((), "Downstream tasks.")
  task_words: Mapping[str, tuple[str, ...]] = field(
    {},
    "More arguments of the finetunings on a task: task -> arguments; those of "
    "other tasks are not used.",
  )
  finetunings: Mapping[str, tuple[str, ...]] = field(
    {}, "Finetunings: name -> a config and arguments."
  )
  evaluations: Mapping[str, tuple[str, ...]] = field(
    {},
    "Evaluations in addition to that as finetuned: finetuning -> arguments.",
  )
  seeds: tuple[int, ...] = field((0,), "Seeds of every finetuning.")
  pretrain_seeds: tuple[int, ...] = field(
    (), "Seeds of every pretraining; empty: one run, with its config's seed."
  )
  variants: tuple[tuple[str, ...], ...] = field(
    (),
    "Rows of the table: name, pretraining, and the finetunings, of which the "
    "best is shown; a last filler=. replaces <pause> at inference.",
  )
  tasks_module: str = field(
    "", "Python module that registers tasks of your own (docs/own_task.md)."
  )


def shapes() -> dict[str, Shape]:
  """Returns name -> JSON type of each field; see `json_files.py`."""
  return {f.name: _shape(f.type) for f in dataclasses.fields(StudyConfig)}


def _shape(annotation: typing.Any) -> Shape:
  arguments = typing.get_args(annotation)
  if not arguments:
    return annotation
  if typing.get_origin(annotation) is tuple:
    return [_shape(arguments[0])]
  return {arguments[0]: _shape(arguments[1])}
