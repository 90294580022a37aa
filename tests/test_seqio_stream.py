"""Segments and batches of SeqIO: no token lost, on any number of hosts.

Real C4 joins in when PAUSEJAX_REAL_DATA names a folder that holds `tfds` and
`tokenizers`.
"""

import json
import os

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax.data import opening  # noqa: E402
from pausejax.data.seqio import pretraining, stream, vocabulary  # noqa: E402
from pausejax.tasks import PretrainingTask, corpora  # noqa: E402
from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import (  # noqa: E402
  TASK,
  UNIFORM,
  all_ids,
  data_config,
  digest,
  file_source,
  message,
  open_stream,
  python_task,
  read,
  text_rows,
)

# Fixtures that several test files share.
bpe = seqio_streams.bpe
folder = seqio_streams.folder
spec = seqio_streams.spec


REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")


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


def test_tasks_without_a_length_are_one_line_errors(folder):
  task = pretraining.segments_task(
    TASK, data_config(files=folder), vocabulary.vocabulary("bytes")
  )
  assert "sequence_length" in message(task.get_dataset)


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
