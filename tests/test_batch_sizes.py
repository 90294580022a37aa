"""Batch sizes that change: which rows a step reads, and what is refused."""

import re

import numpy as np
import pytest

from pausejax import errors
from pausejax.config import default, train_config
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data.pretraining.source import step_rows


def test_every_row_is_read_once_in_order():
  sizes = batch_sizes(4, "3:8,5:6")
  steps = [step_rows(sizes, step, (0, 1)) for step in range(9)]
  assert [len(rows) for rows in steps] == [4, 4, 4, 8, 8, 6, 6, 6, 6]
  np.testing.assert_array_equal(np.concatenate(steps), np.arange(52))
  assert [sizes.step_of(row) for row in range(52)] == [
    step for step, rows in enumerate(steps) for _ in rows
  ]
  assert sizes.sizes == (4, 6, 8) and sizes.later() == "3:8,5:6"
  assert sizes.summary() == "4 rows, 8 after step 3, 6 after step 5"


def test_hosts_share_the_rows_of_each_step():
  sizes = batch_sizes(4, "1:8")
  for step in range(3):
    parts = [step_rows(sizes, step, (host, 2)) for host in range(2)]
    whole = step_rows(sizes, step, (0, 1))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_one_size_reads_what_it_always_read():
  sizes = batch_sizes(8, "")
  for step in (0, 1, 10**9):
    rows = step_rows(sizes, step, (1, 2))
    np.testing.assert_array_equal(rows, step * 8 + np.arange(4, 8))


@pytest.mark.parametrize(
  "text",
  [
    "5",
    "5:",
    "3:8, 5:6",
    "05:8",
    "5:8,",
    ":8",
    "0:8",
    "5:0",
    "5:8,5:9",
    "5:8,4:9",
    "a:8",
    "5:8.0",
    "5:-8",
  ],
)
def test_another_form_is_refused_in_one_line(text):
  with pytest.raises(errors.UsageError, match="later_batch_sizes") as e:
    batch_sizes(4, text)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      dict(later_batch_sizes="2:6"),
      "later_batch_sizes 6 is not divisible by optim.nu",
    ),
    (dict(batch_size=6), "batch_size 6 is not divisible by optim.nu"),
    (
      dict(later_batch_sizes="2:8", pipeline="seqio"),
      "later_batch_sizes: data.pipeline=seqio",
    ),
  ],
)
def test_sizes_that_the_run_cannot_use_are_refused(changes, words):
  tree = default()
  tree.batch_size, tree.optim.num_microbatches = 4, 4
  tree.data.pipeline = changes.pop("pipeline", "segments")
  tree.update(changes)
  with pytest.raises(errors.UsageError, match=re.escape(words)):
    train_config(tree.to_dict())
