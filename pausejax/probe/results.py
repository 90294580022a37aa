"""Results on disk: one JSON file per condition, in WORKDIR/probes/.

  <workdir>/probes/parity20-validation-append20-step2000-n400.json
  <workdir>/probes/parity20-validation-append20-step2000-n400-maps_none.json

A file is written atomically, after the last pass. A probe of fewer examples or
with fewer lesions has another name, so it replaces no larger one.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import files, json_files

FOLDER = "probes"  # In a workdir.
# Kind of lesion -> what is done to the pauses.
LESIONS = {
  "cut": "no other position attends to the pause",
  "mean": "the mean vector of the pause over all examples enters the layer",
  "zero": "a zero vector enters the layer at the pause",
  "transplant": "keys and values of the pause are those of another example",
}
# Along which each lesion is repeated.
AXES = ("layer", "pause")

_DROP = {"mean": float, "low": float, "high": float}
_EFFECT = {"accuracy": _DROP, "log_likelihood": _DROP}
# The fields that are read of a result.
_RESULT = {
  "task": str,
  "split": str,
  "n": int,
  "step": int,
  "num_pauses": int,
  "pauses_behind_tokens?": int,
  "position": str,
  "filler": str,
  "num_probed": int,
  "accuracy": {"mean": float, "low": float, "high": float},
  "log_likelihood": float,
  "lesions": {str: _EFFECT},
  "by_layer": {str: [_EFFECT]},
  "by_pause": {str: [_EFFECT]},
  "by_layer_and_pause": {str: [[_EFFECT]]},
  "kept": [{"num_kept": int, "accuracy": _DROP, "log_likelihood": float}],
  "lens": {"accuracy": [[float]], "log_likelihood": [[float]], "top": [[str]]},
  "attention": {"by_head": [[[float]]], "even": [[float]]},
  "verdict": str,
  "reason": str,
  "rule": str,
  "command": str,
}
_FIX = "probe again"


def extent(num_examples: int, maps: Sequence[str], by: Sequence[str]) -> str:
  """Returns the end of a name: the examples, and the lesions if not all."""
  parts = [f"-n{num_examples}"]
  for name, chosen, known in (("maps", maps, LESIONS), ("by", by, AXES)):
    kept = [x for x in known if x in chosen]
    if len(kept) < len(known):
      parts.append(f"-{name}_{'_'.join(kept) or 'none'}")
  return "".join(parts)


def write_probe(
  folder: pathlib.Path, stem: str, result: Mapping[str, Any]
) -> None:
  """Writes a result to FOLDER/STEM.json."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write(folder / f"{stem}.json", json.dumps(result, indent=1) + "\n")


def read_probes(folder: pathlib.Path) -> list[dict]:
  """Returns all results of a folder, sorted by name.

  Raises:
    UserError: a file is not a result.
  """
  paths = sorted(folder.glob("*.json"))
  return [json_files.read(path, _RESULT, _FIX) for path in paths]
