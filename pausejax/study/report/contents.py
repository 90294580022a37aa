"""The contents of a report: collected once, then shown in every format."""

import dataclasses
import datetime
import pathlib
from collections.abc import Sequence
from typing import Any

import pausejax
from pausejax import errors
from pausejax.evaluation import results
from pausejax.study import plan as plans
from pausejax.study import render, table
from pausejax.study.report import commands as commands_
from pausejax.study.report import curves as curves_
from pausejax.study.report import differences as differences_
from pausejax.study.report import disagreements as disagreements_
from pausejax.study.report import levels as levels_
from pausejax.study.report import runs as runs_
from pausejax.study.report import sweeps as sweeps_
from pausejax.study.report.runs import StudyRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Everything that the page shows.

  Attributes:
    title: title of the study, or name of the folder.
    made: date and time, in UTC.
    plan: the study, None for runs without a study.
    runs: runs that have started.
    rows: rows of the table.
    sweeps: task -> its lines of score against the number of pauses.
    curves: loss curves of the runs.
    levels: task -> baselines without a model.
    disagreements: task -> examples on which variants disagree.
    differences: config key -> arm -> values.
    commands: run or cell -> the commands that reproduce it.
  """

  title: str
  made: str
  plan: plans.Study | None
  runs: list[StudyRun]
  rows: list[table.Row]
  sweeps: dict[str, list[sweeps_.Line]]
  curves: list[curves_.Curve]
  levels: dict[str, list[levels_.Level]]
  disagreements: dict[str, disagreements_.Disagreement]
  differences: dict[str, dict[str, str]]
  commands: dict[str, list[str]]

  def seeds(self) -> list[int]:
    """Returns the seeds of the runs that were evaluated."""
    return sorted({run.seed for run in self.runs if run.results})

  def versions(self) -> list[str]:
    """Returns the versions of pausejax that measured the results."""
    return sorted({r["pausejax"] for run in self.runs for r in run.results})

  def num_results(self) -> int:
    """Returns the number of evaluated conditions."""
    return sum(len(run.results) for run in self.runs)

  def baseline(self, task: str) -> table.Row | None:
    """Returns the row of a study that the others are compared with."""
    if self.plan is None:
      return None
    row = next(row for row in self.rows if row.task == task)
    return row if row.seeds else None

  def as_json(self) -> dict[str, Any]:
    """Returns the report as plain values."""
    return {
      "title": self.title,
      "made": self.made,
      "pausejax": pausejax.__version__,
      "advice": advice(self),
      "table": render.as_json(self.rows),
      "sweeps": {
        task: [dataclasses.asdict(line) for line in lines]
        for task, lines in self.sweeps.items()
      },
      "levels": {
        task: [dataclasses.asdict(level) for level in levels]
        for task, levels in self.levels.items()
      },
      "runs": [_summary(curve) for curve in self.curves],
      "disagreements": {
        task: [
          {"variant": c.label, "gained": gained, "lost": lost, "n": d.n}
          for c, gained, lost in zip(
            d.contenders, d.num_gained, d.num_lost, strict=True
          )
        ]
        for task, d in self.disagreements.items()
      },
      "config_differences": self.differences,
      "commands": self.commands,
    }


def collect(workdir: pathlib.Path) -> Report:
  """Reads a study's folder, or any folder with runs.

  Raises:
    UsageError: no such folder, or no run in it.
  """
  if not workdir.is_dir():
    raise errors.UsageError(f"--workdir: no folder {str(workdir)!r}")
  if (workdir / "study.json").is_file():
    plan = plans.read_plan(workdir)
    return _of_study(plan, runs_.study_runs(plan))
  runs = runs_.below(workdir)
  if not runs:
    raise errors.UsageError(
      f"--workdir: {str(workdir)!r} holds neither a study (study.json) nor a "
      "run (config.json and metrics.jsonl)"
    )
  return _of_runs(f"Runs in {workdir.name}", runs)


def _of_study(plan: plans.Study, runs: list[StudyRun]) -> Report:
  rows = table.build(plan, {run.id: run.results for run in runs})
  cells = plan.as_json()["cells"]
  return _report(
    plan.title,
    plan,
    runs,
    rows,
    sweeps=_sweeps(runs, plan.tasks),
    contenders=disagreements_.contenders_of_study(plan, runs, rows),
    commands={i: [f"pausejax {c}" for c in cs] for i, cs in cells.items()},
  )


def _of_runs(title: str, runs: list[StudyRun]) -> Report:
  sweeps = _sweeps(runs, sweeps_.tasks(runs))
  return _report(
    title,
    None,
    runs,
    _loose_rows(sweeps),
    sweeps=sweeps,
    contenders=disagreements_.contenders_of_runs(runs),
    commands=commands_.commands_of_runs(runs),
  )


def _report(
  title: str, plan, runs: list[StudyRun], rows, *, sweeps, contenders, commands
) -> Report:
  now = datetime.datetime.now(datetime.UTC)
  return Report(
    title=title,
    made=f"{now:%Y-%m-%d %H:%M} UTC",
    plan=plan,
    runs=runs,
    rows=rows,
    sweeps=sweeps,
    curves=curves_.read_curves(runs),
    levels={task: _levels(runs, task) for task in sweeps},
    disagreements={
      task: disagreements_.compare(some)
      for task, some in contenders.items()
      if len(some) > 1
    },
    differences=differences_.differing_settings(runs),
    commands=commands,
  )


def advice(report: Report) -> list[str]:
  """Returns the caveats for readers of the numbers."""
  lines = ["Scores and differences are in percent and percentage points."]
  if report.plan:
    lines += [
      "If a variant has several M, the best one was chosen on the reported "
      "score, as in the paper. This favors variants with more of them.",
    ]
  if 0 < len(report.seeds()) < 3:
    count = len(report.seeds())
    lines.append(
      f"Only {count} seed{'s' * (count > 1)}: too few for a reliable deviation."
    )
  return lines


def _sweeps(
  runs: Sequence[StudyRun], tasks: Sequence[str]
) -> dict[str, list[sweeps_.Line]]:
  """Returns task -> its lines, for tasks that have any."""
  by_task = {task: sweeps_.sweep_lines(runs, task) for task in tasks}
  return {task: lines for task, lines in by_task.items() if lines}


def _levels(runs: Sequence[StudyRun], task: str) -> list[levels_.Level]:
  """Returns the levels of a task, from the first available predictions."""
  for run in runs:
    for result in run.results:
      if result["task"] == task and results.has_predictions(result):
        return levels_.levels_of(results.predictions(result))
  return []


def _loose_rows(sweeps: dict[str, list[sweeps_.Line]]) -> list[table.Row]:
  """Returns one row per point; all seeds count as planned."""
  return [
    table.Row(
      task=task,
      metric=line.metric,
      variant=line.label,
      finetuning="",
      num_pauses=point.num_pauses,
      mean=point.primary.mean,
      std=point.primary.std,
      seeds=point.seeds,
      num_seeds_planned=len(point.seeds),
      n=point.n,
      difference=None,
      interval=None,
      paper=None,
      score_interval=point.primary.interval,
      **point.costs,
    )
    for task, lines in sweeps.items()
    for line in lines
    for point in line.points
  ]


def _summary(curve: curves_.Curve) -> dict[str, Any]:
  """Returns the state of a run."""
  return {
    "id": curve.run.id,
    "arm": curve.run.arm,
    "task": curve.run.task,
    "seed": curve.run.seed,
    **(curve.loss[-1].x if curve.loss else {}),
    "loss": curve.loss[-1].loss if curve.loss else None,
    "eval_loss": curve.held_out[-1].loss if curve.held_out else None,
    "last_evaluation": curve.evaluations[-1] if curve.evaluations else None,
    "text_scores": curve.run.text_scores,
    "probes": curve.run.probes,
    "num_unreadable_lines": curve.num_unreadable,
    **{n: curve.run.meta.get(n) for n in ("devices", "commit", "versions")},
  }
