"""Examples that one variant answers correctly and another does not."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.data.finetuning import examples
from pausejax.evaluation import results
from pausejax.study import table
from pausejax.study.plan import Study
from pausejax.study.report import sweeps
from pausejax.study.report.runs import StudyRun

# An answer is right if its metric is at least this.
RIGHT = 0.5
_NUM_CASES = 6


@dataclasses.dataclass(frozen=True)
class Contender:
  """The result of a variant, or of an arm, with one seed."""

  label: str
  run: StudyRun
  result: dict


@dataclasses.dataclass(frozen=True)
class Case:
  """An example and the row of predictions of each contender."""

  id: str
  prompt: str | None
  rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Disagreement:
  """Where contenders disagree with the first of them.

  Attributes:
    contenders: the results; the others are compared with the first.
    metric: the task's primary metric, by which answers are right.
    num_gained: for each, number of examples right in it but not in the first.
    num_lost: for each, number of examples right in the first but not in it.
    n: number of examples that all have answered.
    cases: some examples of both kinds.
  """

  contenders: list[Contender]
  metric: str
  num_gained: list[int]
  num_lost: list[int]
  n: int
  cases: list[Case]


def contenders_of_study(
  plan: Study, runs: Sequence[StudyRun], rows: Sequence[table.Row]
) -> dict[str, list[Contender]]:
  """Returns task -> the results behind the rows of the table."""
  by_id = {run.id: run for run in runs}
  variants = {v.name: v for v in plan.variants}
  by_task = {}
  for row in rows:
    variant = variants[row.variant]
    shown = variant.pretraining, row.finetuning, row.seeds[:1]
    for cell in plan.finetunings_of(row.task):
      if (cell.pretraining, cell.finetuning, (cell.label,)) != shown:
        continue
      run = by_id.get(cell.id)
      for result in run.results if run else ():
        same = result["num_pauses"] == row.num_pauses
        if same and table.matches(result, variant):
          by_task.setdefault(row.task, {})[row.variant] = Contender(
            row.variant, run, result
          )
  return {task: list(by_name.values()) for task, by_name in by_task.items()}


def contenders_of_runs(runs: Sequence[StudyRun]) -> dict[str, list[Contender]]:
  """Returns task -> the results as finetuned, of the first seed of each arm."""
  by_task = {}
  for run in runs:
    for result in run.results:
      if sweeps.is_as_finetuned(result):
        by_arm = by_task.setdefault(result["task"], {})
        by_arm.setdefault(run.arm, Contender(run.arm, run, result))
  return {task: list(by_arm.values()) for task, by_arm in by_task.items()}


def compare(contenders: list[Contender]) -> Disagreement:
  """Compares the contenders of a task with the first of them."""
  answers = [
    {row["id"]: row for row in results.predictions(c.result)}
    for c in contenders
  ]
  ids = [i for i in answers[0] if all(i in a for a in answers)]
  metric = contenders[0].result["primary_metric"]
  right = [{i for i in ids if a[i]["values"][metric] >= RIGHT} for a in answers]
  gained = [len(r - right[0]) for r in right]
  lost = [len(right[0] - r) for r in right]
  any_right = set().union(*right[1:])
  all_right = set(ids).intersection(*right[1:])
  won = [i for i in ids if i in any_right and i not in right[0]]
  missed = [i for i in ids if i in right[0] and i not in all_right]
  chosen = [*won[: _NUM_CASES // 2], *missed[: _NUM_CASES // 2]]
  prompts = _prompts(contenders[0]) if chosen else {}
  cases = [Case(i, prompts.get(i), [a[i] for a in answers]) for i in chosen]
  return Disagreement(contenders, metric, gained, lost, len(ids), cases)


def _prompts(contender: Contender) -> dict[str, str]:
  """Returns id -> prompt; empty unless the same data is available."""
  config, result = contender.run.config, contender.result
  data = DataConfig(**config["data"])
  try:
    tasks.import_module(config["tasks_module"])
    task = tasks.downstream(result["task"])
    if getattr(task.source, "tfds", "") and not data.local_dir:
      return {}  # This could start a long download.
    loaded = examples.read_split(task, result["split"], data)
  except errors.UserError:
    return {}
  if loaded.sha256 != result["examples_sha256"]:
    return {}
  return {row.id: row.prefix for row in loaded.rows}
