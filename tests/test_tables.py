"""Tables: aligned plain text, which keeps every cell at any width."""

import os
import pty
import subprocess
import sys

import pytest

from pausejax.runtime import tables

ROWS = [
  ("task", "score", "n"),
  ("squad", "24.9 ± 1.1 [23.1, 26.8] (M=10)", "10,570"),
  ("问答", "", "7"),
]
CODE = (
  "from pausejax.runtime import tables\n"
  f"print(*tables.table_lines({ROWS!r}), sep='\\n')"
)


def test_columns_are_aligned_and_a_row_is_one_line():
  assert tables.table_lines(ROWS) == [
    "task   score                           n",
    "squad  24.9 ± 1.1 [23.1, 26.8] (M=10)  10,570",
    "问答                                   7",  # Such letters are two wide.
  ]
  row = ("a" * 3000, "b c " * 500, "d")
  assert len(tables.table_lines([ROWS[0], row])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("columns", [8, 30, 80])
def test_on_a_terminal_cells_wrap_to_its_width(columns):
  reader, writer = pty.openpty()
  environment = {**os.environ, "COLUMNS": str(columns), "PYTHONUTF8": "1"}
  subprocess.run(
    [sys.executable, "-c", CODE], stdout=writer, env=environment, check=True
  )
  os.close(writer)
  shown = b""
  while part := _read(reader):
    shown += part
  os.close(reader)
  text = shown.decode()
  assert "\x1b" not in text
  assert max(map(len, text.splitlines())) <= max(columns, 24)
  letters = lambda text: sorted("".join(text.split()))
  assert letters(text) == letters("".join(map("".join, ROWS)))


def _read(descriptor: int) -> bytes:
  try:
    return os.read(descriptor, 4096)
  except OSError:  # What Linux says at the end of a terminal.
    return b""


@pytest.mark.parametrize(
  ("value", "text"),
  [(9_728.954, "9728.95"), (69482746884803502080.0, "6.9e+19")],
)
def test_large_numbers_are_short(value, text):
  assert tables.compact(value) == text
