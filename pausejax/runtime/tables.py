"""Tables as plain text; rich lays out their columns."""

import io
import shutil
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED = 10_000  # Width where there is no terminal.
_NARROWEST = 8  # Of a column, on average; rich leaves out what does not fit.


def compact(value: float, decimals: int = 2) -> str:
  """Returns a number with some decimals; from a million on, as 6.9e+19."""
  return f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.1e}"


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns the lines of a table with aligned columns, without escape codes.

  Args:
    rows: the headings, then the cells of each row.

  Returns:
    If stdout is a terminal, cells wrap so that the table is no wider, down to
    8 characters a column; in pipes and files, each row is one line.
  """
  headings, *body = rows
  table = Table(box=None, pad_edge=False)
  for heading in headings:
    table.add_column(Text(heading), overflow="fold")
  for row in body:
    table.add_row(*map(Text, row))
  width = _UNLIMITED
  if sys.stdout.isatty():
    columns = shutil.get_terminal_size().columns
    width = max(columns, _NARROWEST * len(headings))
  text = io.StringIO()
  Console(file=text, width=width, color_system=None).print(table)
  return [line.rstrip() for line in text.getvalue().splitlines()]
