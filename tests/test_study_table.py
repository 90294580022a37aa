"""The table of a study shows the values of its results."""

import numpy as np
import pytest

from pausejax.evaluation import results
from pausejax.study import table
from tests.studies import plan, read_all


def write_result(
  cell, num_pauses, values, filler="<pause>", finetuned=None, **other
):
  """Writes a result of metric "em" as an evaluation does."""
  was = {"num_pauses": num_pauses, "position": "append", "filler": ""}
  rows = [
    {"id": str(i), "prediction": "", "values": {"em": v}}
    for i, v in enumerate(values)
  ]
  result = {
    "task": "stdlib_cloze",
    "split": "validation",
    "examples_sha256": "",
    "pausejax": "0",
    "step": 900,
    "num_pauses": num_pauses,
    "position": "append",
    "filler": filler,
    "finetuned": finetuned or was,
    "n": len(values),
    "metrics": {"em": 100 * float(np.mean(values))},
    **other,
  }
  stem = (
    f"x-{filler.strip('<>.')}{num_pauses}-{'-'.join(map(str, other.values()))}"
  )
  results.write_result(cell.workdir / "evaluations", stem, result, rows)


def test_the_table_shows_the_values_of_the_results(tmp_path):
  built = plan(tmp_path)
  values = {  # By finetuning and seed; m4 is better than m2.
    ("m0", 0): [1, 0, 0, 0],
    ("m0", 1): [1, 1, 0, 0],
    ("m2", 0): [1, 0, 0, 0],
    ("m2", 1): [1, 0, 0, 0],
    ("m4", 0): [1, 1, 1, 0],
    ("m4", 1): [1, 1, 1, 1],
  }
  for cell in built.finetuning_cells():
    m = int(cell.finetuning[1:])
    write_result(cell, m, values[cell.finetuning, cell.seed])
    if m:  # Other pauses at inference do not enter the table.
      was = {"num_pauses": m, "position": "append", "filler": ""}
      write_result(cell, m + 1, [1, 1, 1, 1], finetuned=was)
    # Nor do other tasks, other splits and earlier checkpoints.
    for other in ({"task": "x"}, {"split": "test"}, {"step": 500}):
      write_result(cell, m, [1, 1, 1, 1], **other)
  first, second = table.build(built, read_all(built))
  assert (first.variant, first.mean, first.n) == ("StdPT_StdFT", 37.5, 4)
  # 25 and 50: the sample deviation is 25 / sqrt(2).
  assert first.std == pytest.approx(25 / np.sqrt(2))
  assert first.difference is None
  assert (second.finetuning, second.num_pauses) == ("m4", 4)
  assert second.mean == pytest.approx(87.5)
  assert second.difference == pytest.approx(50.0)
  assert second.interval is not None
  low, high = second.interval
  assert -100 <= low < 50 < high <= 100


def test_a_filler_variant_shows_its_own_results(tmp_path):
  built = plan(
    tmp_path,
    variants=(("Std", "std", "m0"), ("Dots", "std", "m0", "filler=.")),
  )
  for cell in built.finetuning_cells():
    write_result(cell, 0, [1, 0])
    was = {"num_pauses": 0, "position": "append", "filler": ""}
    write_result(cell, 10, [1, 1], filler=".", finetuned=was)
  std, dots = table.build(built, read_all(built))
  assert (std.mean, dots.mean, dots.num_pauses) == (50.0, 100.0, 10)


def test_a_missing_result_is_a_row_without_a_number(tmp_path):
  row, _ = table.build(plan(tmp_path), {})
  assert np.isnan(row.mean) and row.seeds == () and row.num_seeds_planned == 2
