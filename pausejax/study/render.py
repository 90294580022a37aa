"""The table of a study as text: terminal, Markdown, CSV, LaTeX, JSON.

Scores are percent: mean ± sample deviation over seeds, and M at inference.
A cell without results shows how many seeds are missing. Every format explains
the interval, and why a row has none.
"""

import csv as csv_
import dataclasses
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

from pausejax.runtime import tables
from pausejax.study.table import (
  ABOUT_COST,
  ABOUT_DETECTABLE,
  ABOUT_INTERVAL,
  ABOUT_SCORE,
  Row,
)

_HEADINGS = (
  *("task", "metric", "variant", "score", "difference", "MDE", "GFLOP", "ms"),
  *("n", "runs"),
)
_PAPER = "paper, 1B"
# Column of CSV and JSON that explains the interval.
_ABOUT = "about_interval"
_TEX = {c: "\\" + c for c in "&%$#_{}"} | {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "|": r"\textbar{}",
  "±": r"$\pm$",
}


def terminal(rows: Sequence[Row]) -> str:
  """Returns aligned text to print."""
  cells = [_HEADINGS, *(_cells(row, paper=False) for row in rows)]
  return "\n".join([*tables.table_lines(cells), *table_notes(rows)])


def table_markdown(rows: Sequence[Row], *, paper: bool) -> str:
  """Returns a table as GitHub shows it."""
  paper = paper and has_paper(rows)
  head = _headings(paper)
  lines = [head, ["---"] * len(head), *(_cells(row, paper) for row in rows)]
  table = "".join(f"| {' | '.join(map(markdown_text, x))} |\n" for x in lines)
  return table + "".join(f"\n{markdown_text(n)}\n" for n in table_notes(rows))


def csv(rows: Sequence[Row]) -> str:
  """Returns one line per row, in full precision; missing values are empty."""
  names = [*(field.name for field in dataclasses.fields(Row)), _ABOUT]
  pairs = {
    "interval": ("low", "high"),
    "score_interval": ("score_low", "score_high"),
    "bootstrap": ("bootstrap_low", "bootstrap_high"),
    "paper": ("paper_mean", "paper_std"),
  }
  out = io.StringIO()
  writer = csv_.writer(out, lineterminator="\n")
  writer.writerow(
    itertools.chain.from_iterable(pairs.get(n, (n,)) for n in names)
  )
  for row in as_json(rows):
    row["seeds"] = " ".join(map(str, row["seeds"]))
    cells = [
      (row[n] or (None, None)) if n in pairs else (row[n],) for n in names
    ]
    writer.writerow(itertools.chain.from_iterable(cells))
  return out.getvalue()


def latex(rows: Sequence[Row], *, paper: bool) -> str:
  """Returns a tabular for the package booktabs."""
  paper = paper and has_paper(rows)
  groups = itertools.groupby(rows, key=lambda row: row.task)
  body = "\\midrule\n".join(
    "".join(_tex_line(_cells(row, paper)) for row in group)
    for _, group in groups
  )
  columns = "lllllrrrrl" + "l" * paper
  return (
    f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    f"{_tex_line(_headings(paper))}\\midrule\n{body}\\bottomrule\n"
    f"{_tex_notes(rows, len(columns))}\\end{{tabular}}\n"
  )


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns the rows as plain values; NaN is None."""
  return [
    {
      **{name: _plain(v) for name, v in dataclasses.asdict(row).items()},
      _ABOUT: ABOUT_INTERVAL if row.interval else "",
    }
    for row in rows
  ]


def table_notes(rows: Sequence[Row]) -> list[str]:
  """Returns the notes below the table, one sentence each."""
  has_interval = any(row.interval for row in rows)
  remarks = (f"{r.task}, {r.variant}: {r.remark}" for r in rows if r.remark)
  about = [ABOUT_SCORE] if any(row.seeds for row in rows) else []
  about += [ABOUT_INTERVAL, ABOUT_DETECTABLE] if has_interval else []
  has_cost = any(row.flops_per_example is not None for row in rows)
  return [*about, *([ABOUT_COST] if has_cost else []), *remarks]


def has_paper(rows: Sequence[Row]) -> bool:
  """Returns whether the paper reports a number for any row."""
  return any(row.paper for row in rows)


def format_score(row: Row) -> str:
  """Returns "24.9 ± 1.1 [23.1, 26.8] (M=10)"; one seed has no deviation."""
  return f"{plain_score(row)} (M={row.num_pauses})" if row.seeds else "missing"


def plain_score(row: Row) -> str:
  """Returns "24.9 ± 1.1 [23.1, 26.8]"."""
  text = format_mean_and_std(row.mean, row.std, len(row.seeds))
  return f"{text} {interval(row.score_interval)}".rstrip()


def interval(limits: tuple[float, float] | None) -> str:
  """Returns "[23.1, 26.8]", "" for None."""
  return f"[{limits[0]:.1f}, {limits[1]:.1f}]" if limits else ""


def format_mean_and_std(mean: float, std: float, num_seeds: int) -> str:
  """Returns "24.9 ± 1.1", or "24.9" for a single seed."""
  shown = tables.compact(mean, 1)
  return f"{shown} ± {tables.compact(std, 1)}" if num_seeds > 1 else shown


def difference(row: Row) -> str:
  """Returns "+3.2 [+1.0, +5.4]", or "" if there is no difference."""
  if row.difference is None:
    return "not comparable" if row.remark else ""
  if row.interval is None:
    return f"{row.difference:+.1f} (no interval)"
  return f"{row.difference:+.1f} {signed_interval(row.interval)}"


def signed_interval(limits: tuple[float, float] | None) -> str:
  """Returns "[-1.0, +5.4]", "" for None."""
  return f"[{limits[0]:+.1f}, {limits[1]:+.1f}]" if limits else ""


def detectable(row: Row) -> str:
  """Returns the minimum detectable effect, "" if there is no interval."""
  return "" if row.detectable is None else f"{row.detectable:.1f}"


def gflops(row: Row) -> str:
  """Returns the GFLOP of an example, "-" if not known."""
  return _cost(row, row.flops_per_example, 1e-9)


def milliseconds(row: Row) -> str:
  """Returns the milliseconds of an example, "-" if not known."""
  return _cost(row, row.seconds_per_example, 1e3)


def _cost(row: Row, value: float | None, scale: float) -> str:
  if value is None:
    return "-" if row.seeds else ""
  scaled = value * scale
  return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"


def runs(row: Row) -> str:
  """Returns "3 of 5", or "5" when all runs have results."""
  done, planned = len(row.seeds), row.num_seeds_planned
  return f"{planned}" if done == planned else f"{done} of {planned}"


def format_size(row: Row) -> str:
  """Returns "7,983 (500 groups)", or "7,983" if examples are not grouped."""
  groups = f" ({row.num_groups:,} groups)" if 0 < row.num_groups < row.n else ""
  return f"{row.n:,}{groups}" if row.n else ""


def published(row: Row) -> str:
  """Returns the paper's number, "" if it reports none."""
  return f"{row.paper[0]:.1f} ± {row.paper[1]:.1f}" if row.paper else ""


def markdown_text(text: str) -> str:
  """Returns text escaped for a cell of a Markdown table."""
  for character in "\\`*_[|":
    text = text.replace(character, "\\" + character)
  return text.replace("<", "&lt;").replace("\n", " ")


def _headings(paper: bool) -> list[str]:
  return [*_HEADINGS, *([_PAPER] if paper else [])]


def _cells(row: Row, paper: bool) -> list[str]:
  cells = [
    row.task,
    row.metric,
    row.variant,
    format_score(row),
    difference(row),
    detectable(row),
    gflops(row),
    milliseconds(row),
  ]
  return [
    *cells,
    format_size(row),
    runs(row),
    *([published(row)] if paper else []),
  ]


def _tex_notes(rows: Sequence[Row], num_columns: int) -> str:
  return "".join(
    f"\\multicolumn{{{num_columns}}}{{p{{\\linewidth}}}}"
    f"{{\\footnotesize {_tex(note)}}} \\\\\n"
    for note in table_notes(rows)
  )


def _tex(text: str) -> str:
  return "".join(_TEX.get(c, c) for c in text)


def _tex_line(cells: Sequence[str]) -> str:
  return f"{' & '.join(map(_tex, cells))} \\\\\n"


def _plain(value: Any) -> Any:
  if isinstance(value, tuple):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
