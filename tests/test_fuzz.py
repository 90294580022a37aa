"""Damaged input: every reader refuses it in one line, or keeps its promises.

`python -m tests.fuzz --minutes=N` looks for more.
"""

import pytest

from tests.fuzz.check import check
from tests.fuzz.table import READERS

pytestmark = pytest.mark.slow  # Half a minute.

_NUM = 25


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_input_is_refused_in_one_line_or_read(reader, tmp_path):
  counts = check(reader, tmp_path, _NUM)
  assert counts.total() >= _NUM
  assert bool(counts["refused"]) == reader.refuses
