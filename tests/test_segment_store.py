"""A store of segments holds every token; damage and other data are errors."""

import collections
import dataclasses
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from etils import epath

from pausejax import cli, errors
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizer_training, tokenizers
from pausejax.data.batch import PADDING
from pausejax.data.pretraining import cutter, prepare, segments
from pausejax.data.pretraining.source import SegmentSource
from tests import segment_stores
from tests.segment_stores import (
  BYTES,
  UNIFORM,
  assert_one_line,
  contents,
  documents,
  expected_ids,
)

# Fixtures that several test files share.
files = segment_stores.files
data = segment_stores.data
folder = segment_stores.folder
exact_folder = segment_stores.exact_folder
open_source = segment_stores.open_source


def read_all(store):
  rows = store.read(range(len(store)), PADDING)
  return rows, rows[rows != PADDING].tolist()


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("mode", UNIFORM)
def test_writing_loses_no_token(open_source, split, mode):
  store = open_source(split, pause_mode=mode).store
  rows, ids = read_all(store)
  assert ids == expected_ids(split)
  # Only the last one may be shorter.
  assert (rows[:-1] != PADDING).all()
  assert rows.shape[1] == (32 if mode == "insert_trim" else 24)


@pytest.mark.parametrize("at_once", [1, 7])
def test_the_number_of_documents_per_batch_does_not_matter(
  data, folder, tmp_path, monkeypatch, at_once
):
  monkeypatch.setattr(cutter, "_DOCUMENTS_AT_ONCE", at_once)
  prepare.write_segments(data, BYTES, tmp_path / "again")
  assert contents(tmp_path / "again") == contents(folder)


def test_rebuilding_gives_the_same_bytes(data, folder, tmp_path):
  prepare.write_segments(data, BYTES, tmp_path / "again")
  assert contents(tmp_path / "again") == contents(folder)


def test_the_index_describes_the_store(folder):
  index = json.loads((folder / "index.json").read_text())
  for split in ("train", "validation"):
    ids = expected_ids(split)
    part = index[split]
    assert part["num_tokens"] == len(ids)
    assert part["num_documents"] == ids.count(BYTES.eos_id)
    assert part["num_segments"] == math.ceil(len(ids) / 32)
    p = [n / len(ids) for n in collections.Counter(ids).values()]
    entropy = -sum(x * math.log(x) for x in p)
    # Float sums in another order.
    assert math.isclose(part["unigram_entropy"], entropy, rel_tol=1e-12)
    for shard in part["shards"]:
      data = (folder / shard["file"]).read_bytes()
      assert shard["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_digest_depends_on_document_boundaries(tmp_path, data_config):
  digests = set()
  for i, texts in enumerate((["ab", "c", "x"], ["a", "bc", "x"])):
    path = tmp_path / f"{i}.jsonl"
    lines = [json.dumps({"text": t}) + "\n" for t in ["held", *texts]]
    path.write_text("".join(lines))
    index = prepare.write_segments(
      data_config(files=str(path)), BYTES, tmp_path / str(i)
    )
    digests.add(index["train"]["documents_sha256"])
  assert len(digests) == 2


def test_a_vocabulary_beyond_16_bits_keeps_its_ids(data, tmp_path):
  class Wide(tokenizers.ByteTokenizer):
    vocab_size = 70_000

    def encode(self, texts):
      return [[i + 69_000 for i in ids] for ids in super().encode(texts)]

  wide = tokenizers.PauseTokenizer(Wide())
  prepare.write_segments(data, wide, tmp_path / "wide")
  store = segments.open_segments(tmp_path / "wide", "train", data, wide)
  expected = [
    i if i == BYTES.eos_id else i + 69_000 for i in expected_ids("train")
  ]
  assert read_all(store)[1] == expected


@pytest.mark.parametrize(
  ("changes", "fragments"),
  [
    ({"seq_len": 64}, ["segment_len is 32, this run needs 64"]),
    ({"pause_mode": "exact"}, ["segment_len is 32, this run needs 24"]),
    ({"task": "c4"}, ["task is 'text', this run needs 'c4'"]),
    ({"files": "other.jsonl"}, ["source is", "other.jsonl"]),
    ({"holdout_every": 5}, ["source is", "holdout_every=5"]),
  ],
)
def test_a_store_of_other_data_is_an_error(data, folder, changes, fragments):
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(
      folder, "train", dataclasses.replace(data, **changes), BYTES
    )
  assert_one_line(raised, str(folder), *fragments)


def test_a_store_of_another_tokenizer_is_an_error(data, folder, tmp_path):
  model = tokenizer_training.train_tokenizer(documents(), vocab_size=290)
  (tmp_path / "bpe.model").write_bytes(model)
  other = tokenizers.load_tokenizer(str(tmp_path / "bpe.model"))
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(folder, "train", data, other)
  digest = hashlib.sha256(model).hexdigest()
  assert_one_line(
    raised, "tokenizer is 'bytes'", "needs 'sentencepiece'", digest
  )


def test_a_store_fits_whatever_the_pauses(data, folder):
  # One store serves the standard and the pause run.
  plain = dataclasses.replace(data, pause_fraction=0.0)
  assert len(segments.open_segments(folder, "train", plain, BYTES))


def test_a_named_store_may_come_from_elsewhere(data, folder):
  moved = dataclasses.replace(
    data, segments_dir=str(folder), files="not/on/this/machine"
  )
  assert len(segments.open_segments(folder, "train", moved, BYTES))


def test_no_store_is_an_error(data, tmp_path):
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(tmp_path / "none", "train", data, BYTES)
  assert_one_line(raised, "no segments at", "pausejax segments")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "{}"])
def test_a_damaged_index_is_an_error(data, tmp_path, content):
  (tmp_path / "index.json").write_text(content)
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(tmp_path, "train", data, BYTES)
  assert_one_line(raised, str(tmp_path))


# What happens to a file -> what the message says of it.
DAMAGE = {
  "missing": (lambda mine, other: None, "is missing"),
  "cut": (lambda mine, other: mine[:-1000], "bytes, the index says"),
  "empty": (lambda mine, other: b"", "has 0 bytes"),
  "foreign": (lambda mine, other: other, "the index says"),
  "zeros": (lambda mine, other: bytes(len(mine)), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_rebuilt(
  data, folder, tmp_path, damage, capsys
):
  out = tmp_path / "out"
  shutil.copytree(folder, out)
  file = out / "train-00000.array_record"
  other = (out / "validation-00000.array_record").read_bytes()
  change, fragment = DAMAGE[damage]
  content = change(file.read_bytes(), other)
  file.unlink() if content is None else file.write_bytes(content)
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(out, "train", data, BYTES)
  assert_one_line(raised, str(file), fragment, "repeat")
  assert cli.main(["segments", f"--verify={out}"]) == 1
  assert f"BAD  {file}" in capsys.readouterr().out
  file.unlink(missing_ok=True)
  prepare.write_segments(data, BYTES, out)
  assert contents(out) == contents(folder)


def with_id(folder, out, wrong, dtype):
  """Copies a store; one id of a record is `wrong`, and the index agrees."""
  shutil.copytree(folder, out)
  index = json.loads((out / "index.json").read_text())
  row = index["train"]["shards"][0]
  whole = segments.record_store.open_records(epath.Path(out), [row])
  records = [np.frombuffer(whole[i], "<u2") for i in range(len(whole))]
  records = [r.astype(dtype) for r in records]
  records[5][-1] = wrong
  writer = segments.record_store.RecordWriter(out / "new.array_record")
  for record in records:
    writer.write(record.tobytes())
  index["train"]["shards"] = writer.close()
  index["dtype"] = np.dtype(dtype).name
  (out / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
  ("wrong", "dtype", "fragment"),
  [
    (260, np.uint16, "id 260 is not one of the 259 text ids"),
    (65_535, np.uint16, "id 65535 is not one"),
    (259, np.uint16, "id 259 is the pause"),
    (2**31, np.uint32, "id 2147483648 is not one"),
    (2**32 - 1, np.uint32, "id 4294967295 is not one"),  # -1 as an int32.
  ],
)
def test_an_id_that_no_text_has_names_file_and_record(
  data, folder, tmp_path, wrong, dtype, fragment
):
  out = tmp_path / "out"
  with_id(folder, out, wrong, dtype)
  store = segments.open_segments(out, "train", data, BYTES)
  assert store.read([0, 1, 2, 3, 4], 0).max() < 259
  source = SegmentSource(
    data=data, store=store, tokenizer=BYTES, sizes=batch_sizes(8), seed=0
  )
  for read in (
    lambda: store.read([3, 5], 0),
    lambda: list(source.evaluation_batches(0)),
    lambda: [source.training_batch(step) for step in range(len(store))],
  ):
    with pytest.raises(errors.UserError) as raised:
      read()
    assert_one_line(
      raised, str(out), "record 5 of new.array_record", fragment, "--verify="
    )


def test_ids_outside_the_vocabulary_are_not_stored(data, tmp_path):
  class Wrong(tokenizers.ByteTokenizer):
    def encode(self, texts):
      return [[*ids, 259] for ids in super().encode(texts)]

  with pytest.raises(errors.UserError, match="id 259 is the pause"):
    prepare.write_segments(
      data, tokenizers.PauseTokenizer(Wrong()), tmp_path / "out"
    )


def test_verification_detects_a_changed_bit(data, folder, tmp_path, capsys):
  assert cli.main(["segments", f"--verify={folder}"]) == 0
  assert "4 of 4 files match the index" in capsys.readouterr().out
  out = tmp_path / "out"
  shutil.copytree(folder, out)
  file = out / "train-00000.array_record"
  store = segments.open_segments(out, "train", data, BYTES)
  content = bytearray(file.read_bytes())
  place = content.index(store.read([3], 0).astype("<u2").tobytes())
  content[place] ^= 1
  file.write_bytes(content)
  assert cli.main(["segments", f"--verify={out}"]) == 1
  assert "the sha256 is not that" in capsys.readouterr().out
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(out, "train", data, BYTES).read([3], 0)
  assert_one_line(raised, "record 3", "--verify=")


def test_the_error_for_an_older_store_explains_how_to_rebuild_it(
  data, folder, tmp_path
):
  out = tmp_path / "out"
  shutil.copytree(folder, out)
  index = json.loads((out / "index.json").read_text())
  (out / "index.json").write_text(json.dumps({**index, "format": 1}))
  with pytest.raises(errors.UserError) as raised:
    segments.open_segments(out, "train", data, BYTES)
  assert_one_line(raised, "format 1", "build it again")
