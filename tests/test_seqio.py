"""The SeqIO room against the plain-Python floors it mirrors.

Real C4 joins in when PAUSEJAX_REAL_DATA names a folder that holds `tfds` and
`tokenizers`.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax import errors, pause  # noqa: E402
from pausejax.config import DataConfig, default  # noqa: E402
from pausejax.data import opening, tokenizer_training, tokenizers  # noqa: E402
from pausejax.data.batch import language_model_batch  # noqa: E402
from pausejax.data.seqio import (  # noqa: E402
  pauses,
  preprocessors,
  pretraining,
  sources,
  stream,
  vocabulary,
)
from pausejax.tasks import (  # noqa: E402
  PretrainingTask,
  corpora,
  text,
)

REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")
TASK = PretrainingTask("seqio_test", text.source)
UNIFORM = ("insert_trim", "exact")
TEXTS = (
  "Think before you speak: <pause> is text here, </s> and <extra_id_0> too.",
  "Ünïcödé, 日本語, emoji \U0001f600 and\ttabs\n\n  spaces  ",
  "",
  "a NUL at the end \x00",
  *(
    f"Document {i}: " + "the cat sat on the mat. " * (i % 7) for i in range(40)
  ),
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> str:
  path = tmp_path_factory.mktemp("tokenizer") / "bpe.model"
  path.write_bytes(tokenizer_training.train_tokenizer(TEXTS, vocab_size=330))
  return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
  """Files of every kind: 3 .txt, one .jsonl, one .json.gz."""
  root = tmp_path_factory.mktemp("corpus")
  for name, document in zip("abc", TEXTS, strict=False):
    (root / f"{name}.txt").write_text(document)
  texts = [text.replace("\x00", "") for text in TEXTS[3:]]
  lines = [json.dumps({"text": t, "url": "u"}) for t in texts]
  (root / "b1.jsonl").write_text("\n".join(lines[:20]) + "\n")
  compressed = [gzip.compress(f"{line}\n".encode()) for line in lines[20:]]
  (root / "b2.json.gz").write_bytes(b"".join(compressed))
  return str(root)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory) -> str:
  """A prepared data set "tiny:1.0.0" of 2 splits."""
  root = str(tmp_path_factory.mktemp("tfds"))
  rows = [(i, {"text": t, "label": i}) for i, t in enumerate(TEXTS)]
  tfds.dataset_builders.store_as_tfds_dataset(
    name="tiny",
    version="1.0.0",
    data_dir=root,
    features=tfds.features.FeaturesDict(
      {"text": tfds.features.Text(), "label": np.int64}
    ),
    split_datasets={"train": rows, "validation": rows[:5]},
  )
  return root


def data_config(**changes) -> DataConfig:
  small = {
    "task": "text",
    "pipeline": "seqio",
    "tokenizer": "bytes",
    "seq_len": 32,
    "pause_fraction": 0.25,
    "pause_mode": "insert_trim",
    "files": "",
    "holdout_every": 5,
    "shuffle_buffer": 50,
  }
  tree = default().data.to_dict()
  return DataConfig(**{**tree, **small, **changes})


def open_stream(data, *, task=TASK, **changes) -> stream.SeqioBatches:
  return stream.SeqioBatches(
    data, task, **{"batch_size": 4, "seed": 7, **changes}
  )


def python_task(texts) -> PretrainingTask:
  return PretrainingTask(
    "seqio_python",
    lambda data: corpora.PythonSource(
      name="python", load=lambda: list(texts), holdout_every=data.holdout_every
    ),
  )


def tfds_source(tfds_dir, **changes) -> corpora.TfdsSource:
  known = {"name": "tiny:1.0.0", "data_dir": tfds_dir, "field": "text"}
  return corpora.TfdsSource(**{**known, **changes})


def file_source(files, **changes) -> corpora.FileSource:
  known = {"validation": "", "field": "text", "holdout_every": 5}
  return corpora.FileSource(train=files, **{**known, **changes})


def read(source, split, **options) -> list[str]:
  dataset = sources.data_source(source).get_dataset(
    split, shuffle=False, **options
  )
  return [e["text"].decode() for e in dataset.as_numpy_iterator()]


def all_ids(source, spec, split="train") -> np.ndarray:
  tokenizer = tokenizers.load_tokenizer(spec)
  ids = tokenizer.encode(list(source.documents(split)))
  return np.concatenate([[*i, tokenizer.eos_id] for i in ids])


def text_rows(batch, data) -> list[tuple[int, ...]]:
  """The rows without pauses and padding."""
  pause_id = tokenizers.load_tokenizer(data.tokenizer).pause_id
  rows = zip(batch["targets"], batch["segment_ids"], strict=True)
  return [tuple(pause.remove_pauses(t[s == 1], pause_id)) for t, s in rows]


def paused(text_BT, **kwargs) -> np.ndarray:
  """`PauseSpec.insert`; pauses after a text that ends are padding."""
  how = {name: x for name, x in kwargs.items() if name != "pauses"}
  paused_BT = kwargs["pauses"].insert(text_BT, **how)
  for row, text_T in zip(paused_BT, text_BT, strict=True):
    shown = np.flatnonzero((row != -1) & (row != kwargs["pause_id"]))
    if -1 in text_T and len(shown) == (text_T != -1).sum():
      row[(shown[-1] + 1 if len(shown) else 0) :] = -1
  return paused_BT


def digest(batch) -> str:
  parts = b"".join(batch[name].tobytes() for name in sorted(batch))
  return hashlib.sha256(parts).hexdigest()


def message(function, *args, **kwargs) -> str:
  """What the one-line UserError that it must raise says."""
  with pytest.raises(errors.UserError) as caught:
    function(*args, **kwargs)
  said = str(caught.value)
  assert said and "\n" not in said
  return said


# Pauses.


@pytest.mark.parametrize("mode", UNIFORM)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_pauses_equal_numpy_bit_for_bit(mode, fraction):
  seq_len = 40
  positions = np.array([0, 1, 2, 77, 2**40, 2**62, -1], np.int64)
  spec = pause.PauseSpec(fraction=fraction, mode=mode)
  num_text = spec.num_text_tokens(seq_len)
  tokens = np.arange(7 * num_text, dtype=np.int32).reshape(7, -1)
  for seed in (0, 1, -1, -(2**63), 2**63 + 5, 2**64 - 1, 2**70 + 3, 123456789):
    kwargs = {
      "seq_len": seq_len,
      "pause_id": 10**6,
      "seed": seed,
      "positions_B": positions,
    }
    expected = spec.insert(tokens, **kwargs)
    got = pauses.insert_pauses_tf(tf.constant(tokens), pauses=spec, **kwargs)
    assert got.dtype == tf.int32
    np.testing.assert_array_equal(got.numpy(), expected)


def test_masks_equal_numpy_for_unsigned_and_traced_positions():
  positions = np.array([0, 2**63, 2**64 - 1], np.uint64)
  spec = pause.PauseSpec(fraction=0.1)
  expected = spec.mask(3, positions, 2048)
  got = pauses.mask(spec, 3, positions, 2048)
  np.testing.assert_array_equal(got.numpy(), expected)
  exact = dataclasses.replace(spec, mode="exact")
  mask = tf.function(lambda p: pauses.mask(exact, 3, p, 64))
  for dtype in (np.int32, np.int64):
    positions = np.arange(50, dtype=dtype)
    expected = exact.mask(3, positions, 64)
    np.testing.assert_array_equal(mask(positions).numpy(), expected)


def test_pauses_refuse_what_numpy_refuses():
  kwargs = {
    "seq_len": 8,
    "pause_id": 9,
    "seed": 0,
    "positions_B": np.arange(2),
  }
  for tokens, mode in (
    (np.zeros((2, 8), np.int32), "exact"),
    (np.zeros((2, 6), np.int32), "insert_trim"),
  ):
    spec = pause.PauseSpec(fraction=0.25, mode=mode)
    expected = message(spec.insert, tokens, **kwargs)
    got = message(
      pauses.insert_pauses_tf, tf.constant(tokens), pauses=spec, **kwargs
    )
    assert got == expected


# Vocabulary.


@pytest.fixture(params=["bytes", "bpe"])
def spec(request, bpe) -> str:
  return bpe if request.param == "bpe" else "bytes"


def test_vocabulary_is_the_tokenizer_id_for_id(spec):
  twin, tokenizer = vocabulary.vocabulary(spec), tokenizers.load_tokenizer(spec)
  assert twin.vocab_size == tokenizer.vocab_size
  for name in ("pause_id", "eos_id", "pad_id"):
    assert getattr(twin, name) == getattr(tokenizer, name)
  for ids, document in zip(tokenizer.encode(TEXTS), TEXTS, strict=True):
    assert list(twin.encode(document)) == ids
    assert twin.encode_tf(tf.constant(document)).numpy().tolist() == ids


def test_no_text_becomes_a_pause(spec):
  twin = vocabulary.vocabulary(spec)
  for document in ("<pause>", " <pause> ", "a<pause>b", "<extra_id_0>"):
    assert twin.pause_id not in twin.encode(document)
    assert twin.pause_id not in twin.encode_tf(tf.constant(document)).numpy()


def test_decoding_drops_pauses(spec):
  twin = vocabulary.vocabulary(spec)
  document = "Think, then speak."
  ids = list(twin.encode(document))
  paused = [twin.pause_id, *ids[:3], twin.pause_id, *ids[3:], twin.pause_id]
  assert twin.decode(paused) == twin.decode(np.array(paused)) == document
  assert twin.decode_tf(tf.constant(paused)).numpy().decode() == document
  rows = [paused, [twin.pause_id] * len(paused)]
  decoded = tf.function(twin.decode_tf)(tf.constant(rows)).numpy()
  assert [d.decode() for d in decoded] == [document, ""]
  assert twin.decode([*ids, twin.eos_id, twin.pause_id, *ids]).startswith(
    document
  )


def test_vocabularies_are_equal_when_their_bases_are(bpe):
  same = [vocabulary.vocabulary(bpe), vocabulary.vocabulary(bpe)]
  assert same[0] == same[1] and len(set(same)) == 1
  assert same[0] != vocabulary.vocabulary("bytes")
  assert same[0] != same[0].base


def test_vocabulary_errors_are_one_line(tmp_path):
  assert message(vocabulary.vocabulary, "tokenizer.json") == (
    "data.tokenizer: a tokenizer.json has no TensorFlow version; use "
    "data.pipeline=segments"
  )
  assert "no file" in message(vocabulary.vocabulary, "missing.model")
  base = seqio.ByteVocabulary(extra_ids=1)
  assert "extra_ids" in message(vocabulary.PauseVocabulary, base)


# Sources.


@pytest.mark.parametrize("split", corpora.SPLITS)
def test_documents_of_files_are_those_of_the_source(folder, split):
  for source in (
    file_source(folder),
    file_source(f"{folder}/b*"),
    file_source(f"{folder}/*.txt", holdout_every=2),
    file_source(f"{folder}/*.txt", validation=f"{folder}/b1.jsonl"),
  ):
    expected = list(source.documents(split))
    assert expected and read(source, split) == expected


def test_shuffled_files_hold_the_same_documents(folder, monkeypatch):
  monkeypatch.setattr(corpora, "_UNIT_BYTES", 1)
  dataset = sources.data_source(file_source(folder)).get_dataset(
    "train", shuffle=True, seed=5
  )
  got = [e["text"].decode() for e in dataset.as_numpy_iterator()]
  expected = list(file_source(folder).documents("train"))
  assert got != expected and sorted(got) == sorted(expected)


def messy_corpus(root, seed) -> list[str]:
  """Writes files of all kinds with all that is no text; returns the text."""
  rng, expected = np.random.default_rng(seed), []
  words = ["word", "\u2028", "\u0085", "<pause>", "\r", "東京", "\ufeff", "\t"]
  for number in range(rng.integers(4, 12)):
    suffix = rng.choice([".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz"])
    mark, end = rng.choice(["", "\ufeff"]), rng.choice(["\n", "\r\n"])
    texts = [
      "x" + " ".join(rng.choice(words, rng.integers(1, 9))) + "\nend"
      for _ in range(1 if "txt" in suffix else rng.integers(1, 90))
    ]
    lines = [json.dumps({"text": text}) for text in texts]
    for _ in range(0 if "txt" in suffix else rng.integers(0, 5)):
      lines.insert(rng.integers(0, len(lines) + 1), rng.choice(["", " \t "]))
    whole = texts[0].replace("\n", end) if "txt" in suffix else end.join(lines)
    expected += texts
    content = (mark + whole).encode()
    (root / f"{number:02d}{suffix}").write_bytes(
      gzip.compress(content) if "gz" in suffix else content
    )
  for name in ("README.txt", "LICENSE.txt", "a.jsonl.zst"):
    (root / name).write_text("no document")
  (root / "empty.txt").touch()
  (root / "link.jsonl").symlink_to(next(root.glob("0*")))
  return expected


@pytest.mark.parametrize("seed", range(6))
def test_both_pipelines_read_the_same_text_and_hold_out_the_same(
  tmp_path, monkeypatch, seed
):
  monkeypatch.setattr(sources, "_BLOCK", 7)
  monkeypatch.setattr(corpora, "_UNIT_BYTES", (1, 500, 2**24)[seed % 3])
  texts = messy_corpus(tmp_path, seed)
  source = file_source(str(tmp_path), holdout_every=4)
  for split, expected in (
    ("train", [t for i, t in enumerate(texts) if i % 4]),
    ("validation", texts[::4]),
  ):
    assert list(source.documents(split)) == expected
    assert read(source, split) == expected
    shuffled = sources.data_source(source).get_dataset(
      split, shuffle=True, seed=3
    )
    found = [e["text"].decode() for e in shuffled.as_numpy_iterator()]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
def test_a_restored_stream_continues_at_the_same_document(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(sources, "_BLOCK", 7)
  monkeypatch.setattr(corpora, "_UNIT_BYTES", 500)
  messy_corpus(tmp_path, 1)
  data = data_config(files=str(tmp_path), holdout_every=4, shuffle_buffer=3)
  straight = open_stream(data)
  batches = [digest(next(straight)) for _ in range(120)]
  for place in (1, 40, 100):
    first = open_stream(data)
    for _ in range(place):
      next(first)
    again = open_stream(data)
    again.restore(first.state())
    assert [digest(next(again)) for _ in range(20)] == (
      batches[place : place + 20]
    )


@pytest.mark.parametrize("split", corpora.SPLITS)
def test_documents_made_in_python_are_those_of_the_source(split):
  for texts in (TEXTS, [], ["only one"]):
    source = python_task(texts).source(data_config())
    assert read(source, split) == list(source.documents(split))


@pytest.mark.parametrize("split", corpora.SPLITS)
def test_documents_of_tfds_are_those_of_the_source(tfds_dir, split):
  documents = list(opening.documents(tfds_source(tfds_dir), split))
  assert sorted(documents) == sorted(TEXTS if split == "train" else TEXTS[:5])
  # The stream goes through several files in turns.
  assert sorted(read(tfds_source(tfds_dir), split)) == sorted(documents)


def test_the_identity_of_a_document_depends_on_its_text_only(folder, tmp_path):
  moved = tmp_path / "moved"
  moved.mkdir()
  for path in pathlib.Path(folder).iterdir():
    (moved / path.name).write_bytes(path.read_bytes())
  before = sources.corpus_identity(file_source(folder), "train")
  assert sources.corpus_identity(file_source(str(moved)), "train") == before
  (moved / "b1.jsonl").write_text('{"text": "other"}\n')
  assert sources.corpus_identity(file_source(str(moved)), "train") != before
  made = [python_task(t).source(data_config()) for t in (TEXTS, TEXTS[:-1])]
  assert sources.corpus_identity(made[0], "train") != sources.corpus_identity(
    made[1], "train"
  )


# Segments and pauses as SeqIO tasks.


@pytest.mark.parametrize("seq_len", [5, 32, 100_000])
def test_segments_lose_no_token(folder, spec, seq_len):
  data = data_config(files=folder, tokenizer=spec)
  task = pretraining.segments_task(TASK, data, vocabulary.vocabulary(spec))
  dataset = task.get_dataset({"targets": seq_len}, shuffle=False)
  segments = list(dataset.as_numpy_iterator())
  expected = all_ids(file_source(folder), spec)
  assert len(segments) == -(-len(expected) // seq_len)
  assert {s["targets"].shape for s in segments} == {(seq_len,)}
  got = np.concatenate([s["targets"][s["is_text"]] for s in segments])
  np.testing.assert_array_equal(got, expected)
  for segment in segments[:-1]:
    assert segment["is_text"].all()
  assert not segments[-1]["targets"][~segments[-1]["is_text"]].any()


def test_a_full_last_segment_gets_no_padding():
  texts = ["x", "held in", "abc", "abcdefghijk"]  # 7+1 + 3+1 + 11+1 = 24.
  data = data_config(holdout_every=4)
  task = pretraining.segments_task(
    python_task(texts), data, vocabulary.vocabulary("bytes")
  )
  segments = list(task.get_dataset({"targets": 8}).as_numpy_iterator())
  assert len(segments) == 3
  assert all(s["is_text"].all() for s in segments)


@pytest.mark.parametrize("mode", UNIFORM)
def test_registered_tasks_insert_the_pauses_of_numpy(folder, mode):
  data = data_config(files=folder, pause_mode=mode)
  twin = vocabulary.vocabulary("bytes")
  for _ in range(2):  # A second time replaces the first.
    names = pretraining.register_pretraining(
      TASK, data, twin, seed=11, shard=(1, 3)
    )
  assert names == ("seqio_test", "seqio_test_pause")
  plain, with_pauses = (
    list(
      seqio.get_mixture_or_task(name)
      .get_dataset({"targets": length}, shuffle=False)
      .as_numpy_iterator()
    )
    for name, length in zip(names, (data.num_text_tokens, 32), strict=True)
  )
  tokens = np.stack([np.where(s["is_text"], s["targets"], -1) for s in plain])
  expected = paused(
    tokens,
    seq_len=32,
    pause_id=twin.pause_id,
    pauses=data.pauses,
    seed=11,
    positions_B=np.arange(len(plain)) * 3 + 1,
  )
  targets = np.stack([s["targets"] for s in with_pauses])
  np.testing.assert_array_equal(targets, np.maximum(expected, 0))
  is_text = (expected != -1) & (expected != twin.pause_id)
  np.testing.assert_array_equal([s["is_text"] for s in with_pauses], is_text)
  assert (expected[-1] == -1).any() and (expected == twin.pause_id).any()


def test_no_pause_follows_the_last_token_of_a_text():
  text_BT = np.arange(1, 6 * 32 + 1, dtype=np.int32).reshape(6, 32)
  for row, length in enumerate((0, 1, 5, 20, 31, 32)):
    text_BT[row, length:] = -1
  kwargs = {
    "seq_len": 32,
    "pause_id": 999,
    "pauses": pause.PauseSpec(fraction=0.3),
    "seed": 4,
    "positions_B": np.arange(6),
  }
  got = preprocessors.pauses_into_text(tf.constant(text_BT), **kwargs).numpy()
  np.testing.assert_array_equal(got, paused(text_BT, **kwargs))
  assert (got[0] == -1).all() and (got[-1] != -1).all()
  assert (got[3] == 999).any() and got[3, -1] == -1


def test_tasks_without_a_length_are_one_line_errors(folder):
  task = pretraining.segments_task(
    TASK, data_config(files=folder), vocabulary.vocabulary("bytes")
  )
  assert "sequence_length" in message(task.get_dataset)


# The stream.


@pytest.mark.parametrize("mode", UNIFORM)
def test_batches_are_those_of_numpy(folder, mode):
  data = data_config(files=folder, pause_mode=mode, shuffle_buffer=1)
  task = pretraining.segments_task(TASK, data, vocabulary.vocabulary("bytes"))
  dataset = task.get_dataset({"targets": data.num_text_tokens}, shuffle=False)
  rows = [preprocessors.with_padding(s).numpy() for s in dataset]
  rows = np.stack(rows * 2)  # Two epochs.
  batches = open_stream(data, batch_size=6)
  for step in range(len(rows) // 6):
    expected = language_model_batch(
      paused(
        rows[step * 6 : step * 6 + 6],
        seq_len=32,
        pause_id=259,
        pauses=data.pauses,
        seed=7,
        positions_B=np.arange(step * 6, step * 6 + 6),
      ),
      pauses=data.pauses,
      bos_id=0,
      pad_id=0,
      pause_id=259,
    )
    got = next(batches)
    assert got.keys() == expected.keys()
    for name in got:
      np.testing.assert_array_equal(got[name], expected[name])


def test_standard_and_pause_runs_read_the_same_text(folder):
  data = [data_config(files=folder, pause_fraction=f) for f in (0.0, 0.25)]
  streams = [open_stream(d) for d in data]
  for _ in range(60):
    standard, paused = (
      text_rows(next(s), d) for s, d in zip(streams, data, strict=True)
    )
    for whole, prefix in zip(standard, paused, strict=True):
      assert len(prefix) >= min(len(whole), 16)
      assert whole[: len(prefix)] == prefix


def test_every_epoch_has_each_segment_once_in_a_new_order(folder):
  data = data_config(files=folder, pause_mode="exact")
  num_segments = -(-len(all_ids(file_source(folder), "bytes")) // 24)
  batches = open_stream(data, batch_size=1)
  epochs = [[next(batches) for _ in range(num_segments)] for _ in range(3)]
  texts = [[text_rows(b, data)[0] for b in epoch] for epoch in epochs]
  assert sorted(texts[0]) == sorted(texts[1]) == sorted(texts[2])
  assert texts[0] != texts[1] != texts[2] != texts[0]
  assert sum(map(len, texts[0])) == len(all_ids(file_source(folder), "bytes"))
  masks = [{digest({"m": b["loss_mask"]}) for b in epoch} for epoch in epochs]
  assert len(masks[0] | masks[1]) > 1.9 * num_segments


def test_a_token_with_id_0_is_not_padding(tmp_path):
  import sentencepiece

  path = tmp_path / "unk0.model"
  with path.open("wb") as f:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(["the cat sat on the mat"] * 9),
      model_writer=f,
      vocab_size=20,
      unk_id=0,
      eos_id=1,
      bos_id=-1,
      pad_id=-1,
      minloglevel=2,
      hard_vocab_limit=False,
    )
  task = python_task(["held out", "日 本 語 the cat", "日"])
  data = data_config(tokenizer=str(path), pause_fraction=0.0)
  ids = all_ids(task.source(data), str(path))
  assert (ids == 0).sum() > 2
  batch = next(open_stream(data, task=task, batch_size=1))
  np.testing.assert_array_equal(batch["targets"][0, : len(ids)], ids)
  assert batch["loss_mask"].sum() == batch["segment_ids"].sum() == len(ids)


def test_validation_is_one_pass_and_the_same_on_any_number_of_hosts(folder):
  data = data_config(files=folder, pause_mode="exact")
  source = file_source(folder)
  ids = all_ids(source, "bytes", "validation")
  num_segments = -(-len(ids) // 24)
  options = {"split": "validation", "batch_size": 10}
  whole = list(open_stream(data, **options))
  assert num_segments % 10 and len(whole) == -(-num_segments // 10)
  rows = [row for b in whole for row in text_rows(b, data)]
  np.testing.assert_array_equal(np.concatenate(rows), ids)
  missing = 10 - num_segments % 10
  assert not whole[-1]["segment_ids"][-missing:].any()
  assert not whole[-1]["loss_mask"][-missing:].any()
  hosts = [open_stream(data, shard=(h, 2), **options) for h in range(2)]
  for expected, *parts in zip(whole, *hosts, strict=True):
    for name in expected:
      joined = np.concatenate([p[name] for p in parts])
      np.testing.assert_array_equal(joined, expected[name])


@pytest.mark.parametrize("mode", UNIFORM)
def test_held_out_text_is_also_available_without_pauses(folder, mode):
  data = data_config(files=folder, pause_mode=mode)
  options = {"split": "validation", "batch_size": 10, "pauses": False}
  plain = list(open_stream(data, **options))
  assert {b["tokens"].shape for b in plain} == {(10, 32)}
  assert not any((b["tokens"] == 259).any() for b in plain)
  rows = [row for b in plain for row in text_rows(b, data)]
  ids = all_ids(file_source(folder), "bytes", "validation")
  np.testing.assert_array_equal(np.concatenate(rows), ids)
  hosts = [open_stream(data, shard=(h, 2), **options) for h in range(2)]
  for expected, *parts in zip(plain, *hosts, strict=True):
    for name in expected:
      joined = np.concatenate([p[name] for p in parts])
      np.testing.assert_array_equal(joined, expected[name])


def test_hosts_divide_the_documents_and_draw_different_pauses():
  texts = [f"document number {i:03d}" for i in range(41)]
  data = data_config(pause_mode="exact", holdout_every=41)
  seen, masks = [], []
  for host in range(2):
    batches = open_stream(
      data, task=python_task(texts), batch_size=6, shard=(host, 2)
    )
    num_batches = -(-20 * 20 // 24) // 3 + 1
    taken = [next(batches) for _ in range(num_batches)]
    assert taken[0]["targets"].shape == (3, 32)
    joined = b"".join(
      bytes(i - 3 for i in row if i >= 3)
      for b in taken
      for row in text_rows(b, data)
    ).decode()
    seen.append({i for i in range(41) if f"number {i:03d}" in joined})
    masks += [digest({"m": m == 259}) for b in taken for m in b["targets"]]
  assert seen[0] and seen[1] and not seen[0] & seen[1]
  assert len(set(masks)) == len(masks)


def test_fingerprint_names_every_difference(folder, bpe):
  data = data_config(files=folder)
  before = open_stream(data).fingerprint()
  assert open_stream(data).fingerprint() == before
  assert all(isinstance(v, str | int | float) for v in before.values())
  json.dumps(before)
  for changed, fields in (
    (
      {
        "data": data_config(
          files=f"{folder}/b1.jsonl",
          tokenizer=bpe,
          seq_len=40,
          pause_mode="exact",
          pause_fraction=0.1,
          shuffle_buffer=9,
          field="url",
        ),
        "batch_size": 8,
        "seed": 8,
        "shard": (1, 2),
      },
      {*before} - {"pipeline", "task", "split"} - set(stream.LIBRARIES),
    ),
    ({"split": "validation"}, {"split"}),
  ):
    after = open_stream(**{"data": data, **changed}).fingerprint()
    assert {key for key in before if after[key] != before[key]} == fields


@pytest.mark.parametrize("wrong", [259, 260, 65_535, -2])
def test_an_id_that_no_text_has_is_an_error(folder, monkeypatch, wrong):
  class Wrong(vocabulary.PauseVocabulary):
    def _encode_tf(self, s):
      return tf.concat([super()._encode_tf(s), [wrong]], axis=0)

  base = vocabulary.vocabulary("bytes").base
  monkeypatch.setattr(stream, "vocabulary", lambda spec: Wrong(base))
  for split in corpora.SPLITS:
    batches = open_stream(data_config(files=folder), split=split)
    said = message(lambda b: [next(b) for _ in range(50)], batches)
    assert "an id that is not one of the 259 text ids" in said


# Resuming.

RESUME = """
import json, pathlib, sys  # noqa: E402
sys.path.insert(0, {tests!r})
import test_seqio as t  # noqa: E402
out = {{}}
for name, data in json.loads(pathlib.Path({plan!r}).read_text()).items():
  folder = pathlib.Path({plan!r}).parent / name
  state = {{f.name: f.read_bytes() for f in folder.iterdir()}}
  batches = t.open_stream(t.data_config(**data), task=t.task_of(data))
  batches.restore(state)
  out[name] = [t.digest(next(batches)) for _ in range(30)]
print(json.dumps(out))
"""


def task_of(data: dict) -> PretrainingTask:
  if data.get("tfds_name"):
    from pausejax.tasks import c4

    return PretrainingTask("seqio_tfds", c4.source)
  return TASK if data.get("files") else python_task(TEXTS)


@pytest.mark.slow
def test_a_new_process_continues_bit_for_bit(folder, tfds_dir, bpe, tmp_path):
  plan = {
    "files": {"files": folder, "tokenizer": bpe, "pause_mode": "exact"},
    "tfds": {"tfds_name": "tiny:1.0.0", "tfds_data_dir": tfds_dir},
  }
  (tmp_path / "plan.json").write_text(json.dumps(plan))
  expected = {}
  for name, data in plan.items():
    batches = open_stream(data_config(**data), task=task_of(data))
    for _ in range(83):  # Epochs are 9 to 35 batches long.
      next(batches)
    (tmp_path / name).mkdir()
    for file, content in batches.state().items():
      (tmp_path / name / file).write_bytes(content)
    expected[name] = [digest(next(batches)) for _ in range(30)]
    assert len(set(expected[name])) == 30
  script = RESUME.format(
    tests=str(pathlib.Path(__file__).parent), plan=str(tmp_path / "plan.json")
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "python", "tfds"])
def test_a_resumed_run_can_be_resumed_again(folder, tfds_dir, kind):
  data = {
    "files": {"files": folder},
    "python": {},
    "tfds": {"tfds_name": "tiny:1.0.0", "tfds_data_dir": tfds_dir},
  }[kind]
  batches = open_stream(data_config(**data), task=task_of(data))
  start = batches.state()
  first = [digest(next(batches)) for _ in range(35)]
  batches.restore(start)
  for taken in (0, 7, 21):
    num_batches = 14 if taken else 7
    got = [digest(next(batches)) for _ in range(num_batches)]
    assert got == first[taken : taken + num_batches]
    state = batches.state()
    next(batches)
    batches.restore(state)


def test_a_broken_state_is_a_one_line_error(folder):
  batches = open_stream(data_config(files=folder))
  state = batches.state()
  assert "cannot be restored" in message(batches.restore, {})
  broken = {name: content[:-9] for name, content in state.items()}
  assert "cannot be restored" in message(batches.restore, broken)


# Errors, each one line long.


def drain(data, *, num_batches=50, **options) -> None:
  batches = open_stream(data, **options)
  for _ in range(num_batches):
    next(batches)


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz"])
def test_a_bad_line_is_named(tmp_path, suffix):
  good = [json.dumps({"text": "x" * 50})] * 21
  for bad, problem in (
    ("{oops", "malformed JSON"),
    ('{"txt": "a"}', "did you mean"),
    ('{"text": 3}', "field 'text' is not a string: 3"),
  ):
    content = "\n".join([*good, bad, *good]).encode()
    path = tmp_path / f"é {problem[:3]}{suffix}"
    path.write_bytes(gzip.compress(content) if "gz" in suffix else content)
    said = message(drain, data_config(files=str(path)))
    assert said.startswith(f"{path}:22: ") and problem in said


@pytest.mark.slow
def test_a_process_ends_when_its_stream_fails(tmp_path):
  lines = [json.dumps({"text": "x" * 50})] * 400
  (tmp_path / "a.jsonl").write_text(
    "\n".join([*lines, lines[0], "no json", *lines])
  )
  command = [sys.executable, "-m", "pausejax", "train"]
  command += ["--config=configs/smoke.py", "--config.data.pipeline=seqio"]
  command += ["--config.data.task=text", f"--config.data.files={tmp_path}"]
  run = subprocess.run(
    [*command, f"--workdir={tmp_path / 'run'}"],
    cwd=pathlib.Path(__file__).parent.parent,
    capture_output=True,
    text=True,
    timeout=150,  # Its threads can keep an interpreter from ending.
  )
  assert run.returncode == 1, run.stderr
  assert "a.jsonl:402: malformed JSON at column 1" in run.stderr
  assert 'File "' not in run.stderr


def test_text_that_is_not_utf_8_is_named(tmp_path):
  for name in ("a.txt", "b.txt"):
    (tmp_path / name).write_bytes(b"one\ntwo \xff three")
  said = message(drain, data_config(files=str(tmp_path)))
  assert f"{tmp_path}/b.txt:2:" in said and "not UTF-8" in said


def test_a_truncated_gz_is_refused_before_its_text_repeats(tmp_path):
  lines = [json.dumps({"text": os.urandom(50).hex()}) for _ in range(200)]
  whole = gzip.compress("\n".join(lines).encode())
  path = tmp_path / "cut.jsonl.gz"
  for content in (whole[:-5], whole[: len(whole) // 2], b"no gzip\n"):
    path.write_bytes(content)
    data = data_config(files=str(path))
    assert str(path) in message(drain, data, num_batches=300)


def test_missing_files_are_one_line_errors(tmp_path):
  data = data_config(files=str(tmp_path / "nothing"))
  assert "nothing to read at" in message(open_stream, data)


def test_a_split_without_documents_ends_immediately(tmp_path):
  (tmp_path / "only.txt").write_text("held out")
  data = data_config(files=str(tmp_path))
  assert "no document in split 'train'" in message(open_stream, data)
  (tmp_path / "only.txt").rename(tmp_path / "only.jsonl")
  (tmp_path / "only.jsonl").write_text("\n")
  for split in corpora.SPLITS:
    assert split in message(open_stream, data, split=split)


@pytest.mark.slow
def test_every_seed_of_the_settings_works(folder):
  data = data_config(files=f"{folder}/b1.jsonl")
  seeds = (-(2**63), -1, 0, 2**31 - 1, 2**63 - 1)
  assert len({digest(next(open_stream(data, seed=s))) for s in seeds}) == 5


def test_fewer_documents_than_hosts_end_immediately(folder):
  data = data_config(files=f"{folder}/a.txt,{folder}/b.txt", holdout_every=2)
  said = message(open_stream, data, shard=(3, 4))
  assert "host 3 of 4" in said
  assert "divisible" in message(open_stream, data, batch_size=6, shard=(0, 4))


def test_tfds_errors_are_one_line_and_download_nothing(tfds_dir, tmp_path):
  missing = tfds_source(str(tmp_path), name="c4/en:3.0.1")
  for read_it in (
    lambda: list(opening.documents(missing, "train")),
    lambda: sources.data_source(missing),
  ):
    assert "c4/en:3.0.1 is not prepared" in message(read_it)
  wrong = tfds_source(tfds_dir, field="txt")
  assert "did you mean 'text'" in message(lambda: read(wrong, "train"))
  label = tfds_source(tfds_dir, field="label")
  assert "no text 'label'" in message(lambda: read(label, "train"))
  split = message(lambda: read(tfds_source(tfds_dir), "test"))
  assert "no split 'test'" in split


def test_a_damaged_tfds_file_is_a_one_line_error(tfds_dir, tmp_path):
  moved = tmp_path / "tfds" / "tiny" / "1.0.0"
  moved.mkdir(parents=True)
  for path in (pathlib.Path(tfds_dir) / "tiny" / "1.0.0").iterdir():
    content = path.read_bytes()
    if "train.tfrecord" in path.name:
      content = content[:200] + b"damaged" + content[207:]
    (moved / path.name).write_bytes(content)
  source = tfds_source(str(tmp_path / "tfds"))
  assert "corrupted record" in message(
    lambda: list(opening.documents(source, "train"))
  )


@pytest.mark.slow
def test_the_missing_extra_is_a_one_line_error():
  script = (
    "import sys; sys.modules['seqio'] = None\n"
    "from pausejax import errors\n"
    "try:\n  import pausejax.data.seqio\n"
    "except errors.UserError as e:\n  print(e)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert "install '.[seqio]'" in done.stdout


def test_gpus_are_hidden_from_tensorflow():
  assert tf.config.get_visible_devices("GPU") == []


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
def test_c4_with_the_t5_vocabulary():
  from pausejax.tasks import c4

  data = data_config(
    tokenizer=f"{REAL}/tokenizers/t5_base_spiece.model",
    tfds_name="c4/en:3.0.1",
    tfds_data_dir=f"{REAL}/tfds",
    seq_len=512,
  )
  source = c4.source(data)
  assert len(list(opening.documents(source, "train"))) == 1000
  expected = sorted(opening.documents(source, "validation"))
  assert sorted(read(source, "validation")) == expected
  batches = open_stream(data, task=PretrainingTask("seqio_c4", c4.source))
  for _ in range(10):
    next(batches)
  state = batches.state()
  expected = [digest(next(batches)) for _ in range(5)]
  batches.restore(state)
  assert [digest(next(batches)) for _ in range(5)] == expected
