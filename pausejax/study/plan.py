"""A study: pretrainings x tasks x finetunings x seeds, as cells to run.

  WORKDIR/study.json                          the plan
  WORKDIR/prepare/<name>/                     data that the runs share
  WORKDIR/pretrain/<pretraining>/             one training run each
  WORKDIR/finetune/<pretraining>-<task>-<finetuning>-s<seed>/
                                              a training run, its evaluations
  WORKDIR/table.{json,md,csv,tex}             the results so far

With several seeds of pretraining, <pretraining> is followed by -p<seed>.

A cell is done when its last file exists, so a study that was killed resumes:
training resumes from its checkpoint, and results are written atomically.
"""

import dataclasses
import itertools
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pausejax import errors, files, json_files, tasks
from pausejax.config import arguments
from pausejax.data.finetuning import examples
from pausejax.study import arms, saved_plan
from pausejax.study.arms import Arm, Variant, Words
from pausejax.study.cells import Cell
from pausejax.study.config import shapes


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
  pretrain_seeds: tuple[int, ...]
  seeds: tuple[int, ...]
  variants: tuple[Variant, ...]
  tasks_module: str

  def __post_init__(self):
    errors.require(bool(self.seeds), "seeds: a study needs at least one")
    errors.require(bool(self.tasks), "tasks: a study needs at least one")
    for name in ("seeds", "pretrain_seeds"):
      given = getattr(self, name)
      errors.require(
        len({*given}) == len(given), f"{name}: {given} names a seed twice"
      )
    self._check_names()

  def _check_names(self) -> None:
    tasks.import_module(self.tasks_module)
    # A study of fewer tasks keeps the words of the others.
    for task in (*self.tasks, *self.task_words):
      tasks.downstream(task)  # Raises for an unknown name.
    for name in self.evaluations:
      errors.require_one_of("evaluations", name, self.finetunings)
    for variant in self.variants:
      where = f"variants.{variant.name}"
      errors.require_one_of(where, variant.pretraining, self.pretrainings)
      for name in variant.finetunings:
        errors.require_one_of(where, name, self.finetunings)
    for name, arm in self.pretrainings.items():
      errors.require(
        not (arm.is_run and self.pretrain_seeds),
        f"pretrain_seeds: {self.pretrain_seeds} need a config for each of the "
        f"pretrainings; {name!r} is the folder of one run",
      )
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
      self._pretraining_cell(name, seed)
      for seed in self._pretrain_seeds
      for name, arm in self.pretrainings.items()
      if not arm.is_run
    ]

  def finetuning_cells(self) -> list[Cell]:
    """Returns one cell for each pretraining, task, finetuning and seed.

    All cells of the first seed come first, from every pretraining, so a first
    table is ready early.
    """
    return [
      self._finetuning_cell(*names, (pretrain_seed, seed))
      for seed, pretrain_seed in itertools.product(
        self.seeds, self._pretrain_seeds
      )
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

  @property
  def _pretrain_seeds(self) -> tuple[int | None, ...]:
    """The seeds of the pretrainings; None: each has that of its config."""
    return self.pretrain_seeds or (None,)

  def pretrained(self) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (name with its seed, workdir) of every pretraining."""
    for seed in self._pretrain_seeds:
      for name in self.pretrainings:
        yield _seeded(name, seed), self._pretrained(name, seed)

  def _pretrained(self, name: str, seed: int | None) -> pathlib.Path:
    """Returns the workdir of a pretraining, of this study or of another run."""
    arm = self.pretrainings[name]
    if arm.is_run:
      return pathlib.Path(arm.config)
    return self.workdir / "pretrain" / _seeded(name, seed)

  def check(self) -> None:
    """Raises UserError if another study is in the folder."""
    path = self.workdir / "study.json"
    if not path.exists():
      return
    before = saved_plan.read_saved_plan(path)
    now = {"cells": self._commands(before)}
    # A study's config may still name things as an older version did.
    before, now = (
      saved_plan.upgrade(it, format=1)["cells"] for it in (before, now)
    )
    changed = [name for name in now if now[name] != before[name]]
    if changed:
      name = changed[0]
      was, now_is = _difference(before[name], now[name])
      raise errors.UserError(
        f"{path}: the study was started with another config: {name} with "
        f"{was}, now with {now_is} (cells that differ: {len(changed)}); "
        "restore the config, or use another --workdir, whose pretrainings may "
        "be the finished runs of this one"
      )

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
    return {"format": saved_plan.FORMAT, **texts, "cells": self._commands()}

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

  def _pretraining_cell(self, name: str, seed: int | None) -> Cell:
    workdir = self._pretrained(name, seed)
    arm = self.pretrainings[name]
    more = self._filled(*arm.words, self.pretrain_words)
    train = ("train", f"--config={arm.config}", f"--workdir={workdir}", *more)
    if seed is not None:
      train += (f"--config.seed={seed}",)
    return Cell(
      id=f"pretrain/{_seeded(name, seed)}",
      pretraining=name,
      task="",
      finetuning="",
      seed=0,
      workdir=workdir,
      commands=(train,),
      pretrain_seed=seed,
    )

  def _finetuning_cell(self, pretraining, task, finetuning, seeds) -> Cell:
    pretrain_seed, seed = seeds
    seeded = _seeded(pretraining, pretrain_seed)
    cell_id = f"finetune/{seeded}-{task}-{finetuning}-s{seed}"
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
      f"--init_from={self._pretrained(pretraining, pretrain_seed)}",
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
      pretrain_seed=pretrain_seed,
    )

  def _filled(self, *parts: Words, task: str = "") -> tuple[str, ...]:
    """Returns the words of all parts with the placeholders replaced."""
    workdir = str(self.workdir)
    return tuple(w for part in parts for w in part.filled(workdir, task))


def _difference(before: list[str], now: list[str]) -> tuple[str, str]:
  """Returns the words that only one of two lists of commands has, or all."""
  words, others = (
    Words.parse(" ".join(lines), "cells").words for lines in (before, now)
  )
  only = lambda these, those: shlex.join(w for w in these if w not in those)
  first, second = only(words, others), only(others, words)
  if first or second:
    return first or "nothing", second or "nothing"
  return shlex.join(words), shlex.join(others)  # In another order.


def _seeded(name: str, seed: int | None) -> str:
  return name if seed is None else f"{name}-p{seed}"


def read_plan(workdir: pathlib.Path) -> Study:
  """Returns the study that was planned in a workdir.

  Raises:
    UserError: there is no study.
  """
  path = workdir / "study.json"
  if not path.is_file():
    raise errors.UserError(f"{workdir} has no study (no study.json)")
  fields = saved_plan.read_saved_plan(path)
  fields.pop("cells")
  try:
    return make_plan(workdir, fields)
  except errors.UsageError as e:
    raise errors.UserError(f"{path}: {e.message}; {saved_plan.FIX}") from e


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
  sequences = ("tasks", "seeds", "pretrain_seeds")
  parsed: dict[str, Any] = {name: tuple(fields[name]) for name in sequences}
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
