"""A small store of segments and sources that read it, for several tests."""

import dataclasses
import json

import numpy as np
import pytest

from pausejax import pause
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizers
from pausejax.data.pretraining import prepare, segments
from pausejax.data.pretraining.source import SegmentSource

BYTES = tokenizers.load_tokenizer("bytes")
SEED = 17
UNIFORM = ("insert_trim", "exact")


def documents():
  """Texts of many lengths, one of them empty."""
  rng = np.random.default_rng(0)
  words = ["pause", "think", "<pause>", "东京", "\n", "\U0001f600", "</s>"]
  lengths = [0, 1, 300, *rng.integers(1, 40, 60)]
  return [" ".join(rng.choice(words, n)) for n in lengths]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
  lines = [json.dumps({"text": t}) + "\n" for t in documents()]
  path.write_text("".join(lines))
  return str(path)


@pytest.fixture(scope="module")
def data(files, data_config):
  return data_config(files=files, pause_fraction=0.25, holdout_every=4)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
  out = tmp_path_factory.mktemp("store") / "segments"
  prepare.write_segments(data, BYTES, out)
  return out


@pytest.fixture(scope="module")
def exact_folder(data, tmp_path_factory):
  out = tmp_path_factory.mktemp("store") / "exact"
  exact = dataclasses.replace(data, pause_mode="exact")
  prepare.write_segments(exact, BYTES, out)
  return out


@pytest.fixture
def open_source(data, folder, exact_folder):
  """Makes a SegmentSource with some of its fields and settings changed."""

  def make(
    split="train", batch_size=8, seed=SEED, host=(0, 1), **changes
  ) -> SegmentSource:
    changed = dataclasses.replace(data, **changes)
    exact = changed.num_text_tokens != data.num_text_tokens
    place = exact_folder if exact else folder
    return SegmentSource(
      data=changed,
      store=segments.open_segments(place, split, changed, BYTES),
      tokenizer=BYTES,
      sizes=batch_sizes(batch_size),
      seed=seed,
      host=host,
    )

  return make


def expected_ids(split):
  """All ids of a split, tokenized here: each document and EOS."""
  texts = documents()
  is_held_out = split == "validation"
  texts = [t for i, t in enumerate(texts) if (i % 4 == 0) == is_held_out]
  return [i for ids in BYTES.encode(texts) for i in (*ids, BYTES.eos_id)]


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name])


def join(parts):
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and not p.name.startswith("lock-")
  }


def assert_one_line(raised, *fragments):
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  for fragment in fragments:
    assert fragment in message


def text_of(batch):
  """The ids of each row without pauses and padding."""
  return [
    pause.remove_pauses(row[is_real == 1], BYTES.pause_id).tolist()
    for row, is_real in zip(batch["targets"], batch["segment_ids"], strict=True)
  ]
