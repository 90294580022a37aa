"""The runs of a folder: config, losses and results of each."""

import dataclasses
import pathlib
import re
from typing import Any

from pausejax import errors, json_files
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders
from pausejax.config import saved
from pausejax.evaluation import results
from pausejax.probe import results as probe_results
from pausejax.runtime import metric_rows, phases
from pausejax.study.cells import Cell
from pausejax.study.plan import Study

# The fields of a config that the report reads; it shows all of them.
_CONFIG = {"seed": int, "data": {"task": str}}
_FIX = "start that run again, which writes it again, or move its folder away"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRun:
  """A training run with the results of its evaluations.

  Attributes:
    id: its folder, relative to the folder of the report.
    arm: the name without task and seed; runs of an arm share it.
    workdir: its folder.
    config: its config.json.
    results: results of `pausejax evaluate`, one per condition.
    text_scores: results of `pausejax evaluate --text`, one per condition.
    probes: results of `pausejax probe`, one per condition.
    meta: meta.json of its newest checkpoint; empty if none can be read.
  """

  id: str
  arm: str
  workdir: pathlib.Path
  config: dict[str, Any]
  results: list[dict]
  text_scores: list[dict]
  probes: list[dict]
  meta: dict[str, Any]

  @property
  def task(self) -> str:
    """The task that it was trained on."""
    return self.config["data"]["task"]

  @property
  def seed(self) -> int:
    """The seed of its config."""
    return self.config["seed"]

  def metrics(self) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of metrics.jsonl and the number of unreadable lines."""
    return metric_rows.scan(self.workdir / "metrics.jsonl")


def study_runs(plan: Study) -> list[StudyRun]:
  """Returns the runs of a study that have started."""
  pretrainings = [
    _read(workdir, f"pretrain/{seeded}", seeded)
    for seeded, workdir in plan.pretrained()
  ]
  finetunings = [
    _read(cell.workdir, cell.id, _arm(cell)) for cell in plan.finetuning_cells()
  ]
  return [run for run in [*pretrainings, *finetunings] if run]


def below(folder: pathlib.Path) -> list[StudyRun]:
  """Returns every run in a folder, at any depth, sorted."""
  workdirs = sorted(path.parent for path in folder.rglob("metrics.jsonl"))
  runs = []
  for workdir in workdirs:
    inside = workdir.relative_to(folder).as_posix()
    name = folder.name if inside == "." else inside
    run = _read(workdir, name, name)
    if run:
      arm = _without_seed(name, run.seed)
      runs.append(dataclasses.replace(run, arm=arm))
  return runs


def _without_seed(name: str, seed: int) -> str:
  """Returns a folder's name without the run's seed: squad-s3, squad_seed=3."""
  end = rf"[-_.]?s(eed)?[-_=]?0*{seed}$"
  return re.sub(end, "", name) or name


def _arm(cell: Cell) -> str:
  seed = cell.pretrain_seed
  several = "" if seed is None else f"-p{seed}"
  return f"{cell.pretraining}{several} {cell.finetuning}"


def _read(workdir: pathlib.Path, name: str, arm: str) -> StudyRun | None:
  """Returns the run in a folder, None if no run has started there."""
  phases.advance()
  config, metrics = workdir / "config.json", workdir / "metrics.jsonl"
  if not (config.is_file() and metrics.is_file()):
    return None
  return StudyRun(
    id=name,
    arm=arm,
    workdir=workdir,
    config=saved.current(json_files.read(config, _CONFIG, _FIX), str(config)),
    results=results.read_results(workdir / "evaluations"),
    text_scores=results.read_text_scores(workdir / results.TEXT_SCORES),
    probes=probe_results.read_probes(workdir / probe_results.FOLDER),
    meta=_newest_meta(workdir / CHECKPOINTS),
  )


def _newest_meta(folder: pathlib.Path) -> dict[str, Any]:
  """Returns meta.json of the newest complete checkpoint, {} if none.

  Raises:
    CheckpointUnusable: a newer version of pausejax wrote it.
  """
  try:
    for step in reversed(folders.numbered(folder)):
      try:
        return folders.read_step(folder, step).meta
      except errors.CheckpointUnusable:
        raise
      except (folders.Damaged, errors.UserError):
        continue
  except OSError:
    pass
  return {}
