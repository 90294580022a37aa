"""A study: pretrainings x tasks x finetunings x seeds, as cells to run.

  WORKDIR/study.json                          the plan
  WORKDIR/prepare/<name>/                     data that the runs share
  WORKDIR/pretrain/<pretraining>/             one training run each
  WORKDIR/finetune/<pretraining>-<task>-<finetuning>-s<seed>/
                                              a training run, its evaluations
  WORKDIR/table.{json,md,csv,tex}             the results so far

A cell is done when its last file exists, so a study that was killed resumes:
training resumes from its checkpoint, and results are written atomically.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pausejax import errors, files, json_files, tasks
from pausejax.config import arguments
from pausejax.data.finetuning import examples
from pausejax.study import arms
from pausejax.study.arms import Arm, Variant, Words
from pausejax.study.config import shapes

FORMAT = 2
_SAVED = {"cells": {str: [str]}}
_SHIPPED_PATH = re.compile(r"--config=configs/(\w+)\.py")
_FIX = "choose another --workdir, or remove it and start the study again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """A unit of work: a pretraining, or a finetuning with its evaluations.

  Attributes:
    id: its name, and its folder below that of the study.
    pretraining: name of its pretraining, "" if it prepares data for all runs.
    task: "" unless it is a finetuning.
    finetuning: "" unless it is one.
    seed: seed of the finetuning.
    workdir: its folder.
    commands: words of each `pausejax` command, in order.
  """

  id: str
  pretraining: str
  task: str
  finetuning: str
  seed: int
  workdir: pathlib.Path
  commands: tuple[tuple[str, ...], ...]

  def is_done(self) -> bool:
    """Returns whether all of its commands have finished."""
    return (self.workdir / "done").exists()

  def shell(self) -> str:
    """Returns the commands as one line for a shell."""
    lines = (shlex.join(["pausejax", *words]) for words in self.commands)
    done = shlex.quote(str(self.workdir / "done"))
    return " && ".join([*lines, f"touch {done}"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """The plan of a study; fields as in `StudyConfig`, their texts parsed."""

  workdir: pathlib.Path
  title: str
  local_dir: str
  prepare: Mapping[str, Words]
  pretrain_words: Words
  finetune_words: Words
  evaluate_words: Words
  pretrainings: Mapping[str, Arm]
  tasks: tuple[str, ...]
  task_words: Mapping[str, tuple[Words, ...]]
  finetunings: Mapping[str, Arm]
  evaluations: Mapping[str, tuple[Words, ...]]
  seeds: tuple[int, ...]
  variants: tuple[Variant, ...]
  tasks_module: str

  def __post_init__(self):
    errors.require(bool(self.seeds), "seeds: a study needs at least one")
    errors.require(bool(self.tasks), "tasks: a study needs at least one")
    tasks.import_module(self.tasks_module)
    for task in self.tasks:
      tasks.downstream(task)  # Raises for an unknown name.
    for task in self.task_words:
      errors.require_one_of("task_words", task, self.tasks)
    for name in self.evaluations:
      errors.require_one_of("evaluations", name, self.finetunings)
    for variant in self.variants:
      where = f"variants.{variant.name}"
      errors.require_one_of(where, variant.pretraining, self.pretrainings)
      for name in variant.finetunings:
        errors.require_one_of(where, name, self.finetunings)
    for name in [*self.prepare, *self.pretrainings, *self.finetunings]:
      errors.require(
        name.isidentifier(), f"{name!r} is not a valid folder name"
      )

  def cells(self) -> list[Cell]:
    """Returns all cells, each after the cells that it depends on."""
    return [
      *self.preparing_cells(),
      *self.pretraining_cells(),
      *self.finetuning_cells(),
    ]

  def preparing_cells(self) -> list[Cell]:
    """Returns one cell for each preparation that the runs share."""
    return [
      Cell(
        id=f"prepare/{name}",
        pretraining="",
        task="",
        finetuning="",
        seed=0,
        workdir=self.workdir / "prepare" / name,
        commands=(self._filled(words),),
      )
      for name, words in self.prepare.items()
    ]

  def pretraining_cells(self) -> list[Cell]:
    """Returns one cell for each pretraining that this study runs."""
    return [
      self._pretraining_cell(name)
      for name, arm in self.pretrainings.items()
      if not arm.is_run
    ]

  def finetuning_cells(self) -> list[Cell]:
    """Returns one cell for each pretraining, task, finetuning and seed.

    All cells of the first seed come first, so a first table is ready early.
    """
    return [
      self._finetuning_cell(*names, seed)
      for seed in self.seeds
      for names in itertools.product(
        self.pretrainings, self.tasks, self.finetunings
      )
      if self._is_wanted(names[0], names[2])
    ]

  def finetunings_of(self, task: str) -> Iterator[Cell]:
    """Yields the finetuning cells of a task."""
    return (cell for cell in self.finetuning_cells() if cell.task == task)

  def split_of(self, task: str) -> str:
    """Returns the split that the table reports a task on."""
    named = arguments.last_value(self.evaluate_words.words, "--split")
    return named or examples.scoring_split(tasks.downstream(task))

  def pretrained(self, name: str) -> pathlib.Path:
    """Returns the workdir of a pretraining, of this study or of another run."""
    arm = self.pretrainings[name]
    if arm.is_run:
      return pathlib.Path(arm.config)
    return self.workdir / "pretrain" / name

  def check(self) -> None:
    """Raises UserError if another study is in the folder."""
    path = self.workdir / "study.json"
    if not path.exists():
      return
    before = _read(path)
    now = {"cells": self._commands(before)}
    # A study's config may still name things as an older version did.
    before, now = (upgrade(it, format=1)["cells"] for it in (before, now))
    errors.require_same(str(path), before, now)

  def save(self) -> None:
    """Writes study.json; raises UserError if another study is in the folder."""
    self.check()
    plan = json.dumps(self.as_json(), indent=2) + "\n"
    self.workdir.mkdir(parents=True, exist_ok=True)
    files.write(self.workdir / "study.json", plan)

  def as_json(self) -> dict[str, Any]:
    """Returns the plan as plain values, with the commands of every cell."""
    texts = {
      name: arms.plain_value(value) for name, value in vars(self).items()
    }
    texts.pop("workdir")
    texts["prepare"] = [*texts["prepare"].items()]
    return {"format": FORMAT, **texts, "cells": self._commands()}

  def _commands(self, only: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns cell id -> its commands; with `only`, for the cells of a plan."""
    known = only["cells"] if only else None
    return {
      cell.id: [shlex.join(words) for words in cell.commands]
      for cell in self.cells()
      if known is None or cell.id in known
    }

  def _is_wanted(self, pretraining: str, finetuning: str) -> bool:
    return any(
      pretraining == v.pretraining and finetuning in v.finetunings
      for v in self.variants
    )

  def _pretraining_cell(self, name: str) -> Cell:
    workdir = self.pretrained(name)
    arm = self.pretrainings[name]
    more = self._filled(*arm.words, self.pretrain_words)
    train = ("train", f"--config={arm.config}", f"--workdir={workdir}", *more)
    return Cell(
      id=f"pretrain/{name}",
      pretraining=name,
      task="",
      finetuning="",
      seed=0,
      workdir=workdir,
      commands=(train,),
    )

  def _finetuning_cell(self, pretraining, task, finetuning, seed) -> Cell:
    cell_id = f"finetune/{pretraining}-{task}-{finetuning}-s{seed}"
    workdir = self.workdir / cell_id
    arm = self.finetunings[finetuning]
    more = self._filled(
      *arm.words,
      self.finetune_words,
      *self.task_words.get(task, ()),
      task=task,
    )
    data = examples.folder_of(self.local_dir, task) if self.local_dir else ""
    train = (
      "train",
      f"--config={arm.config.replace(arms.TASK, task)}",
      f"--init_from={self.pretrained(pretraining)}",
      f"--workdir={workdir}",
      f"--config.seed={seed}",
      f"--config.tasks_module={self.tasks_module}",
      f"--config.data.local_dir={data}",
      *more,
    )
    evaluate = ("evaluate", f"--checkpoint={workdir}", f"--task={task}")
    # First as finetuned, then the further evaluations of the study.
    runs = [
      self._filled(*words, self.evaluate_words, task=task)
      for words in ((), *zip(self.evaluations.get(finetuning, ())))
    ]
    return Cell(
      id=cell_id,
      pretraining=pretraining,
      task=task,
      finetuning=finetuning,
      seed=seed,
      workdir=workdir,
      commands=(train, *((*evaluate, *words) for words in runs)),
    )

  def _filled(self, *parts: Words, task: str = "") -> tuple[str, ...]:
    """Returns the words of all parts with the placeholders replaced."""
    workdir = str(self.workdir)
    return tuple(w for part in parts for w in part.filled(workdir, task))


def read_plan(workdir: pathlib.Path) -> Study:
  """Returns the study that was planned in a workdir.

  Raises:
    UserError: there is no study.
  """
  path = workdir / "study.json"
  if not path.is_file():
    raise errors.UserError(f"{workdir} has no study (no study.json)")
  fields = _read(path)
  fields.pop("cells")
  try:
    return make_plan(workdir, fields)
  except errors.UsageError as e:
    raise errors.UserError(f"{path}: {e.message}; {_FIX}") from e


def _read(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields of study.json, including the cells.

  Raises:
    UserError: it is damaged, or a newer version wrote it.
  """
  saved = json_files.read(path, _SAVED, _FIX, format=("format", FORMAT))
  return upgrade(saved, saved.pop("format", 1))


def upgrade(saved: dict[str, Any], format: int) -> dict[str, Any]:
  """Returns the fields of study.json of an older format as of this one.

  Format 1 had no format number. Its words set data.door, now data.pipeline; its
  commands may name a config of this package by its path in a checkout.
  """
  if format >= FORMAT:
    return saved
  old, new = "--config.data.door=", "--config.data.pipeline="
  saved = json.loads(json.dumps(saved).replace(old, new))
  cells = {
    name: [_SHIPPED_PATH.sub(r"--config=\1", line) for line in commands]
    for name, commands in saved["cells"].items()
  }
  return {**saved, "cells": cells}


def make_plan(workdir: pathlib.Path, fields: Mapping[str, Any]) -> Study:
  """Returns the checked study of plain fields, from a config or JSON.

  Raises:
    UsageError: an unknown name; the message suggests the nearest one.
  """
  known = {f.name for f in dataclasses.fields(Study)} - {"workdir"}
  for name in fields:
    errors.require_one_of("config", name, known)
  for name in known:
    errors.require(name in fields, f"config: the field {name!r} is missing")
  _check_shapes(fields)
  parsed: dict[str, Any] = {n: tuple(fields[n]) for n in ("tasks", "seeds")}
  for name in ("pretrain_words", "finetune_words", "evaluate_words"):
    parsed[name] = Words.parse(fields[name], name)
  for name in ("pretrainings", "finetunings"):
    parsed[name] = {
      k: Arm.parse(texts, f"{name}.{k}") for k, texts in fields[name].items()
    }
  for name in ("evaluations", "task_words"):
    parsed[name] = {
      k: tuple(Words.parse(text, f"{name}.{k}") for text in texts)
      for k, texts in fields[name].items()
    }
  parsed["prepare"] = {
    name: Words.parse(text, f"prepare.{name}")
    for name, text in fields["prepare"]
  }
  for arm in parsed["pretrainings"].values():
    errors.require_local("pretrainings", arm.config)
  parsed["variants"] = tuple(map(Variant.parse, fields["variants"]))
  return Study(workdir=workdir, **{**fields, **parsed})


def _check_shapes(fields: Mapping[str, Any]) -> None:
  problem = json_files.mismatch(fields, shapes(), "config")
  errors.require(not problem, problem)
  for words in fields["prepare"]:
    errors.require(
      len(words) == 2, f"prepare: {words!r} is not a name and a command"
    )
  names = [name for name, _ in fields["prepare"]]
  for name in names:
    errors.require(names.count(name) == 1, f"prepare: {name!r} is given twice")
