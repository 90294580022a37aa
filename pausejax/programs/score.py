"""Scores a file of predictions, whoever made them, by a task's own metrics.

  pausejax score --task=squad --split=validation --local_dir=squad/ \\
    --predictions=predictions.json --out=scores.json

The file is a JSON object from the id of an example to its answer, or what the
task's official script reads; docs/tasks.md has both. For a task of options the
answer is the text of an option, or its index as a number. A question without an
answer counts as wrong. Needs no accelerator, and of TensorFlow only what reads
TFDS where no --local_dir is given.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from configs import base
from pausejax import commandline, errors, metrics, settings, tasks
from pausejax.data import examples, records
from pausejax.evaluation import results


def main(argv: list[str]) -> int:
  """Prints a table of the metrics, and writes it if told to."""
  parser = commandline.Parser("score", __doc__, config=False)
  parser.add_argument("--task", required=True, help="name of a downstream task")
  parser.add_argument("--split", default="", help="default: test or validation")
  parser.add_argument("--local_dir", default="", help="published files")
  parser.add_argument("--predictions", required=True, help="file to score")
  parser.add_argument("--tasks_module", default="", help="a module of tasks")
  parser.add_argument("--out", default="", help="JSON file to write")
  options, _ = parser.parse(argv)
  tasks.import_module(options.tasks_module)
  task = tasks.downstream(options.task)
  split = options.split or examples.scoring_split(task)
  errors.require_one_of("--split", split, examples.splits(task))
  loaded = examples.load(task, split, data_config(options.local_dir))
  path = pathlib.Path(options.predictions)
  scores = score(task, loaded, read_predictions(task, loaded, path))
  _show(task, loaded, scores)
  if options.out:
    result = {"task": task.name, "split": split, **scores}
    result["examples_sha256"] = loaded.sha256
    pathlib.Path(options.out).write_text(json.dumps(result, indent=2) + "\n")
  return 0


def data_config(local_dir: str) -> settings.DataConfig:
  """Returns the default data settings for a folder of published files."""
  tree = base.get_config().data.to_dict()
  return settings.DataConfig(**{**tree, "local_dir": local_dir})


def read_predictions(
  task: tasks.Task, loaded: examples.Examples, path: pathlib.Path
) -> dict[str, str]:
  """Returns id -> text; the text of the option where the task has options.

  Raises:
    UserError: the file is malformed, or answers none of the examples.
  """
  is_ours = path.name.endswith(results.PREDICTIONS)
  document = None if is_ours else records.json_value(path)
  rows = {row.id: row for row in loaded.rows}
  try:
    found = (
      _of_an_evaluation(path) if is_ours else task.read_predictions(document)
    )
    answers = {key: _answer(key, a, rows.get(key)) for key, a in found.items()}
  except errors.UserError as e:
    raise errors.UserError(f"{path}: {e.message}") from e
  if not rows.keys() & answers.keys():
    raise errors.UserError(
      f"{path}: no id of {loaded.split!r} is among its {len(answers)}; ids are "
      f"such as {next(iter(rows))!r}"
    )
  return answers


def _of_an_evaluation(path: pathlib.Path) -> dict[str, str]:
  """Returns id -> prediction of a file that `pausejax evaluate` wrote."""
  rows = [row for _, row in records.json_lines(path)]
  return {records.text(r, "id"): r.get("prediction", "") for r in rows}


def score(
  task: tasks.Task, loaded: examples.Examples, answers: Mapping[str, str]
) -> dict[str, float]:
  """Returns what `metrics.score_predictions` does, for either kind of task."""
  if task.kind == "decode":
    references = {row.id: row.references for row in loaded.rows}
    return metrics.score_predictions(answers, references, task.metrics)
  if any(row.label < 0 for row in loaded.rows):
    raise errors.UserError(
      f"split {loaded.split!r} has examples without labels"
    )
  references = {row.id: [row.options[row.label]] for row in loaded.rows}
  accuracy = {"accuracy": metrics.exact_match}
  return metrics.score_predictions(answers, references, accuracy)


def _answer(key: str, answer: Any, row: tasks.Example | None) -> str:
  """Returns a prediction as text; raises UserError if it cannot be one."""
  if row is None or not row.options:
    if not isinstance(answer, str):
      raise errors.UserError(
        f"prediction of {key!r}: expected a text, got {answer!r:.60}"
      )
    return answer
  if type(answer) is int and 0 <= answer < len(row.options):
    return row.options[answer]
  options = [option.strip() for option in row.options]
  if not isinstance(answer, str) or answer.strip() not in options:
    raise errors.UserError(
      f"prediction of {key!r}: expected the text of an option, or a number "
      f"from 0 to {len(options) - 1}, got {answer!r:.60}"
    )
  return answer


def _show(task: tasks.Task, loaded: examples.Examples, scores: dict) -> None:
  print(f"{task.name} {loaded.summary()}")
  counts = {
    "num_missing": "examples without a prediction, counted as wrong",
    "num_unknown": "predictions of no example, ignored",
  }
  for name, value in scores.items():
    if name in counts:
      print(f"{value:9,} {counts[name]}")
    elif name != "n":
      print(f"{value:9.3f} {name}, percent")
