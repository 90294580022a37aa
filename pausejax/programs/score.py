"""Scores a file of predictions with the metrics of a task.

  pausejax score --task=squad --split=validation --local_dir=squad/ \\
    --predictions=predictions.json --out=scores.json

The file is a JSON object from the id of an example to its answer, or a file in
the format of the task's official script; docs/tasks.md has both. For a task
with options, the answer is the text of an option, or its index as a number. A
question without an answer counts as wrong. Needs no accelerator, and TensorFlow
only to read TFDS if no --local_dir is given.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pausejax import commandline, errors, files, metrics, tasks
from pausejax.config import DataConfig
from pausejax.data.finetuning import examples
from pausejax.tasks import records


def main(argv: list[str]) -> int:
  """Prints a table of the metrics, and writes it with --out."""
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
  if options.out:
    files.require_writable_file("--out", pathlib.Path(options.out))
  data = DataConfig(local_dir=options.local_dir)
  loaded = examples.read_split(task, split, data)
  path = pathlib.Path(options.predictions)
  scores = score_answers(task, loaded, read_answers(task, loaded, path))
  _show(task, loaded, scores)
  if options.out:
    result = {"task": task.name, "split": split, **scores}
    result["examples_sha256"] = loaded.sha256
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, json.dumps(result, indent=2) + "\n")
  return 0


def read_answers(
  task: tasks.Task, loaded: examples.Examples, path: pathlib.Path
) -> dict[str, str]:
  """Returns id -> text; the text of the option if the task has options.

  Raises:
    UserError: the file is malformed, or answers none of the examples.
  """
  rows = {row.id: row for row in loaded.rows}
  read = _of_lines if ".jsonl" in path.suffixes else _of_document
  answers = {
    key: _answer(where, key, answer, task, rows.get(key))
    for key, (where, answer) in read(task, rows, path).items()
  }
  if not rows.keys() & answers.keys():
    raise errors.UserError(
      f"{path}: no id of {loaded.split!r} is among its {len(answers)}; ids are "
      f"such as {next(iter(rows))!r}"
    )
  return answers


def _of_document(
  task, rows, path: pathlib.Path
) -> dict[str, records.LocatedRecord]:
  """Returns id -> (where, answer) of a JSON document that the task reads."""
  del rows
  document = records.json_value(path)
  try:
    predictions = task.read_predictions(document)
  except errors.UserError as e:
    raise errors.UserError(f"{path}: {e.message}") from e
  return {key: (str(path), answer) for key, answer in predictions.items()}


def _of_lines(
  task, rows, path: pathlib.Path
) -> dict[str, records.LocatedRecord]:
  """Returns id -> (where, answer) of JSON lines, such as `evaluate` writes."""
  del task
  located: dict[str, records.LocatedRecord] = {}
  for where, record in records.json_lines(path):
    key = record.get("id")
    if not isinstance(key, str) or "prediction" not in record:
      raise errors.UserError(
        f"{where}: expected 'id', a text, and 'prediction', got {record!r:.60}"
      )
    if key in located:
      raise errors.UserError(
        f"{where}: {key!r} is answered twice, before at {located[key][0]}"
      )
    if key in rows:
      _require_same_example(where, record, rows[key])
    located[key] = (where, record["prediction"])
  return located


def _require_same_example(where: str, record: dict, row: tasks.Example) -> None:
  """Raises if a line was written for an example with other answers."""
  for name in ("references", "options"):
    expected = list(getattr(row, name))
    if record.get(name, expected) != expected:
      raise errors.UserError(
        f"{where}: was written for other examples: the {name} of {row.id!r} "
        f"are {expected!r:.60} here, and {record[name]!r:.60} there"
      )


def score_answers(
  task: tasks.Task, loaded: examples.Examples, answers: Mapping[str, str]
) -> dict[str, float]:
  """Returns the result of `metrics.score_predictions` for any kind of task."""
  if task.kind == "decode":
    references = {row.id: row.references for row in loaded.rows}
    return metrics.score_predictions(answers, references, task.metrics)
  references = {row.id: [row.options[row.label]] for row in loaded.rows}
  accuracy = {"accuracy": metrics.exact_match}
  return metrics.score_predictions(answers, references, accuracy)


def _answer(
  where: str,
  key: str,
  answer: Any,
  task: tasks.Task,
  row: tasks.Example | None,
) -> str:
  """Returns a prediction as text; raises UserError if it cannot be one."""
  if row is None and task.kind == "options" and type(answer) is int:
    return str(answer)  # The example was left out, so its options are unknown.
  if row is None or not row.options:
    if not isinstance(answer, str):
      raise errors.UserError(
        f"{where}: prediction of {key!r}: expected a text, got {answer!r:.60}"
      )
    return answer
  if type(answer) is int and 0 <= answer < len(row.options):
    return row.options[answer]
  options = [option.strip() for option in row.options]
  if not isinstance(answer, str) or answer.strip() not in options:
    raise errors.UserError(
      f"{where}: prediction of {key!r}: expected the text of an option, or a "
      f"number from 0 to {len(options) - 1}, got {answer!r:.60}"
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
