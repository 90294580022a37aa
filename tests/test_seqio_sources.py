"""SeqIO reads the same documents as the corpora in plain Python."""

import gzip
import json
import pathlib

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax.data import opening  # noqa: E402
from pausejax.data.seqio import sources  # noqa: E402
from pausejax.tasks import corpora  # noqa: E402
from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import (  # noqa: E402
  TEXTS,
  data_config,
  digest,
  file_source,
  message,
  open_stream,
  python_task,
  read,
  tfds_source,
)

# Fixtures that several test files share.
folder = seqio_streams.folder
tfds_dir = seqio_streams.tfds_dir


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
