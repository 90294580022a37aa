"""Differences in a study's table: which results they compare, and how."""

import json

import numpy as np
import pytest

from pausejax.evaluation import intervals, results
from pausejax.programs import study as program
from pausejax.study import render, table
from pausejax.study.report import contents, document
from tests import reports
from tests.studies import plan, read_all

ANSWERS = np.random.default_rng(0).integers(0, 2, (3, 2, 40))


def write(cell, values, *, groups=True, ids=None, **changes) -> None:
  """Writes a result as finetuned, as an evaluation does."""
  m = int(cell.finetuning[1:])
  ids = ids or [str(i) for i in range(len(values))]
  rows = [
    {"id": i, "prediction": "a\u2028b", "references": ["a\x85b"]}
    | ({"group": str(int(i) // 4)} if groups else {})
    | {"values": {"em": float(v)}}
    for i, v in zip(ids, values, strict=True)
  ]
  result = {
    "task": "stdlib_cloze",
    "split": "validation",
    "examples_sha256": "d",
    "step": 900,
    "num_pauses": m,
    "position": "append",
    "filler": "<pause>",
    "finetuned": {"num_pauses": m, "position": "append", "filler": ""},
    "seed": cell.seed,
    "n": len(values),
    "metrics": {"em": 100 * float(np.mean(values))},
    "pausejax": "0.0.7",
    **changes,
  }
  results.write_result(cell.workdir / "evaluations", "x", result, rows)


def write_all(built, **options) -> None:
  """ANSWERS of the arms m0, m2 and m4 with seeds 0 and 1."""
  for cell in built.finetuning_cells():
    write(cell, answers(cell), **options)


def answers(cell) -> np.ndarray:
  return ANSWERS[int(cell.finetuning[1:]) // 2, cell.seed]


def last_row(built) -> table.Row:
  return table.build(built, read_all(built))[-1]


@pytest.fixture
def built(tmp_path):
  return plan(tmp_path)


def test_a_difference_has_the_interval_of_its_seeds_examples_and_choice(built):
  write_all(built)
  row = last_row(built)
  arm = int(row.finetuning[1:]) // 2
  low, high = intervals.of_difference(
    ANSWERS[arm] - ANSWERS[0].astype(float),
    np.arange(40) // 4,
    num_candidates=(2, 1),
  )
  assert row.interval == pytest.approx((100 * low, 100 * high))
  assert (row.num_candidates, row.num_groups, row.remark) == (2, 10, "")


def test_the_order_of_predictions_does_not_matter(built):
  write_all(built)
  before = last_row(built)
  for number, cell in enumerate(built.finetuning_cells()):
    order = np.random.default_rng(number).permutation(40)
    write(cell, answers(cell)[order], ids=[str(i) for i in order])
  assert last_row(built) == before


def test_unequal_seeds_are_not_compared(built):
  write_all(built)
  for cell in built.finetuning_cells():
    if cell.finetuning == "m0" and cell.seed == 1:
      (cell.workdir / "evaluations" / "x.json").unlink()
  row = last_row(built)
  assert row.difference is row.interval is None
  assert row.remark == "no difference: it has seeds 0 1, StdPT_StdFT 0"


@pytest.mark.parametrize(
  "other",
  [{"ids": [str(i) for i in range(1, 41)]}, {"examples_sha256": "e"}],
)
@pytest.mark.parametrize("seeds", [(1,), (0, 1)])
def test_other_examples_are_not_compared(built, other, seeds):
  write_all(built)
  for cell in built.finetuning_cells():
    if cell.finetuning != "m0" and cell.seed in seeds:
      write(cell, answers(cell), **other)
  row = last_row(built)
  assert row.difference is row.interval is None
  assert "answered the same examples" in row.remark


def test_one_seed_has_a_difference_and_no_interval(tmp_path):
  built = plan(tmp_path, seeds=(0,))
  write_all(built)
  row = last_row(built)
  assert row.difference is not None and row.interval is None
  assert row.remark.startswith("no interval: one seed")


def test_costs_are_means_over_runs_and_missing_in_old_results(built):
  write_all(built, flops_per_example=2e9)
  for cell in built.finetuning_cells():
    if (cell.finetuning, cell.seed) == ("m0", 0):
      write(cell, answers(cell), flops_per_example=4e9)
  first, last = table.build(built, read_all(built))
  assert first.flops_per_example == 3e9 and last.flops_per_example == 2e9
  assert first.seconds_per_example is last.seconds_per_example is None
  for cell in built.finetuning_cells():
    if cell.seed == 0:
      write(cell, answers(cell), seconds_per_example=0.5)
  for row in table.build(built, read_all(built)):
    assert row.flops_per_example is row.seconds_per_example is None
    assert render.gflops(row) == render.milliseconds(row) == "-"


def test_predictions_without_groups_are_read_and_reported(built):
  write_all(built, groups=False)
  row = last_row(built)
  assert row.interval is not None and "evaluate again" in row.remark
  # The groups of either arm are those of both.
  for cell in built.finetuning_cells():
    if cell.finetuning == "m0":
      write(cell, answers(cell))
  assert (last_row(built).remark, last_row(built).num_groups) == ("", 10)


def test_a_variant_on_the_runs_of_the_first_is_paired_with_it(tmp_path):
  """Seeds differ by far and fillers do not: the interval is narrow."""
  built = plan(
    tmp_path,
    variants=(("Std", "std", "m0"), ("Dots", "std", "m0", "filler=.")),
  )
  rng = np.random.default_rng(0)
  for cell in built.finetuning_cells():
    values = rng.random(400) < (0.2, 0.8)[cell.seed]
    write(cell, values, groups=False)
    folder = cell.workdir / "evaluations"
    result = json.loads((folder / "x.json").read_text())
    result |= {"filler": ".", "num_pauses": 10}
    (read,) = results.read_results(folder)
    rows = results.predictions(read)
    results.write_result(folder, "y", result, rows)
  low, high = last_row(built).interval
  assert -2 < low < 0 < high < 2


def test_line_separators_in_predictions_are_text(built):
  """The page explains the interval, as the table does."""
  built.save()
  for cell in built.finetuning_cells():
    reports.write_run(cell.workdir, seed=cell.seed, task="stdlib_cloze")
  write_all(built)
  assert program.write_table(built)[-1].interval is not None
  page = contents.collect(built.workdir)
  assert page.disagreements["stdlib_cloze"].cases
  sentence = table.ABOUT_INTERVAL.removeprefix("[low, high]")
  assert sentence in document.report_page(page, paper=False)
  assert sentence in document.report_markdown(page, paper=False)
