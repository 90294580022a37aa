"""Results on disk: one JSON file per condition, and its predictions.

  <workdir>/evaluations/squad-validation-append10-step500.json
  <workdir>/evaluations/squad-validation-append10-step500.predictions.jsonl

A result that exists is complete: the predictions are written first, and each
file atomically.
"""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import errors, files, json_files
from pausejax.evaluation import intervals
from pausejax.prompt_pauses import PromptPauses
from pausejax.tasks import records

PREDICTIONS = ".predictions.jsonl"
_PAUSES = {"num_pauses": int, "position": str, "filler": str}
# The fields that are read of a result.
_RESULT = {
  "task": str,
  "split": str,
  "examples_sha256": str,
  **_PAUSES,
  "finetuned": (None, _PAUSES),
  "step": int,
  "n": int,
  "metrics": {str: float},
  "pausejax": str,
  "flops_per_example?": float,
  "seconds_per_example?": (None, float),
}
# The fields that are read of a score of plain text.
_TEXT_SCORE = {
  "text": str,
  "pause_fraction": float,
  "seq_len": int,
  "num_documents": int,
  "num_empty": int,
  "num_tokens": int,
  "num_bytes": int,
  "nats_per_token": float,
  "perplexity": float,
  "bits_per_byte": float,
  "documents_sha256": str,
  "step": int,
}
TEXT_SCORES = "text_scores"  # Folder in a workdir.
_PREDICTION = {"id": str, "prediction": str, "values": {str: float}}
_FIX = "evaluate again"


def name(task: str, split: str, pauses: PromptPauses, step: int) -> str:
  """Returns the name of a result, without suffix."""
  return f"{task}-{split}-{pauses.slug}-step{step}"


def write_result(
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


def read_results(folder: pathlib.Path) -> list[dict]:
  """Returns all results of a folder, sorted by name, each with its `path`.

  Raises:
    UserError: a file is not a result.
  """
  paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
  return [{**_result(path), "path": str(path)} for path in paths]


def sweep_points(folder: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
  """Returns (M, name -> value) of all results of a folder, ascending in M.

  A name has everything but M: "squad-validation-append-step500/f1".
  """
  points = []
  for result in read_results(folder):
    pauses = PromptPauses.from_saved(result)
    series = "-".join(
      [result["task"], result["split"], pauses.series, f"step{result['step']}"]
    )
    metrics = {f"{series}/{k}": v for k, v in result["metrics"].items()}
    points.append((pauses.num_pauses, metrics))
  return sorted(points, key=lambda point: point[0])


def _result(path: pathlib.Path) -> dict:
  result = json_files.read(path, _RESULT, _FIX)
  try:
    for saved in filter(None, (result, result["finetuned"])):
      PromptPauses.from_saved(saved)
  except errors.UsageError as e:
    raise errors.UserError(f"{path}: {e.message}; {_FIX}") from e
  # Results of versions before 0.2 do not name it; it was the first.
  primary = result.setdefault(
    "primary_metric", next(iter(result["metrics"]), "")
  )
  if primary not in result["metrics"]:
    raise errors.UserError(
      f"{path}: primary_metric is {primary!r:.60}, not one of "
      f"{', '.join(result['metrics'])}; {_FIX}"
    )
  return result


def read_text_scores(folder: pathlib.Path) -> list[dict]:
  """Returns the scores of plain text in a folder, sorted by name.

  Raises:
    UserError: a file is not a score.
  """
  paths = sorted(folder.glob("*.json"))
  return [json_files.read(path, _TEXT_SCORE, _FIX) for path in paths]


def mean_of(evaluated: Sequence[Mapping[str, Any]], field: str) -> float | None:
  """Returns the mean of a field; None if any result lacks it (old versions)."""
  values = [result.get(field) for result in evaluated]
  found = [value for value in values if value is not None]
  return statistics.fmean(found) if len(found) == len(values) else None


def has_predictions(result: Mapping[str, Any]) -> bool:
  """Returns whether the predictions of a result from `read_results` exist."""
  return _predictions_path(result).is_file()


def predictions(result: Mapping[str, Any]) -> list[dict]:
  """Returns the rows that belong to a result from `read_results`.

  Raises:
    UserError: no such file, a line that is not a prediction, a repeated id, or
      another number of them than the result has.
  """
  path = _predictions_path(result)
  if not path.is_file():
    raise errors.UserError(f"no predictions {path}; evaluate again")
  rows: dict[str, dict] = {}
  for where, line in records.nonblank_lines(path):
    row = json_files.parse(line, _PREDICTION, where, _FIX)
    if result["primary_metric"] not in row["values"]:
      raise errors.UserError(
        f"{where}: no value of {result['primary_metric']!r}; {_FIX}"
      )
    if row["id"] in rows:
      raise errors.UserError(
        f"{where}: a second prediction of {row['id']!r}; {_FIX}"
      )
    rows[row["id"]] = row
  if len(rows) != result["n"]:
    raise errors.UserError(
      f"{path} has {len(rows):,} predictions, its result has {result['n']:,}; "
      f"{_FIX}"
    )
  return list(rows.values())


def score_intervals(rows: Sequence[dict]) -> dict[str, tuple[float, float]]:
  """Returns metric -> its 95% interval in percent (`intervals.of_score`).

  Args:
    rows: predictions; for several seeds of one arm, `values` are means over
      seeds.
  """
  groups = [row.get("group") or row["id"] for row in rows]
  by_metric = {}
  for name in rows[0]["values"]:
    values = [row["values"][name] for row in rows]
    low, high = intervals.of_score(values, groups)
    by_metric[name] = 100 * low, 100 * high
  return by_metric


def _predictions_path(result: Mapping[str, Any]) -> pathlib.Path:
  path = pathlib.Path(result["path"])
  return path.with_name(path.stem + PREDICTIONS)
