import numpy as np
import pytest

from pausejax import errors, pause
from pausejax.data.batch import (
  PADDING,
  Packed,
  language_model_batch,
  packed_batch,
)

BOS, PAD, PAUSE = 7, 0, 99
SHAPES = {
  "tokens": np.int32,
  "targets": np.int32,
  "loss_mask": np.bool_,
  "positions": np.int32,
  "segment_ids": np.int32,
}


def make(targets, bos_id=BOS, pad_id=PAD):
  return language_model_batch(
    np.asarray(targets),
    pauses=pause.PauseSpec(fraction=0.3),
    bos_id=bos_id,
    pad_id=pad_id,
    pause_id=PAUSE,
  )


def random_targets(seed=0, num_rows=8, seq_len=33):
  """Text, a third of it pauses, and rows that end early."""
  rng = np.random.default_rng(seed)
  targets = rng.integers(1, 50, (num_rows, seq_len))
  targets[rng.random(targets.shape) < 0.3] = PAUSE
  lengths = rng.integers(0, seq_len + 1, num_rows)
  targets[np.arange(seq_len) >= lengths[:, None]] = PADDING
  return targets


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_every_array_has_the_shape_of_the_targets(dtype):
  batch = make(random_targets().astype(dtype))
  assert {name: a.dtype for name, a in batch.items()} == SHAPES
  assert {a.shape for a in batch.values()} == {(8, 33)}


def test_inputs_are_bos_and_the_targets_shifted_by_one():
  batch = make(random_targets())
  np.testing.assert_array_equal(batch["tokens"][:, 0], BOS)
  np.testing.assert_array_equal(
    batch["tokens"][:, 1:], batch["targets"][:, :-1]
  )


def test_a_position_is_ignored_if_and_only_if_the_next_token_is_a_pause():
  targets = random_targets()
  batch = make(targets)
  for row in range(targets.shape[0]):
    for k in range(targets.shape[1]):
      # Behind BOS, position k reads token k and predicts token k + 1.
      sequence = [BOS, *targets[row]]
      following = sequence[k + 1]
      counts = following not in (PAUSE, PADDING)
      assert batch["loss_mask"][row, k] == counts


def test_a_pause_before_text_counts_and_text_before_a_pause_does_not():
  batch = make([[5, PAUSE, PAUSE, 6]])
  np.testing.assert_array_equal(batch["tokens"], [[BOS, 5, PAUSE, PAUSE]])
  np.testing.assert_array_equal(batch["loss_mask"], [[1, 0, 0, 1]])


def test_padding_never_counts():
  targets = random_targets()
  batch = make(targets)
  is_padding = targets == PADDING
  assert not batch["loss_mask"][is_padding].any()
  assert not batch["segment_ids"][is_padding].any()
  np.testing.assert_array_equal(batch["targets"][is_padding], PAD)


def test_pauses_after_the_text_of_a_short_row_are_padding():
  short = [PAUSE, 5, PAUSE, 6, PAUSE, PADDING, PAUSE]
  full = [PAUSE, 5, PAUSE, 6, PAUSE, 7, PAUSE]
  batch = make([short, full, [PAUSE, *[PADDING] * 6]])
  np.testing.assert_array_equal(
    batch["segment_ids"], [[1, 1, 1, 1, 0, 0, 0], [1] * 7, [0] * 7]
  )


def test_a_real_token_with_the_id_of_padding_counts():
  # T5 pads with the id that BOS has; a text may hold it as well.
  batch = make([[3, 4, 3, PADDING]], bos_id=3, pad_id=3)
  np.testing.assert_array_equal(batch["loss_mask"], [[1, 1, 1, 0]])
  np.testing.assert_array_equal(batch["segment_ids"], [[1, 1, 1, 0]])


def test_a_row_of_padding_counts_nothing():
  batch = make([[PADDING] * 4, [1, 2, 3, 4]])
  np.testing.assert_array_equal(batch["loss_mask"].sum(axis=1), [0, 4])


def test_no_array_holds_the_padding_value():
  batch = make(random_targets())
  assert all((a >= 0).all() for a in batch.values())


def test_positions_count_from_zero():
  batch = make(random_targets())
  np.testing.assert_array_equal(
    batch["positions"], np.tile(np.arange(33), (8, 1))
  )


def packed(masks, max_counted):
  """A batch of rows of one example each, with these masks."""
  rows = [[Packed(m, m, np.array(m, bool), m, m)] for m in masks]
  return packed_batch(rows, seq_len=6, max_counted=max_counted, pad_id=0)


def test_counted_positions_come_first_and_are_unique():
  batch = packed([[0, 1, 0, 1], [1, 1, 1], []], max_counted=3)
  np.testing.assert_array_equal(
    batch["counted"], [[1, 3, 0], [0, 1, 2], [0, 1, 2]]
  )
  assert batch["counted"].dtype == np.int32


def test_too_many_counted_targets_are_refused_not_dropped():
  with pytest.raises(errors.UserError, match="3 counted targets, more than"):
    packed([[0, 1], [1, 1, 1]], max_counted=2)


def test_the_given_targets_are_not_modified():
  targets = random_targets()
  before = targets.copy()
  make(targets)
  np.testing.assert_array_equal(targets, before)
