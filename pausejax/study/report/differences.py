"""Differences between the configs of runs."""

from collections.abc import Sequence

from pausejax import json_files
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
    for key, value in json_files.flat_fields(run.config).items():
      seen = values.setdefault(key, [])
      text = "(empty)" if value == "" else str(value)
      if text not in seen:
        seen.append(text)
  keys = sorted({key for values in by_arm.values() for key in values})
  table = {
    key: {arm: " | ".join(v.get(key, [])) for arm, v in by_arm.items()}
    for key in keys
    if key not in _EXPECTED
  }
  return {key: row for key, row in table.items() if len({*row.values()}) > 1}
