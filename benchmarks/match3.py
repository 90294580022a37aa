"""Do fillers help on 3SUM at a size for one CPU core? Three arms, three seeds.

  JAX_PLATFORMS=cpu python -m benchmarks.match3 --workdir=runs/match3

Trains the arms of `configs/match3.py:size=small`. The program may be stopped
and started again; complete runs are skipped. Prints a table in Markdown: the
percentage of right answers to held-out examples at the end of each run. The arm
`mixed` answers twice: after pauses, and after the work that it writes itself.
A constant answer has 50%. --show prints the runs that are complete.
"""

import argparse
import itertools
import json
import os
import pathlib
from collections.abc import Sequence

from benchmarks import measure
from benchmarks.zero_pauses import pausejax
from pausejax.runtime import metric_rows

SEEDS = (0, 1, 2)
_TASK = "match3_small"
ROWS = {  # What the table says -> the arm, and the task that it answers.
  "no pauses": ("none", _TASK),
  "pauses": ("pauses", _TASK),
  "pauses, mixed with work: after pauses": ("mixed", _TASK),
  "pauses, mixed with work: after its own work": ("mixed", f"{_TASK}_cot"),
}
_ARMS = ("none", "pauses", "mixed")


def main(argv: Sequence[str] | None = None) -> None:
  """Trains what is missing and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--show", action="store_true", help="train nothing")
  options = parser.parse_args(argv)
  if not options.show:
    compiled = str((options.workdir / "compiled").absolute())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    for seed, arm in itertools.product(SEEDS, _ARMS):
      train(arm, seed, options.workdir)
  print(*table_lines(options.workdir), "", measure.conditions(), sep="\n")


def train(arm: str, seed: int, workdir: pathlib.Path) -> None:
  """Trains a run, or resumes it, unless it is complete."""
  folder = _folder(arm, seed, workdir)
  if not _last(folder):
    config = f"--config=configs/match3.py:arm={arm},size=small"
    seeded = (f"--config.seed={seed}", f"--workdir={folder}")
    pausejax("train", config, *seeded)


def table_lines(workdir: pathlib.Path) -> list[str]:
  """Returns the table: a dash stands for a run that is not complete."""
  lines = [
    "| arm |" + "".join(f" seed {seed} |" for seed in SEEDS),
    "|---|" + "---|" * len(SEEDS),
  ]
  for name, (arm, task) in ROWS.items():
    lasts = (_last(_folder(arm, seed, workdir)) for seed in SEEDS)
    scores = (last.get(f"eval_{task}_accuracy") for last in lasts)
    cells = ("-" if score is None else f"{score:.1f}" for score in scores)
    lines.append(f"| {name} |" + "".join(f" {cell} |" for cell in cells))
  return lines


def _folder(arm: str, seed: int, workdir: pathlib.Path) -> pathlib.Path:
  return workdir / f"{arm}-s{seed}"


def _last(folder: pathlib.Path) -> metric_rows.Row:
  """Returns the evaluation after the last step, empty if there is none."""
  path = folder / "metrics.jsonl"
  if not path.exists():
    return {}
  saved = json.loads((folder / "config.json").read_text())
  for row in metric_rows.read_rows(path):
    if row["step"] == saved["num_steps"] and "eval_score" in row:
      return row
  return {}


if __name__ == "__main__":
  main()
