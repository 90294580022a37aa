"""Finetuning with a number of pauses that is drawn for each example."""

import collections
import json

import numpy as np
import pytest

from pausejax import errors, prompt_pauses
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data.finetuning import examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inspection import checks, sequences
from tests.finetuning import BYTES, PAUSE, config, questions, task, unpacked

NUM_EXAMPLES = 40
NUMBERS = (0, 2, 5)


def encoded(numbers="0,2,5", rows=None, seq_len=48, **changes) -> TaskSequences:
  """The sequences of a training split, as `data.pipeline` makes them."""
  task_ = task()
  settings = config(train_num_pauses=numbers, **changes)
  return TaskSequences(
    examples.Examples("train", rows or questions(NUM_EXAMPLES), {}, "digest"),
    prompts.Format(task_, BYTES, settings.trained_pauses(task_.num_pauses)),
    settings,
    seq_len,
    settings.train_numbers,
  )


@pytest.fixture
def make_source(data_config):
  def make(*made, seq_len=48, batch_size=4, **changes):
    fields = dict(packing=True, seed=0) | changes
    return FinetuneSource(
      made,
      [1.0] * len(made),
      data=data_config(seq_len=seq_len),
      tokenizer=BYTES,
      sizes=batch_sizes(batch_size),
      **fields,
    )

  return make


def shown(source, count) -> list[tuple]:
  """The first examples of a source: (tokens, targets, counts)."""
  found, step = [], 0
  while len(found) < count:
    found += unpacked(source.training_batch(step))
    step += 1
  return found[:count]


def num_pauses(example: tuple) -> int:
  return example[0].count(PAUSE)


def without_pauses(example: tuple) -> tuple:
  return tuple(i for i in example[0] if i != PAUSE)


@pytest.mark.parametrize("packing", [True, False])
def test_every_epoch_has_every_example_with_numbers_of_its_own(
  make_source, packing
):
  source = make_source(encoded(), packing=packing, batch_size=1)
  n = NUM_EXAMPLES
  examples_ = shown(source, 3 * n)
  epochs = [examples_[start : start + n] for start in (0, n, 2 * n)]
  texts = [sorted(map(without_pauses, epoch)) for epoch in epochs]
  standard = encoded("0").rows
  assert texts[0] == sorted(tuple(row.ids_T[:-1].tolist()) for row in standard)
  assert texts[0] == texts[1] == texts[2]
  numbers = [{without_pauses(e): num_pauses(e) for e in ep} for ep in epochs]
  assert numbers[0] != numbers[1] != numbers[2]


def test_an_example_is_the_one_of_a_run_with_its_number(make_source):
  fixed = {}
  for m in NUMBERS:
    source = make_source(encoded("", num_pauses=m), packing=False)
    fixed[m] = set(shown(source, NUM_EXAMPLES))
  drawn = shown(make_source(encoded()), 2 * NUM_EXAMPLES)
  for example in drawn:
    assert example in fixed[num_pauses(example)]
  assert {num_pauses(example) for example in drawn} == {*NUMBERS}


def test_numbers_are_equally_likely_and_independent_of_the_example():
  draws = np.arange(30_000)
  drawn = prompt_pauses.draw_num_pauses(NUMBERS, seed=3, draws_N=draws)
  counts = collections.Counter(drawn.tolist())
  assert counts.keys() == {*NUMBERS}
  # Four standard deviations of a binomial count.
  bound = 4 * np.sqrt(len(draws) * (1 / 3) * (2 / 3))
  assert all(abs(n - len(draws) / 3) <= bound for n in counts.values())
  repeated = np.mean(drawn[1:] == drawn[:-1])
  assert abs(repeated - 1 / 3) <= bound / len(draws)
  other = prompt_pauses.draw_num_pauses(NUMBERS, seed=4, draws_N=draws)
  assert abs(np.mean(drawn == other) - 1 / 3) <= bound / len(draws)


def test_a_batch_is_a_function_of_seed_step_and_host(make_source):
  make = lambda **changes: make_source(encoded(), **changes)
  before = make().training_batch(7)
  for name, rows in before.items():
    hosts = [make(host=(i, 2)).training_batch(7)[name] for i in range(2)]
    np.testing.assert_array_equal(rows, np.concatenate(hosts))
  assert (make(seed=1).training_batch(7)["tokens"] != before["tokens"]).any()


def test_a_truncated_prefix_is_the_same_with_every_number():
  rows = encoded("0-6", rows=questions(30), seq_len=18)
  assert rows.prompts.num_cut > 0
  for i in range(30):
    texts = {
      tuple(t for t in rows.row(i, m).ids_T.tolist() if t != PAUSE)
      for m in range(7)
    }
    assert len(texts) == 1
    for m in range(7):
      assert rows.row(i, m).num_positions == rows.num_positions(i, m) <= 18


@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
@pytest.mark.parametrize("filler", ["", ".", "<question>"])
def test_batches_pass_every_check_and_a_wrong_number_does_not(
  make_source, position, filler
):
  made = encoded(pause_position=position, filler=filler)
  source = make_source(made)
  drawn = source.drawn(0)
  rules = sequences.FinetuningRules(
    seq_len=48, tokenizer=BYTES, sequences=made, drawn=drawn
  )
  batch = source.training_batch(0)
  bad = lambda rules: {
    c.name for c in checks.check_batch(batch, rules) if not c.is_ok
  }
  assert bad(rules) == set()
  shifted = [row[1:] + row[:1] for row in drawn]
  wrong = sequences.FinetuningRules(
    seq_len=48, tokenizer=BYTES, sequences=made, drawn=shifted
  )
  assert any("pauses" in name for name in bad(wrong))


def test_a_run_cannot_resume_with_other_numbers(make_source):
  prints = [make_source(encoded(n)).fingerprint() for n in ("0-5", "0,5", "5")]
  assert prints[0] != prints[1] != prints[2] != prints[0]
  assert prints[2] == make_source(encoded("", num_pauses=5)).fingerprint()
  assert json.loads(json.dumps(prints)) == prints  # As checkpoints keep it.


@pytest.mark.parametrize(
  ("text", "numbers"),
  [
    ("", ()),
    ("3", (3,)),
    ("0-3", (0, 1, 2, 3)),
    ("10, 0, 2-3,2", (0, 2, 3, 10)),
  ],
)
def test_numbers_and_ranges_are_read(text, numbers):
  assert config(train_num_pauses=text).train_numbers == numbers


@pytest.mark.parametrize("text", ["-1", "3-1", "a", "1.5", "0..4", "0-", "²"])
def test_what_is_no_number_is_refused(text):
  with pytest.raises(errors.UsageError, match="is not a number or a range"):
    config(train_num_pauses=text)


def test_answers_are_read_with_num_pauses():
  given = config(train_num_pauses="0-8", num_pauses=3)
  assert given.pauses(50).num_pauses == 3
  assert given.trained_pauses(50).num_pauses == 8
  assert config(train_num_pauses="0-8").pauses(50).num_pauses == 8
