"""The functions of the YAML files: the package's examples and metrics.

Records, splits, prompts, references and metrics are those of
`pausejax evaluate`. Values are in [0, 1], where `evaluate` reports percent.
`accuracy_per_token` is missing: the harness does not tell a task how many
tokens an option has.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from pausejax import tasks
from pausejax.config import DataConfig
from pausejax.data.finetuning import examples
from pausejax.inference import score


def dataset(
  task: str, local_dir: str = "", **metadata: Any
) -> dict[str, datasets.Dataset]:
  """Returns the examples of a task's reported split, as split "test".

  Args:
    task: its name in pausejax.
    local_dir: folder of its published files, or of a folder for each task;
      "" for TensorFlow Datasets.
    **metadata: of the harness, not read.

  Raises:
    UserError: files are missing, or a record is malformed.
  """
  del metadata
  found = tasks.downstream(task)
  folder = local_dir and _folder(local_dir, task)
  loaded = examples.read_split(
    found, examples.scoring_split(found), DataConfig(local_dir=folder)
  )
  print(f"pausejax: {task} {loaded.summary()}", file=sys.stderr)
  rows = [_record(task, row) for row in loaded.rows]
  return {"test": datasets.Dataset.from_list(rows)}


def _folder(root: str, task: str) -> str:
  own = examples.folder_of(root, task)
  return own if pathlib.Path(own).is_dir() else root


def _record(task: str, row: tasks.Example) -> dict[str, Any]:
  """Returns the fields of an example that the YAML files name."""
  record = {"task": task, "id": row.id, "prefix": row.prefix}
  if tasks.downstream(task).kind == "decode":
    return {
      **record,
      "target": row.target,
      "references": list(row.references),
    }
  characters = row.num_characters or [*map(len, row.options)]
  return {
    **record,
    "options": list(row.options),
    "label": row.label,
    "num_characters": list(characters),
  }


def continuation(doc: Mapping[str, Any]) -> str:
  """Returns the target as it follows the prefix."""
  return tasks.downstream(doc["task"]).delimiter + doc["target"]


def answer_values(
  doc: Mapping[str, Any], results: Sequence[str]
) -> dict[str, float]:
  """Returns the metrics of a generated answer, in [0, 1]."""
  task = tasks.downstream(doc["task"])
  answer = results[0].strip()
  return {
    name: float(metric(answer, doc["references"]))
    for name, metric in task.metrics.items()
  }


def option_values(
  doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
  """Returns whether the most likely option is right, by normalization."""
  nats_O = np.array([nats for nats, _ in results])
  characters_O = np.array(doc["num_characters"])
  values = {}
  for name in ("accuracy", "accuracy_per_character"):
    scores_O = score.normalize(
      tasks.ACCURACIES[name], nats_O, characters_O, characters_O
    )
    values[name] = float(np.argmax(scores_O) == doc["label"])
  return values
