"""The ways of pausing in text, each against a law of its own."""

import collections
import json
import math
import re

import numpy as np
import pytest

from pausejax import errors, pause
from pausejax.data.batch import PADDING, language_model_batch
from pausejax.pause_places import MODES

PAUSE, BOS, PAD = 999, 998, 0
SEQ_LEN = 60
# Mode -> settings that it needs.
SETTINGS = {
  "insert_trim": {},
  "exact": {},
  "random_runs": {"run_length": 3.0},
  "after_sentences": {"run_length": 2.0},
  "after_paragraphs": {"run_length": 2.0},
  "every_token": {"run_length": 2.0},
  "repeat_token": {"run_length": 2.0},
}


def spec(mode, fraction=0.25, **changes) -> pause.PauseSpec:
  fields = SETTINGS[mode] | changes
  return pause.PauseSpec(fraction=fraction, mode=mode, **fields)


def text(pauses, num_rows=8, seq_len=SEQ_LEN):
  """Distinct ids, and random ends of units if the way needs them."""
  num_text = pauses.num_text_tokens(seq_len)
  ids_BN = np.arange(num_rows * num_text, dtype=np.int32) + 1000
  rng = np.random.default_rng(0)
  ends_BN = rng.random((num_rows, num_text)) < 0.1
  return ids_BN.reshape(num_rows, -1), ends_BN if pauses.unit else None


def inserted(pauses, ids_BN, ends_BN, *, seed=0, first=0, seq_len=SEQ_LEN):
  return pauses.insert(
    ids_BN,
    seq_len=seq_len,
    pause_id=PAUSE,
    seed=seed,
    rows_B=first + np.arange(len(ids_BN)),
    ends_BN=ends_BN,
  )


def test_every_mode_is_tested():
  assert SETTINGS.keys() == MODES.keys()


@pytest.mark.parametrize("mode", MODES)
def test_the_text_is_kept_in_order_and_depends_on_seed_and_position(mode):
  pauses = spec(mode)
  ids_BN, ends_BN = text(pauses)
  shown_BT = inserted(pauses, ids_BN, ends_BN)
  assert shown_BT.shape == (8, SEQ_LEN) and shown_BT.dtype == ids_BN.dtype
  is_pause_BT = pauses.is_pause(shown_BT, PAUSE)
  for before_N, after_T, is_pause_T in zip(
    ids_BN, shown_BT, is_pause_BT, strict=True
  ):
    kept = after_T[~is_pause_T]
    np.testing.assert_array_equal(kept, before_N[: len(kept)])
    assert pauses.displaces_text or len(kept) == len(before_N)
  part_ends = None if ends_BN is None else ends_BN[3:]
  np.testing.assert_array_equal(
    inserted(pauses, ids_BN[3:], part_ends, first=3), shown_BT[3:]
  )


@pytest.mark.parametrize("mode", MODES)
def test_without_a_fraction_there_are_no_pauses(mode):
  pauses = spec(mode, fraction=0.0)
  ids_BN, ends_BN = text(pauses)
  assert ids_BN.shape == (8, SEQ_LEN) and ends_BN is None
  np.testing.assert_array_equal(inserted(pauses, ids_BN, None), ids_BN)
  assert pauses.expected_pauses(SEQ_LEN) == (0.0, 0.0)


@pytest.mark.parametrize("shares_positions", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_counted_targets_are_the_text_each_once(mode, shares_positions):
  pauses = spec(mode, shares_positions=shares_positions)
  ids_BN, ends_BN = text(pauses)
  targets_BT = inserted(pauses, ids_BN, ends_BN)
  batch = language_model_batch(
    targets_BT, pauses=pauses, bos_id=BOS, pad_id=PAD, pause_id=PAUSE
  )
  for b, before_N in enumerate(ids_BN):
    mask_T = batch["loss_mask"][b]
    counted = batch["targets"][b][mask_T]
    np.testing.assert_array_equal(counted, before_N[: len(counted)])
    # One position for each text token of the inputs, or one for each input.
    positions_T = batch["positions"][b]
    is_text_T = np.append(True, mask_T[:-1])
    expected = np.cumsum(is_text_T) - 1 if shares_positions else range(SEQ_LEN)
    np.testing.assert_array_equal(positions_T, expected)


@pytest.mark.parametrize("mode", MODES)
def test_pauses_after_the_end_of_the_text_are_padding(mode):
  pauses = spec(mode)
  ids_BN, ends_BN = text(pauses)
  ids_BN[:, 5:] = PADDING
  batch = language_model_batch(
    inserted(pauses, ids_BN, ends_BN),
    pauses=pauses,
    bos_id=BOS,
    pad_id=PAD,
    pause_id=PAUSE,
  )
  assert (batch["loss_mask"].sum(axis=1) == 5).all()
  for mask_T, ids_T in zip(
    batch["loss_mask"], batch["segment_ids"], strict=True
  ):
    last = np.flatnonzero(mask_T)[-1]
    assert ids_T[: last + 1].all() and not ids_T[last + 1 :].any()


@pytest.mark.parametrize(("fraction", "length"), [(0.1, 4.0), (0.4, 1.5)])
def test_random_runs_are_geometric_and_begin_at_random(fraction, length):
  num_rows, seq_len = 400, 2000
  pauses = spec("random_runs", fraction, run_length=length)
  is_pause = pauses.mask(5, np.arange(num_rows), seq_len)
  starts, lengths = 0, collections.Counter()
  num_text = int((~is_pause[:, :-1]).sum())
  for row in is_pause:
    edges = np.flatnonzero(np.diff(row.astype(int), prepend=0, append=0))
    runs = edges.reshape(-1, 2)
    starts += int((runs[:, 0] > 0).sum())
    # A run that the end cuts has an unknown length.
    lengths.update((end - start for start, end in runs if end < seq_len))
  p = fraction / (length * (1 - fraction))
  error = math.sqrt(num_text * p * (1 - p))
  assert abs(starts - num_text * p) < 4 * error
  total = lengths.total()
  for n in range(1, 5):
    expected = total * (1 / length) * (1 - 1 / length) ** (n - 1)
    assert abs(lengths[n] - expected) < 4 * math.sqrt(expected)


def test_every_slot_is_equally_often_in_a_random_run():
  # Also in rows that are shorter than a run.
  fraction, num_rows = 0.5, 4000
  pauses = spec("random_runs", fraction, run_length=50.0)
  means_T = pauses.mask(1, np.arange(num_rows), 32).mean(axis=0)
  error = math.sqrt(fraction * (1 - fraction) / num_rows)
  assert np.abs(means_T - fraction).max() < 4 * error


@pytest.mark.parametrize("mode", ["random_runs", "every_token", "repeat_token"])
@pytest.mark.parametrize("run_length", [1, 3])
def test_the_expected_number_of_pauses_is_that_of_many(mode, run_length):
  num_rows = 4000
  pauses = spec(mode, run_length=run_length)
  counts = pauses.mask(3, np.arange(num_rows), SEQ_LEN).sum(axis=1)
  mean, variance = pauses.expected_pauses(SEQ_LEN)
  assert abs(counts.mean() - mean) <= 4 * math.sqrt(variance / num_rows)
  bound = 4 * math.sqrt(2 / num_rows) * variance
  assert abs(counts.var() - variance) <= bound


def test_pauses_follow_the_ends_of_units():
  pauses = spec("after_sentences")
  ids = np.array([[1, 2, 3, 4, 5, 6, 7, 8]])
  ends = np.array([[0, 1, 0, 0, 1, 1, 0, 0]], bool)
  shown = inserted(pauses, ids, ends, seq_len=8)
  p = PAUSE
  assert shown.tolist() == [[1, 2, p, p, 3, 4, 5, p]]
  none = np.zeros_like(ends)
  np.testing.assert_array_equal(inserted(pauses, ids, none, seq_len=8), ids)


@pytest.mark.parametrize(
  ("mode", "expected"),
  [
    ("every_token", [1, PAUSE, PAUSE, 2, PAUSE, PAUSE, 3, PAUSE]),
    ("repeat_token", [1, 1, 1, 2, 2, 2, 3, 3]),
  ],
)
def test_every_token_is_followed_by_pauses_or_copies(mode, expected):
  pauses = spec(mode)
  assert pauses.num_text_tokens(8) == 3
  assert pauses.length(3) == 9
  shown = inserted(pauses, np.array([[1, 2, 3]]), None, seq_len=8)
  assert shown.tolist() == [expected]
  batch = language_model_batch(
    shown, pauses=pauses, bos_id=BOS, pad_id=PAD, pause_id=PAUSE
  )
  # The last pause, or copy, predicts the next token.
  counts = batch["loss_mask"][0].tolist()
  assert counts == [True, False, False, True, False, False, True, False]


def test_equal_tokens_in_a_row_are_no_copies():
  pauses = spec("repeat_token", run_length=1)
  ids = np.array([[7, 7, 7, 7]])
  batch = language_model_batch(
    inserted(pauses, ids, None, seq_len=8),
    pauses=pauses,
    bos_id=BOS,
    pad_id=PAD,
    pause_id=PAUSE,
  )
  assert batch["loss_mask"].sum() == 4


@pytest.mark.parametrize(
  ("mode", "changes", "message"),
  [
    ("exact", {"run_length": 2.0}, "set it to 1"),
    ("every_token", {"run_length": 1.5}, "a whole number"),
    ("after_sentences", {"run_length": 0.0}, "pause_run_length: must be"),
    ("random_runs", {"fraction": 0.8, "run_length": 2.0}, "at least 4 is"),
    ("random_runs", {"run_length": math.nan}, "pause_run_length: must be"),
    ("after_sentences", {"run_length": 1e18}, "from 1 to 1048576"),
  ],
)
def test_impossible_settings_are_refused(mode, changes, message):
  with pytest.raises(errors.UsageError, match=message):
    spec(mode, **changes)


@pytest.mark.parametrize("fraction", [0.6, 0.7, 0.999])
def test_the_least_run_length_in_the_message_is_accepted(fraction):
  with pytest.raises(errors.UsageError) as caught:
    spec("random_runs", fraction, run_length=1.0)
  least = re.search(r"at least (\S+) is", caught.value.message)
  spec("random_runs", fraction, run_length=float(least[1]))


@pytest.mark.parametrize(
  "mode", [mode for mode, fields in SETTINGS.items() if fields]
)
def test_a_run_of_pauses_leaves_a_position_for_text(mode):
  assert spec(mode, run_length=7).num_text_tokens(8) >= 1
  with pytest.raises(errors.UsageError, match="seq_len 8; choose at most 7"):
    spec(mode, run_length=8).num_text_tokens(8)


def test_runs_resume_only_with_the_same_pauses():
  prints = [spec(mode).fingerprint() for mode in MODES]
  prints += [spec("every_token", run_length=3).fingerprint()]
  prints += [spec("every_token", shares_positions=True).fingerprint()]
  assert len({str(p) for p in prints}) == len(MODES) + 2
  assert json.loads(json.dumps(prints)) == prints  # As checkpoints keep it.
  # As versions with two modes wrote it.
  assert spec("exact").fingerprint() == {
    "pause_mode": "exact",
    "pause_fraction": 0.25,
  }
