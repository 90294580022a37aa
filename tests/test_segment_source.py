"""Batches of segments: a function of the step, on any number of hosts."""

import json
import math

import numpy as np
import pytest

from pausejax import errors
from pausejax.config.batch_sizes import batch_sizes
from pausejax.config.batch_skips import batch_skips
from pausejax.data.pretraining import prepare, segments
from pausejax.data.pretraining.source import SegmentSource, StepBatches
from tests import segment_stores
from tests.segment_stores import (
  BYTES,
  SEED,
  UNIFORM,
  assert_same,
  expected_ids,
  join,
  text_of,
)

# Fixtures that several test files share.
files = segment_stores.files
data = segment_stores.data
folder = segment_stores.folder
exact_folder = segment_stores.exact_folder
open_source = segment_stores.open_source


@pytest.mark.parametrize("mode", UNIFORM)
def test_batches_are_a_function_of_the_step(open_source, mode):
  source = open_source(pause_mode=mode)
  steps = [0, 1, 2, 50, 10**6]
  forwards = [source.training_batch(s) for s in steps]
  other = open_source(pause_mode=mode)
  backwards = [other.training_batch(s) for s in reversed(steps)]
  for a, b in zip(forwards, reversed(backwards), strict=True):
    assert_same(a, b)


@pytest.mark.parametrize("num_hosts", [2, 4, 8])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_hosts_share_one_global_batch(open_source, num_hosts, split):
  alone = open_source(split)
  hosts = [open_source(split, host=(i, num_hosts)) for i in range(num_hosts)]
  for step in (0, 3, 40):
    parts = [h.training_batch(step) for h in hosts]
    assert all(len(p["tokens"]) == 8 // num_hosts for p in parts)
    assert_same(join(parts), alone.training_batch(step))
  expected = list(alone.evaluation_batches(0))
  found = list(zip(*(h.evaluation_batches(0) for h in hosts), strict=True))
  for parts, whole in zip(found, expected, strict=True):
    assert_same(join(parts), whole)


def test_a_batch_that_hosts_cannot_share_is_an_error(open_source):
  with pytest.raises(errors.UsageError, match=r"batch_size 8 .* 3 hosts"):
    open_source(host=(0, 3))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_restored_iterator_continues_as_if_uninterrupted(open_source, taken):
  whole = StepBatches(open_source())
  expected = [next(whole) for _ in range(taken + 6)][taken:]
  first = StepBatches(open_source())
  for _ in range(taken):
    next(first)
  state = first.state()
  second = StepBatches(open_source())
  next(second)  # Where it was before does not matter.
  second.restore(state)
  assert second.state() == state
  for batch in expected:
    assert_same(next(second), batch)


def test_the_iterator_makes_the_batches_of_the_steps(open_source):
  source = open_source()
  iterator = StepBatches(source)
  for step in range(4):
    assert_same(next(iterator), source.training_batch(step))


def test_the_fingerprint_depends_on_all_that_changes_batches(open_source):
  prints = [
    StepBatches(open_source(**changes)).fingerprint()
    for changes in (
      {},
      {"seed": SEED + 1},
      {"batch_size": 4},
      {"pause_fraction": 0.0},
      {"pause_mode": "exact"},
      {"split": "validation"},
    )
  ]
  for i, a in enumerate(prints):
    assert json.loads(json.dumps(a)) == a
    assert all(a != b for b in prints[:i])
  # How many hosts share the work does not change a batch.
  shared = StepBatches(open_source(host=(1, 2)))
  assert shared.fingerprint() == prints[0]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_epoch_has_each_segment_once_in_another_order(
  open_source, batch_size
):
  source = open_source(batch_size=batch_size)
  n = len(source.store)
  epochs = [[source.record(e * n + i) for i in range(n)] for e in range(4)]
  for order in epochs:
    assert sorted(order) == list(range(n))
  assert len({tuple(order) for order in epochs}) == 4
  other = open_source(seed=SEED + 1)
  assert [other.record(i) for i in range(n)] != epochs[0]


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_any_seed_gives_batches(open_source, seed):
  source = open_source(seed=seed)
  n = len(source.store)
  assert sorted(source.record(i) for i in range(n)) == list(range(n))
  source.training_batch(0)
  next(source.evaluation_batches(1))


def test_a_store_of_one_segment_is_repeated(tmp_path, data_config):
  for i in range(2):
    (tmp_path / f"{i}.txt").write_text("short")
  data = data_config(files=str(tmp_path), pause_fraction=0.0, holdout_every=2)
  prepare.write_segments(data, BYTES, tmp_path / "out")
  source = SegmentSource(
    data=data,
    store=segments.open_segments(tmp_path / "out", "train", data, BYTES),
    tokenizer=BYTES,
    sizes=batch_sizes(4),
    seed=0,
  )
  batch = source.training_batch(9)
  ids = [*BYTES.encode(["short"])[0], BYTES.eos_id]
  np.testing.assert_array_equal(batch["targets"][:, : len(ids)], [ids] * 4)
  np.testing.assert_array_equal(batch["loss_mask"].sum(axis=1), len(ids))


def test_standard_and_pause_runs_read_the_same_text(open_source):
  plain, paused = open_source(pause_fraction=0.0), open_source()
  num_pauses = 0
  for step in range(20):
    a, b = plain.training_batch(step), paused.training_batch(step)
    num_pauses += (b["targets"] == BYTES.pause_id).sum()
    assert not (a["targets"] == BYTES.pause_id).any()
    for whole, shown in zip(text_of(a), text_of(b), strict=True):
      assert shown == whole[: len(shown)]
  # A quarter of 32 goes into 40 slots: 6.4 of them survive in a full row.
  assert 5 < num_pauses / (20 * 8) < 7


def test_exact_mode_loses_no_text(open_source):
  source = open_source(pause_mode="exact", batch_size=1)
  shown = {}
  for position in range(len(source.store)):
    batch = source.training_batch(position)
    shown[source.record(position)] = text_of(batch)[0]
  ids = [i for record in sorted(shown) for i in shown[record]]
  assert ids == expected_ids("train")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("batch_size", [1, 5, 7, 8, 1000])
@pytest.mark.parametrize("mode", UNIFORM)
def test_evaluation_has_each_segment_once(open_source, split, batch_size, mode):
  fraction = 0.25 if mode == "exact" else 0.0
  source = open_source(
    split, batch_size=batch_size, pause_mode=mode, pause_fraction=fraction
  )
  found = list(source.evaluation_batches(0))
  assert len(found) == math.ceil(len(source.store) / batch_size)
  assert {b["tokens"].shape for b in found} == {(batch_size, 32)}
  ids = [i for b in found for row in text_of(b) for i in row]
  assert ids == expected_ids(split)
  counted = sum(int(b["loss_mask"].sum()) for b in found)
  assert counted == len(ids)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("mode", UNIFORM)
def test_held_out_text_is_also_available_without_pauses(
  open_source, batch_size, mode
):
  source = open_source("validation", batch_size=batch_size, pause_mode=mode)
  plain = list(source.without_pauses().evaluation_batches(0))
  assert {b["tokens"].shape for b in plain} == {(batch_size, 32)}
  ids = [i for b in plain for row in text_of(b) for i in row]
  assert ids == expected_ids("validation")
  assert not any((b["tokens"] == BYTES.pause_id).any() for b in plain)
  if mode == "insert_trim":  # The batches of a run without pauses, exactly.
    standard = open_source(
      "validation", batch_size=batch_size, pause_fraction=0.0
    )
    for a, b in zip(plain, standard.evaluation_batches(0), strict=True):
      assert_same(a, b)


def test_evaluation_takes_at_most_the_requested_batches(open_source):
  source = open_source("validation", batch_size=2)
  everything = list(source.evaluation_batches(0))
  for count in (1, 2, len(everything), len(everything) + 5):
    found = list(source.evaluation_batches(count))
    assert len(found) == min(count, len(everything))
    for a, b in zip(found, everything, strict=False):
      assert_same(a, b)


def test_evaluation_draws_other_pauses_than_training(open_source):
  source = open_source(batch_size=64)
  evaluated = next(source.evaluation_batches(1))
  trained = source.training_batch(0)
  is_pause = [b["targets"] == BYTES.pause_id for b in (evaluated, trained)]
  correlation = np.corrcoef(is_pause[0].ravel(), is_pause[1].ravel())[0, 1]
  assert abs(correlation) < 4 / math.sqrt(is_pause[0].size)


@pytest.mark.parametrize("mode", UNIFORM)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_only_padding_follows_the_end_of_the_text(open_source, split, mode):
  source = open_source(split, batch_size=1000, pause_mode=mode)
  batch = next(source.evaluation_batches(1))
  last = len(source.store) - 1
  is_real = batch["segment_ids"] == 1
  # Real positions come first, then padding, and rows beyond the store are bare.
  assert (np.diff(batch["segment_ids"], axis=1) <= 0).all()
  assert is_real[:last].all()
  assert not is_real[last + 1 :].any()
  assert not batch["loss_mask"][~is_real].any()
  np.testing.assert_array_equal(batch["targets"][~is_real], BYTES.pad_id)
  # The last real position of the shorter segment shows its last token: EOS.
  assert batch["targets"][last, is_real[last].sum() - 1] == BYTES.eos_id


def test_a_batch_names_its_segments_on_every_host(open_source):
  source = open_source(pause_fraction=0.0)
  for step in (0, 3, 7):
    names = source.examples(step)
    assert names == open_source(host=(1, 2)).examples(step)
    task, word, *records = names.replace(",", "").split()
    assert (task, word) == ("text", "segments") and len(records) == 8
    text_BT = source.store.read([*map(int, records)], -1)
    np.testing.assert_array_equal(source.text(source.rows(step)), text_BT)


def test_batches_that_are_left_out_move_the_later_ones_forward(open_source):
  source = open_source()
  skips = batch_skips("2:3,6:6")
  batches = StepBatches(source, skips)
  numbers = [1, 4, 5, 7, 8]
  assert [skips.batch(step) for step in range(1, 6)] == numbers
  for step, number in enumerate(numbers, start=1):
    np.testing.assert_array_equal(
      next(batches)["tokens"], source.training_batch(number - 1)["tokens"]
    )
    assert batches.describe(step) == (
      f"batch {number}: {source.examples(number - 1)}"
    )
  # The position is the number of steps, as without ranges.
  assert json.loads(batches.state()["position.json"]) == {"step": 5}
  resumed = StepBatches(source, skips)
  resumed.restore({"position.json": b'{"step": 2}'})
  np.testing.assert_array_equal(
    next(resumed)["tokens"], source.training_batch(4)["tokens"]
  )
  assert skips.until(1) == () and skips.until(2) == ((2, 3),)


@pytest.mark.parametrize(
  "text", ["5", "5:4", "0:2", "1:2,2:3", "3:4,1:2", "a:b", "1:2;4:5", "1-2"]
)
def test_ranges_of_another_form_are_refused(text):
  with pytest.raises(errors.UsageError, match="skip_batches: "):
    batch_skips(text)
