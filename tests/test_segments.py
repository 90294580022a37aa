import collections
import dataclasses
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from etils import epath

from pausejax import cli, errors, pause
from pausejax.config.batch_sizes import batch_sizes
from pausejax.config.batch_skips import batch_skips
from pausejax.data import tokenizer_training, tokenizers
from pausejax.data.batch import PADDING
from pausejax.data.pretraining import cutter, prepare, segments
from pausejax.data.pretraining.source import SegmentSource, StepBatches

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


def read_all(store):
  rows = store.read(range(len(store)), PADDING)
  return rows, rows[rows != PADDING].tolist()


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name])


def join(parts):
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


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


def contents(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file() and not p.name.startswith("lock-")
  }


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


def assert_one_line(raised, *fragments):
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  for fragment in fragments:
    assert fragment in message


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


def text_of(batch):
  """The ids of each row without pauses and padding."""
  return [
    pause.remove_pauses(row[is_real == 1], BYTES.pause_id).tolist()
    for row, is_real in zip(batch["targets"], batch["segment_ids"], strict=True)
  ]


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
    np.testing.assert_array_equal(source.text(source.positions(step)), text_BT)


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
