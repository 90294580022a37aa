"""The table as text: every format says the same numbers."""

import csv
import io
import json
import math

import pytest

from pausejax.study import render
from pausejax.study.table import ABOUT_INTERVAL, Row


def row(**changes) -> Row:
  known = {
    "task": "squad",
    "metric": "em",
    "variant": "Std",
    "finetuning": "m10",
    "num_pauses": 10,
    "mean": 55.94,
    "std": 1.06,
    "seeds": (0, 1, 2),
    "num_seeds_planned": 5,
    "n": 10570,
    "difference": 19.5,
    "interval": (17.25, 21.75),
    "paper": (55.9, 1.0),
    "detectable": 3.14,
    "flops_per_example": 541.4e9,
  }
  return Row(**{**known, **changes})


MISSING = row(
  variant="Pause",
  finetuning="",
  num_pauses=0,
  mean=math.nan,
  std=math.nan,
  seeds=(),
  n=0,
  difference=None,
  interval=None,
  paper=None,
  detectable=None,
  flops_per_example=None,
)


def test_markdown_shows_score_difference_seeds_and_the_paper():
  lines = render.table_markdown([row(), MISSING], paper=True).splitlines()
  cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
  assert cells[0][-1] == "paper, 1B"
  assert cells[2] == [
    *("squad", "em", "Std", "55.9 ± 1.1 (M=10)", "+19.5 \\[+17.2, +21.8]"),
    *("3.1", "541", "-", "10,570", "3 of 5", "55.9 ± 1.0"),
  ]
  assert cells[3][3:9] == ["missing", *[""] * 5]


@pytest.mark.parametrize("make", [render.table_markdown, render.latex])
def test_the_papers_column_is_shown_if_requested_and_known(make):
  assert "paper" in make([row(), MISSING], paper=True)
  assert "paper" not in make([row()], paper=False)
  assert "paper" not in make([row(paper=None)], paper=True)


def test_one_seed_has_no_deviation():
  one = row(seeds=(0,), num_seeds_planned=1, std=0.0)
  assert render.format_score(one) == "55.9 (M=10)"
  assert render.runs(one) == "1"
  assert render.difference(row(interval=None)) == "+19.5 (no interval)"


def test_csv_keeps_every_bit():
  found, missing = csv.DictReader(
    io.StringIO(render.csv([row(mean=1 / 3, variant='a "b", c'), MISSING]))
  )
  assert float(found["mean"]) == 1 / 3
  assert found["variant"] == 'a "b", c'
  assert (found["low"], found["high"]) == ("17.25", "21.75")
  assert (found["paper_mean"], found["paper_std"]) == ("55.9", "1.0")
  assert found["seeds"] == "0 1 2"
  assert (missing["mean"], missing["low"], missing["paper_mean"]) == ("",) * 3


def test_json_has_null_for_nonfinite_numbers():
  found, missing = render.as_json([row(), MISSING])
  json.dumps([found, missing], allow_nan=False)
  assert missing["mean"] is None and missing["std"] is None
  assert found["interval"] == [17.25, 21.75]


def test_latex_is_a_tabular_with_a_rule_between_tasks():
  text = render.latex([row(), row(task="piqa"), row(task="piqa")], paper=True)
  assert text.startswith("\\begin{tabular}{lllllrrrrll}\n\\toprule\n")
  assert text.count("\\midrule") == 2
  table, notes = text.split("\\bottomrule\n")
  body = [line for line in table.splitlines() if line.endswith("\\\\")]
  assert {line.count(" & ") for line in body} == {10}
  assert notes.startswith("\\multicolumn{11}{p{\\linewidth}}{\\footnotesize ")
  assert notes.endswith("} \\\\\n\\end{tabular}\n")
  assert "55.9 $\\pm$ 1.1 (M=10)" in text


def test_names_are_escaped_in_every_format():
  name = "a_b|c\\d & <img>\n{e}% $ # ~ ^"
  line = render.table_markdown([row(variant=name)], paper=False).splitlines()[2]
  assert "a\\_b\\|c\\\\d & &lt;img>" in line
  text = render.latex([row(variant=name)], paper=False)
  assert "a\\_b\\textbar{}c\\textbackslash{}d \\& \\textless{}img" in text
  assert "\\{e\\}\\% \\$ \\# \\textasciitilde{} \\textasciicircum{}" in text


def test_terminal_columns_are_aligned():
  text = render.terminal([row(), MISSING])
  notes = "\n".join(["", *render.table_notes([row(), MISSING])])
  head, *lines = text.removesuffix(notes).splitlines()
  for line in lines:
    assert line[head.index("runs") :].endswith("of 5")
    assert line[head.index("task") :].startswith("squad")


FORMATS = {
  "terminal": render.terminal,
  "markdown": lambda rows: render.table_markdown(rows, paper=False),
  "latex": lambda rows: render.latex(rows, paper=False),
  "csv": render.csv,
  "json": lambda rows: json.dumps(render.as_json(rows)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_explains_the_interval(name):
  # Up to the first character that a format may escape.
  sentence = ABOUT_INTERVAL.partition("is a 95")[2][1:]
  assert sentence in FORMATS[name]([row(), MISSING])
  assert sentence not in FORMATS[name]([row(interval=None), MISSING])


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_explains_a_missing_interval(name):
  remark = "no difference: it has seeds 0, Std 0 1"
  text = FORMATS[name]([row(difference=None, interval=None, remark=remark)])
  assert remark in text


def test_groups_of_examples_are_counted_beside_them():
  assert render.format_size(row(n=7983, num_groups=500)) == "7,983 (500 groups)"
  assert render.format_size(row(n=1319, num_groups=1319)) == "1,319"
