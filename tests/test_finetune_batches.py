"""Sequences to packed batches: nothing lost, and no example affects another."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pausejax import errors, tasks
from pausejax.config import LossConfig
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.training import step
from tests import models
from tests.finetuning import (
  BYTES,
  EOS,
  LETTERS,
  PAUSE,
  encoded,
  questions,
  task,
  unpacked,
)


@pytest.fixture
def make_source(data_config):
  """Makes a FinetuneSource of some sequences."""

  def make(
    *sequences,
    rates=None,
    seq_len=32,
    tokenizer=BYTES,
    batch_size=4,
    **changes,
  ):
    fields = dict(packing=True, seed=0)
    return FinetuneSource(
      sequences,
      rates or [1.0] * len(sequences),
      data=data_config(seq_len=seq_len),
      tokenizer=tokenizer,
      sizes=batch_sizes(batch_size),
      **(fields | changes),
    )

  return make


def as_examples(sequences: TaskSequences) -> list[tuple]:
  """What `unpacked` finds, straight from the sequences."""
  found = []
  for row in sequences.rows:
    counts = np.arange(1, len(row.ids_T)) >= row.num_prompt
    ids = row.ids_T.tolist()
    found.append((tuple(ids[:-1]), tuple(ids[1:]), tuple(counts.tolist())))
  return found


def test_the_loss_is_on_target_and_eos_and_the_last_pause_predicts_first(
  make_source,
):
  example = questions(1)[0]
  sequences = encoded([example], num_pauses=3)
  batch = make_source(sequences, batch_size=1).training_batch(0)
  counted = np.flatnonzero(batch["loss_mask"][0])
  target = BYTES.encode([" " + example.target])[0]
  assert batch["targets"][0, counted].tolist() == [*target, EOS]
  assert batch["tokens"][0, counted[0] - 2 : counted[0] + 1].tolist() == (
    [PAUSE] * 3
  )
  np.testing.assert_array_equal(counted, counted[0] + np.arange(len(counted)))


def test_hints_are_the_targets_of_the_positions_before_the_last(make_source):
  example = dataclasses.replace(questions(1)[0], hints=("a", "b"))
  make = functools.partial(encoded, [example], num_pauses=3)
  hinted = make_source(make(hints=True), batch_size=1).training_batch(0)
  plain = make_source(make(hints=False), batch_size=1).training_batch(0)
  first = np.flatnonzero(plain["loss_mask"][0])[0]
  ids = [i for (i,) in BYTES.encode(example.hints)]
  assert hinted["targets"][0, first - 2 : first].tolist() == ids
  assert hinted["loss_mask"].sum() == plain["loss_mask"].sum() + 2
  for name in ("tokens", "positions", "segment_ids", "in_prefix"):
    np.testing.assert_array_equal(hinted[name], plain[name])
  changed = hinted["targets"] != plain["targets"]
  assert np.flatnonzero(changed[0]).tolist() == [first - 2, first - 1]


def test_a_batch_names_its_examples_on_every_host(make_source):
  rows = questions(30)
  source = make_source(encoded(rows))
  for number in (0, 5, 1):  # Of an earlier block, too.
    names = source.examples(number)
    half = [make_source(encoded(rows), host=(h, 2)) for h in (0, 1)]
    assert all(s.examples(number) == names for s in half)
    drawn = [d for row in source.drawn(number) for d in row]
    ids = ", ".join(f"{task().name} {rows[d.index].id}" for d in drawn)
    assert names == f"examples {ids}"


@pytest.mark.parametrize("packing", [True, False])
def test_every_epoch_holds_every_example_once(make_source, packing):
  sequences = encoded(questions(50))
  source = make_source(sequences, packing=packing, batch_size=1)
  shown, row = [], 0
  while len(shown) < 3 * 50:
    found = unpacked(source.training_batch(row))
    assert packing or len(found) == 1
    shown += found
    row += 1
  epochs = [shown[start : start + 50] for start in (0, 50, 100)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(as_examples(sequences))
  assert epochs[0] != epochs[1] != epochs[2]
  assert packing is (row < 150)


def test_packed_rows_number_their_examples_and_restart_positions(make_source):
  batch = make_source(encoded(questions(50)), batch_size=8).training_batch(0)
  for ids_T, positions_T, mask_T, prefix_T in zip(
    *(batch[n] for n in ("segment_ids", "positions", "loss_mask", "in_prefix")),
    strict=True,
  ):
    num_real = int((ids_T > 0).sum())
    starts = np.flatnonzero(np.diff(ids_T[:num_real], prepend=0))
    assert ids_T[starts].tolist() == list(range(1, len(starts) + 1))
    assert (ids_T[num_real:] == 0).all()
    lengths = np.diff([*starts, num_real])
    expected = np.concatenate([np.arange(n) for n in lengths])
    np.testing.assert_array_equal(positions_T[:num_real], expected)
    assert not (mask_T | prefix_T)[num_real:].any()
  assert batch["segment_ids"].max() > 1


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_has_every_example_once_then_padding(make_source, packing):
  sequences = encoded(questions(13))
  source = make_source(sequences, packing=packing, batch_size=5)
  batches = list(source.evaluation_batches(0))
  shown = [e for batch in batches for e in unpacked(batch)]
  assert sorted(shown) == sorted(as_examples(sequences))
  assert {b["tokens"].shape for b in batches} == {(5, 32)}
  assert len(list(source.evaluation_batches(1))) == 1


def test_evaluation_on_two_hosts_is_that_on_one(make_source):
  sequences = encoded(questions(13))
  make = functools.partial(make_source, sequences, packing=False, batch_size=4)
  hosts = [make(host=(i, 2)).evaluation_batches(0) for i in range(2)]
  for whole, a, b in zip(make().evaluation_batches(0), *hosts, strict=True):
    for name in whole:
      np.testing.assert_array_equal(
        whole[name], np.concatenate([a[name], b[name]])
      )


def test_a_batch_is_a_function_of_seed_step_and_host(make_source):
  tasks_ = encoded(questions(9)), encoded(questions(7, 1, "r"))
  make = functools.partial(make_source, *tasks_, rates=[1.0, 3.0])
  source = make()
  in_order = [source.training_batch(s) for s in range(12)]
  for s in (11, 3, 11):
    anew = make().training_batch(s)
    hosts = [make(host=(i, 2)).training_batch(s) for i in range(2)]
    for name, rows in in_order[s].items():
      np.testing.assert_array_equal(rows, anew[name])
      np.testing.assert_array_equal(rows, source.training_batch(s)[name])
      both = np.concatenate([host[name] for host in hosts])
      np.testing.assert_array_equal(rows, both)
  other = make(seed=1).training_batch(0)["tokens"]
  assert (other != in_order[0]["tokens"]).any()


def test_a_batch_that_hosts_cannot_share_is_refused(make_source):
  with pytest.raises(errors.UsageError, match="not divisible by the 3 hosts"):
    make_source(encoded(questions(2)), host=(0, 3))


def test_a_mixture_keeps_its_rates_and_each_task_its_epochs(make_source):
  sizes, rates = (40, 10), (1.0, 3.0)
  parts = [
    encoded(questions(n, name=name))
    for n, name in zip(sizes, "qr", strict=True)
  ]
  source = make_source(*parts, rates=rates, packing=False, batch_size=50)
  places = {
    e: (t, i)
    for t, part in enumerate(parts)
    for i, e in enumerate(as_examples(part))
  }
  drawn = [
    places[e] for s in range(20) for e in unpacked(source.training_batch(s))
  ]
  num_second = sum(t == 1 for t, _ in drawn)
  # Five standard deviations of a binomial.
  assert abs(num_second - 750) < 5 * np.sqrt(1000 * 0.75 * 0.25)
  for t, size in enumerate(sizes):
    shown = [i for which, i in drawn if which == t]
    for start in range(0, len(shown) - size + 1, size):
      assert sorted(shown[start : start + size]) == list(range(size))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_packing_changes_neither_the_loss_nor_the_gradients(
  make_source, attention
):
  model = models.model(segment_attention=True, prefix_attention=attention)
  sequences = encoded(questions(8), tokenizer=LETTERS)
  objective = functools.partial(
    step._summed_objective,
    loss=LossConfig(num_chunks=4, z_loss=0.0),
    pause_id=models.PAUSE_ID,
  )
  grads = jax.jit(jax.grad(objective, has_aux=True))
  outcomes = []
  for packing in (True, False):
    # As many rows either way: one shape to compile.
    source = make_source(
      sequences, packing=packing, batch_size=8, tokenizer=LETTERS
    )
    (batch,) = source.evaluation_batches(0)
    num_rows = int(batch["segment_ids"].any(axis=1).sum())
    assert num_rows < 8 if packing else num_rows == 8
    outcomes.append(grads(model, batch))
  (packed, packed_sums), (plain, plain_sums) = outcomes
  assert packed_sums["num_targets"] == plain_sums["num_targets"] > 0
  # Sums of float32 in another order.
  np.testing.assert_allclose(packed_sums["nll"], plain_sums["nll"], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_computing_the_head_on_counted_positions_changes_nothing(make_source):
  rows = [
    dataclasses.replace(q, prefix=q.prefix + "x" * 16, hints=("a", "b"))
    for q in questions(20)
  ]
  sequences = encoded(rows, seq_len=64, tokenizer=LETTERS, hints=True)
  source = make_source(sequences, seq_len=64, batch_size=4, tokenizer=LETTERS)
  batch = source.training_batch(0)
  assert batch["counted"].shape[1] < 64
  whole = {name: x for name, x in batch.items() if name != "counted"}
  objective = functools.partial(
    step._summed_objective,
    loss=LossConfig(num_chunks=4, z_loss=1e-2),
    pause_id=models.PAUSE_ID,
  )
  grads = jax.jit(jax.grad(objective, has_aux=True))
  model = models.model(segment_attention=True, max_seq_len=64)
  few, few_sums = grads(model, batch)
  all_, all_sums = grads(model, whole)
  assert few_sums.keys() == all_sums.keys() and few_sums["nll_after_pause"]
  for name, value in all_sums.items():
    np.testing.assert_allclose(few_sums[name], value, rtol=1e-6)
  # Sums of float32 in another order.
  for a, b in zip(jax.tree.leaves(few), jax.tree.leaves(all_), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * abs(b).max())


@pytest.mark.parametrize("packing", [True, False])
def test_a_row_is_full_at_its_limit_of_targets(make_source, packing):
  rng = np.random.default_rng(0)
  lengths = [20, *rng.integers(1, 4, 200)]
  rows = [
    tasks.Example(id=str(n), prefix="q" * 9, target="y" * n) for n in lengths
  ]
  sequences = encoded(rows, seq_len=128, num_pauses=0)
  source = make_source(
    sequences, seq_len=128, packing=packing, batch_size=len(rows)
  )
  (batch,) = source.evaluation_batches(0)
  mask_BT, counted_BK = batch["loss_mask"], batch["counted"]
  # Room for the largest example, a blank, y 20 times, EOS, or an average row.
  assert counted_BK.shape[1] == (64 if packing else 32)
  assert (np.diff(np.sort(counted_BK)) > 0).all()
  seen_BK = np.take_along_axis(mask_BT, counted_BK, axis=1)
  assert seen_BK.sum() == mask_BT.sum() == sum(lengths) + 2 * len(rows)


@pytest.mark.parametrize("position", ["append", "prepend"])
@pytest.mark.parametrize("pauses_too", [True, False])
def test_a_bidirectional_prefix_is_the_prompt_with_or_without_its_pauses(
  make_source, position, pauses_too
):
  sequences = encoded(
    questions(1), pause_position=position, pauses_in_prefix=pauses_too
  )
  batch = make_source(sequences, batch_size=1).training_batch(0)
  n = sequences.rows[0].num_prompt
  inside = batch["tokens"][0, :n] != PAUSE
  expected = np.ones(n, bool) if pauses_too else inside
  np.testing.assert_array_equal(batch["in_prefix"][0, :n], expected)
  assert not batch["in_prefix"][0, n:].any()
