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

from pausejax import errors, files
from pausejax.data.prompts import Waiting

PREDICTIONS = ".predictions.jsonl"


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
    UserError: a file is not JSON.
  """
  paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
  return [{**_load(p, p.read_text()), "path": str(p)} for p in paths]


def predictions(result: Mapping[str, Any]) -> list[dict]:
  """Returns the rows that belong to a result from `read`."""
  path = pathlib.Path(result["path"])
  path = path.with_name(path.stem + PREDICTIONS)
  if not path.is_file():
    raise errors.UserError(f"no predictions {path}; evaluate again")
  return [
    _load(path, line) for line in files.split_lines(path.read_text("utf-8"))
  ]


def _load(path: pathlib.Path, text: str) -> dict:
  try:
    return json.loads(text)
  except ValueError as e:
    raise errors.UserError(f"{path} is not JSON ({e}); evaluate again") from e
