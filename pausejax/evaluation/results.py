"""Results on disk: one JSON a condition, the predictions beside it.

  <workdir>/evaluations/squad-validation-append10-step500.json
  <workdir>/evaluations/squad-validation-append10-step500.predictions.jsonl

A result that exists is whole: the predictions are written first, and each file
appears by a rename.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pausejax import errors, files, json_files
from pausejax.data import records
from pausejax.data.prompts import Waiting

PREDICTIONS = ".predictions.jsonl"
_WAIT = {"num_pauses": int, "position": str, "filler": str}
# What is read of a result and of a prediction.
_RESULT = {
  "task": str,
  "split": str,
  "examples_sha256": str,
  **_WAIT,
  "finetuned": (None, _WAIT),
  "step": int,
  "n": int,
  "metrics": {str: float},
  "pausejax": str,
}
_PREDICTION = {"id": str, "prediction": str, "values": {str: float}}
_FIX = "evaluate again"


def name(task: str, split: str, wait: Waiting, step: int) -> str:
  """Returns the name of a result, without suffix.

  A filler is spelled by its code points, so that any text makes a file name.
  """
  filler = "".join(f"-u{ord(c):04x}" for c in wait.filler)
  how = f"{wait.position}{wait.num_pauses}{filler}"
  return f"{task}-{split}-{how}-step{step}"


def write(
  folder: pathlib.Path,
  stem: str,
  result: Mapping[str, Any],
  rows: list[dict],
) -> pathlib.Path:
  """Writes a result and its predictions; returns the path of the result."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  files.write(folder / (stem + PREDICTIONS), lines)
  path = folder / (stem + ".json")
  files.write(path, json.dumps(result, indent=2) + "\n")
  return path


def read(folder: pathlib.Path) -> list[dict]:
  """Returns all results of a folder, sorted by name, each with its `path`.

  Raises:
    UserError: a file is no result.
  """
  paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
  return [{**json_files.read(p, _RESULT, _FIX), "path": str(p)} for p in paths]


def predictions(result: Mapping[str, Any]) -> list[dict]:
  """Returns the rows that belong to a result from `read`.

  Raises:
    UserError: no such file, a line that is no prediction, or an id twice.
  """
  path = pathlib.Path(result["path"])
  path = path.with_name(path.stem + PREDICTIONS)
  if not path.is_file():
    raise errors.UserError(f"no predictions {path}; evaluate again")
  rows: dict[str, dict] = {}
  for where, line in records.lines(path):
    row = json_files.parse(line, _PREDICTION, where, _FIX)
    if row["id"] in rows:
      raise errors.UserError(
        f"{where}: a second prediction of {row['id']!r}; {_FIX}"
      )
    rows[row["id"]] = row
  return list(rows.values())
