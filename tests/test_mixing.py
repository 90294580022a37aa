"""Mixtures by rate: exact counts, no state, any number of hosts."""

import json

import numpy as np
import pytest

from pausejax import errors
from pausejax.config.batch_sizes import batch_sizes
from pausejax.config.mixtures import Stage
from pausejax.data import pipeline
from pausejax.data.pretraining import mixing, prepare, segments
from pausejax.data.pretraining.source import (
  MixedSource,
  SegmentSource,
  StepBatches,
)
from tests.finetuning import config
from tests.segment_stores import BYTES, assert_same, join, text_of

K = mixing.BLOCK
RATES = [
  {"a": 1},
  {"a": 3, "b": 1},
  {"a": 0.7, "b": 0.2, "c": 0.1},
  {"a": 1, "b": 1, "c": 1022},
  {"c": 2, "a": np.pi},
]


def deal_all(mixture, num_positions):
  return mixture.assign(np.arange(num_positions))


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("seed", [0, -5])
def test_rates_are_followed_exactly_at_the_end_of_every_block(rates, seed):
  mixture = mixing.Mixture(
    "abc", [Stage(0, rates)], first_row=lambda s: 8 * s, seed=seed
  )
  corpora, draws = deal_all(mixture, 40 * K)
  for number, name in enumerate("abc"):
    # Each corpus is drawn from its first draw on, none skipped or repeated.
    mine = draws[corpora == number]
    assert sorted(mine) == list(range(len(mine)))
    share = rates.get(name, 0) / sum(rates.values())
    ends = np.arange(1, 41) * K
    counts = np.cumsum(corpora == number)[ends - 1]
    assert np.abs(counts - ends * share).max() < 1 + 1e-6


@pytest.mark.parametrize("num_later", [1, 2])
def test_rates_change_at_their_step_and_draws_continue(num_later):
  batch_size = 24
  rates = (RATES[1], {"b": 1, "c": 1}, {"a": 1, "c": 5})
  stages = [*map(Stage, (0, 97, 200), rates)][: num_later + 1]
  mixture = mixing.Mixture("abc", stages, first_row=batch_size.__mul__, seed=3)
  corpora, draws = deal_all(mixture, 400 * batch_size)
  for number in range(3):
    mine = draws[corpora == number]
    assert sorted(mine) == list(range(len(mine)))
  ends = [*(stage.first_step for stage in stages[1:]), 400]
  for stage, end in zip(stages, ends, strict=True):
    part = corpora[stage.first_step * batch_size : end * batch_size]
    for number, name in enumerate("abc"):
      share = stage.rates.get(name, 0) / sum(stage.rates.values())
      # A block that is cut off by the next stage is a random part of it.
      assert abs((part == number).mean() - share) < 0.06
      assert share or not (part == number).any()
  # What comes later does not change what was before.
  before, _ = deal_all(
    mixing.Mixture("abc", stages[:1], first_row=batch_size.__mul__, seed=3),
    97 * 24,
  )
  np.testing.assert_array_equal(before, corpora[: 97 * 24])


def test_any_position_is_computed_directly_and_in_any_order():
  stages = [Stage(0, RATES[2]), Stage(1000, RATES[1])]
  make = lambda: mixing.Mixture(
    "abc", stages, first_row=lambda s: 64 * s, seed=9
  )
  whole = np.stack(deal_all(make(), 2000 * 64))
  rng = np.random.default_rng(0)
  for _ in range(20):
    some = rng.integers(0, whole.shape[1], 50)
    np.testing.assert_array_equal(np.stack(make().assign(some)), whole[:, some])
  corpora, draws = make().assign(np.array([10**14]))
  assert 0 <= draws[0] < 10**14 and corpora[0] in (0, 1)


def test_seeds_mix_in_other_orders():
  make = lambda seed: mixing.Mixture(
    "ab", [Stage(0, {"a": 1, "b": 1})], first_row=lambda s: s, seed=seed
  )
  a, b = (deal_all(make(seed), 4 * K)[0] for seed in (0, 1))
  assert abs((a == b).mean() - 0.5) < 0.1
  assert (a[:K] != a[K : 2 * K]).any()


def test_a_rate_too_small_for_a_block_is_an_error():
  with pytest.raises(errors.UsageError, match="at least one in 1,024"):
    mixing.Mixture(
      "ab", [Stage(0, {"a": 1, "b": 1024})], first_row=lambda s: s, seed=0
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory, data_config):
  """Two stores of different sizes, under the tasks text and c4."""
  root = tmp_path_factory.mktemp("mixed")
  rng = np.random.default_rng(0)
  for name, letters, count in (("text", "tuvw", 40), ("c4", "abcd", 150)):
    texts = ["".join(rng.choice(list(letters), 80)) for _ in range(count)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (root / f"{name}.jsonl").write_text("".join(lines))
    data = data_config(task=name, files=str(root / f"{name}.jsonl"))
    prepare.write_segments(data, BYTES, root / name)
  return f"text={root / 'text'},c4={root / 'c4'}"


@pytest.fixture
def open_source(stores, data_config):
  def make(host=(0, 1), batch_size=16, **changes):
    fields = {"task": "text=1,c4=3", "later_rates": "40:c4=1;70:text=1,c4=1"}
    data = data_config(segments_dir=stores, **{**fields, **changes})
    sources = {
      name: SegmentSource(
        data=data,
        store=segments.open_segments(
          folder, "train", data.of_task(name), BYTES
        ),
        tokenizer=BYTES,
        sizes=batch_sizes(batch_size),
        seed=7,
        host=host,
      )
      for name, folder in data.stores.items()
    }
    return MixedSource(sources=sources, stages=data.stages)

  return make


@pytest.mark.slow
def test_a_run_whose_host_count_changes_twice_sees_the_same(open_source):
  alone = open_source()
  expected = [alone.training_batch(step) for step in range(100)]
  for counts in ((1, 2, 8), (4, 1, 2), (8, 4, 1)):
    for count, steps in zip(
      counts, ((0, 33), (33, 71), (71, 100)), strict=True
    ):
      hosts = [open_source(host=(i, count)) for i in range(count)]
      for step in range(*steps):
        parts = [host.training_batch(step) for host in hosts]
        assert_same(join(parts), expected[step])


def test_resuming_in_a_mixture_is_instant_and_exact(open_source):
  stream = StepBatches(open_source())
  for _ in range(45):
    next(stream)
  state = stream.state()
  again = StepBatches(open_source())
  again.restore(state)
  for _ in range(40):
    assert_same(next(stream), next(again))


def test_each_store_has_its_own_epochs(open_source):
  source = open_source(pause_fraction=0.0, later_rates="")
  text, c4 = (len(s.store) for s in source.sources.values())
  rows = [r for step in range(60) for r in text_of(source.training_batch(step))]
  shown = {name: [] for name in source.sources}
  for row in rows:
    is_c4 = min(i for i in row if i != BYTES.eos_id) < ord("e") + 3
    shown["c4" if is_c4 else "text"].append(tuple(row))
  for name, size in (("text", text), ("c4", c4)):
    epoch = shown[name][:size]
    assert len(epoch) == size == len(set(epoch))


def test_a_pause_run_sees_the_documents_of_the_standard_run(open_source):
  plain, paused = open_source(pause_fraction=0.0), open_source()
  for step in (0, 39, 40, 75):
    batch = plain.training_batch(step), paused.training_batch(step)
    for whole, shown in zip(*map(text_of, batch), strict=True):
      assert shown == whole[: len(shown)]


def test_the_fingerprint_names_the_mixture_and_survives_json(open_source):
  found = open_source().fingerprint()
  assert json.loads(json.dumps(found)) == found
  for changes in ({"task": "text=1,c4=2"}, {"later_rates": "40:c4=1"}):
    assert open_source(**changes).fingerprint() != found


@pytest.mark.parametrize(
  ("changes", "fragments"),
  [
    ({"segments_dir": "x"}, ["text=FOLDER,c4=FOLDER", "got 'x'"]),
    ({"segments_dir": "text=x"}, ["text=FOLDER,c4=FOLDER"]),
    ({"pipeline": "seqio"}, ["data.pipeline", "data.pipeline=segments"]),
    ({"task": "text=1,squad=1"}, ["mixes pretraining and downstream"]),
    ({"later_rates": "0:c4=1"}, ["data.later_rates", "STEP:RATES"]),
    ({"later_rates": "50:c4=1;50:text=1"}, ["a step above 50"]),
    ({"later_rates": "50"}, ["STEP:RATES"]),
    ({"later_rates": "50:c4=0"}, ["positive rate"]),
    ({"later_rates": "50:c5=1"}, ["'c5'", "did you mean"]),
    ({"later_rates": "50:squad=1"}, ["'squad' is a downstream task"]),
    ({"task": "squad", "later_rates": "5:squad=1"}, ["pretraining tasks only"]),
  ],
)
def test_an_impossible_mixture_is_an_error(
  stores, data_config, changes, fragments
):
  fields = {"task": "text=1,c4=3", "segments_dir": stores}
  with pytest.raises(errors.UsageError) as raised:
    pipeline.check_data(data_config(**{**fields, **changes}), config())
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  assert all(fragment in message for fragment in fragments), message
