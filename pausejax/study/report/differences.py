"""Differences between the configs of runs."""

from collections.abc import Sequence
from typing import Any

from pausejax.study.report.runs import StudyRun

# Keys that differ within an arm by design.
_EXPECTED = ("seed", "data.task", "data.local_dir")


def differing_settings(runs: Sequence[StudyRun]) -> dict[str, dict[str, str]]:
  """Returns key -> arm -> its values, for keys that differ between arms.

  Several values of one arm, as of several tasks, are joined by " | ".
  """
  by_arm: dict[str, dict[str, list[str]]] = {}
  for run in runs:
    values = by_arm.setdefault(run.arm, {})
    for key, value in _flat(run.config):
      seen = values.setdefault(key, [])
      if value not in seen:
        seen.append(value)
  keys = sorted({key for values in by_arm.values() for key in values})
  table = {
    key: {arm: " | ".join(v.get(key, [])) for arm, v in by_arm.items()}
    for key in keys
    if key not in _EXPECTED
  }
  return {key: row for key, row in table.items() if len({*row.values()}) > 1}


def _flat(tree: dict[str, Any], above: str = ""):
  """Yields (dotted key, value as text) of every leaf."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{above}{key}.")
    else:
      yield above + key, "(empty)" if value == "" else str(value)
