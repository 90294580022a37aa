"""Pretraining text from files: its documents, its splits and its tasks."""

import codecs
import gzip
import json
import os
import pathlib

import pytest

from pausejax import errors, tasks
from pausejax.data import opening
from pausejax.tasks import corpora, file_lists, text_files

TEXTS = [
  f"Document {i}: Zürich, 東京 and \U0001f600.\n" * (i % 4 + 1)
  for i in range(45)
]
REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")


def files_of(train, validation="", field="text", holdout_every=5):
  return corpora.FileSource(
    train=str(train),
    validation=str(validation),
    field=field,
    holdout_every=holdout_every,
  )


def read(source):
  return {split: list(source.documents(split)) for split in corpora.SPLITS}


def write_lines(path, texts, **more):
  """Writes JSON lines in C4's format, compressed if the name says so."""
  lines = [
    json.dumps({"text": t, "timestamp": "2019-04-25T12:57:54Z", "url": "u"})
    for t in texts
  ]
  write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_bytes(path, data):
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def assert_refused(source, *fragments, split="train"):
  with pytest.raises(errors.UserError) as raised:
    list(opening.documents(source, split))
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  for fragment in fragments:
    assert fragment in message
  return message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".json.gz"])
def test_every_line_is_a_document(tmp_path, suffix):
  write_lines(tmp_path / f"c4{suffix}", TEXTS)
  found = read(files_of(tmp_path))
  assert found["validation"] == TEXTS[::5]
  assert found["train"] == [t for i, t in enumerate(TEXTS) if i % 5]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_every_text_file_is_a_document(tmp_path, suffix):
  for i, text in enumerate(TEXTS):
    write_bytes(tmp_path / f"{i:02d}{suffix}", text.encode())
  found = read(files_of(tmp_path))
  assert found["validation"] == TEXTS[::5]
  assert found["train"] == [t for i, t in enumerate(TEXTS) if i % 5]


def test_line_endings_of_a_text_file_become_line_feeds(tmp_path):
  text = "a\r\nb\rc\n\n\u2028d\u0085e\r\n"
  (tmp_path / "a.txt").write_bytes(text.encode())
  expected = ["a\nb\rc\n\n\u2028d\u0085e\n"]
  assert list(files_of(tmp_path).documents("validation")) == expected


LINES = [b"a\r\n", b"\n", "\u2028b\u0085\x0bc\n".encode(), b"last"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_lines_end_at_line_feeds_and_lose_a_byte_order_mark(
  tmp_path, suffix, mark
):
  path = tmp_path / f"a.txt{suffix}"
  write_bytes(path, mark + b"".join(LINES))
  assert list(text_files.read_lines(str(path))) == LINES
  write_bytes(path, mark)
  assert list(text_files.read_lines(str(path))) == []


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_a_byte_order_mark_is_not_text(tmp_path, name):
  text = "text" if "txt" in name else '{"text": "\\ufefftext"}\n'
  write_bytes(tmp_path / name, codecs.BOM_UTF8 + text.encode())
  assert list(files_of(tmp_path).documents("validation")) == ["text"]


def test_a_text_that_mentions_git_lfs_is_read(tmp_path):
  text = "version https://git-lfs.github.com/spec/v1 is what they begin with"
  (tmp_path / "a.txt").write_text(text)
  assert list(files_of(tmp_path).documents("validation")) == [text]


def test_line_endings_and_a_missing_last_one_change_nothing(tmp_path):
  (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\r\n{"text": "b\\r\\n"}')
  found = read(files_of(tmp_path, holdout_every=2))
  assert found == {"validation": ["a"], "train": ["b\r\n"]}


def test_a_shard_of_several_gzip_members_is_read_whole(tmp_path):
  parts = [gzip.compress(b'{"text": "%d"}\n' % i) for i in range(10)]
  (tmp_path / "a.jsonl.gz").write_bytes(b"".join(parts))
  found = read(files_of(tmp_path))
  assert sorted([*found["train"], *found["validation"]]) == [
    str(i) for i in range(10)
  ]


@pytest.mark.parametrize("holdout_every", [2, 3, 20])
def test_the_splits_are_disjoint_and_complete(tmp_path, holdout_every):
  for i, text in enumerate(TEXTS[:21]):
    (tmp_path / f"{i:02d}.txt").write_text(f"txt {i} {text}")
  write_lines(
    tmp_path / "m.jsonl", [f"json {t}{i}" for i, t in enumerate(TEXTS)]
  )
  write_lines(
    tmp_path / "z.json.gz", [f"gz {t}{i}" for i, t in enumerate(TEXTS)]
  )
  found = read(files_of(tmp_path, holdout_every=holdout_every))
  assert not set(found["train"]) & set(found["validation"])
  assert len(found["train"]) + len(found["validation"]) == 21 + 2 * len(TEXTS)
  assert found == read(files_of(tmp_path, holdout_every=holdout_every))


def test_validation_files_leave_every_document_in_its_split(tmp_path):
  write_lines(tmp_path / "train-0.jsonl", TEXTS[:30])
  write_lines(tmp_path / "train-1.jsonl.gz", TEXTS[30:40])
  write_lines(tmp_path / "validation.jsonl", TEXTS[40:])
  found = read(files_of(tmp_path / "train-*", tmp_path / "validation.jsonl"))
  assert found == {"train": TEXTS[:40], "validation": TEXTS[40:]}


def test_held_out_files_of_a_folder_are_not_trained_on(tmp_path):
  write_lines(tmp_path / "a.jsonl", TEXTS[:40])
  write_lines(tmp_path / "held.jsonl", TEXTS[40:])
  found = read(files_of(tmp_path, f"{tmp_path}/./held.jsonl"))
  assert found == {"train": TEXTS[:40], "validation": TEXTS[40:]}


def test_another_field_can_hold_the_text(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"body": "b", "text": "t"}\n' * 2)
  source = files_of(tmp_path, field="body", holdout_every=2)
  assert read(source) == {"train": ["b"], "validation": ["b"]}


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')
  assert list(files_of(tmp_path).documents("validation")) == ["\U0001f600"]


def places(source):
  """Split -> the numbers that its documents hold."""
  return {
    split: [int(t) for t in texts] for split, texts in read(source).items()
  }


@pytest.mark.parametrize(
  ("num_files", "num_lines"), [(200, 2), (60, 1), (1, 90), (33, 7), (7, 33)]
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz", ".txt"])
def test_one_in_n_of_the_whole_corpus_is_held_out(
  tmp_path, num_files, num_lines, suffix
):
  num_lines = 1 if suffix == ".txt" else num_lines
  for f in range(num_files):
    numbers = range(f * num_lines, (f + 1) * num_lines)
    path = tmp_path / f"{f:03d}{suffix}"
    if suffix == ".txt":
      path.write_text(str(f))
    else:
      write_lines(path, map(str, numbers))
  total = range(num_files * num_lines)
  found = places(files_of(tmp_path, holdout_every=20))
  assert found["validation"] == list(total[::20])
  assert found["train"] == [i for i in total if i % 20]


@pytest.mark.parametrize("blank", ["\n", "\r\n", "  \t\n", "\n\n"])
def test_blank_lines_are_not_documents(tmp_path, blank):
  lines = [json.dumps({"text": str(i)}) + "\n" for i in range(40)]
  (tmp_path / "a.jsonl").write_text(blank + blank.join(lines[:30]) + blank)
  (tmp_path / "b.jsonl").write_text("".join(lines[30:]) + blank)
  found = places(files_of(tmp_path))
  assert found["validation"] == list(range(0, 40, 5))
  (tmp_path / "b.jsonl").write_text("\n\n{}\n")
  assert_refused(files_of(tmp_path), "b.jsonl:3: no field", split="validation")


def test_what_was_read_is_counted(tmp_path):
  (tmp_path / "a.jsonl").write_text('\n{"text": "0"}\n \n{"text": "1"}\n')
  (tmp_path / "b.txt").write_bytes(b"one\r\ntwo\r\n")
  (tmp_path / "c.txt").write_bytes(b"one\ntwo\n")
  reading = corpora.Reading()
  (unit,) = files_of(tmp_path).units()
  found = list(unit.read(reading, corpora.SPLITS))
  assert len(found) == unit.count() == 4
  assert reading == corpora.Reading(documents=4, blank_lines=2, crlf_files=1)


def test_c4_and_text_read_files(tmp_path, data_config):
  write_lines(tmp_path / "c4-train.00000-of-01024.json.gz", TEXTS[:40])
  write_lines(tmp_path / "c4-validation.00000-of-00008.json.gz", TEXTS[40:])
  for task in ("c4", "text"):
    data = data_config(
      task=task,
      files=f"{tmp_path}/c4-train.*",
      validation_files=f"{tmp_path}/c4-validation.*",
    )
    found = read(tasks.pretraining(task).source(data))
    assert found == {"train": TEXTS[:40], "validation": TEXTS[40:]}


def test_c4_without_files_is_tfds(data_config):
  source = tasks.pretraining("c4").source(
    data_config(task="c4", tfds_name="c4/en:3.0.1", tfds_data_dir="/data")
  )
  assert isinstance(source, corpora.TfdsSource)
  assert source.name == "c4/en:3.0.1"
  with pytest.raises(errors.UsageError, match="needs a version"):
    tasks.pretraining("c4").source(data_config(task="c4", tfds_name="c4/en"))


def test_text_without_files_is_an_error(data_config):
  with pytest.raises(errors.UsageError, match=r"--config\.data\.files="):
    tasks.pretraining("text").source(data_config(files=""))


def test_an_unknown_task_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'stdlib_docs'"):
    tasks.get("stdlib-docs")


def test_a_task_cannot_be_registered_twice():
  with pytest.raises(ValueError, match="already registered"):
    tasks.register(tasks.get("c4"))


@pytest.mark.slow
def test_the_embedded_corpus_is_split_without_loss(data_config):
  source = tasks.pretraining("stdlib_docs").source(
    data_config(task="stdlib_docs")
  )
  found = read(source)
  total = [*found["train"], *found["validation"]]
  assert not set(found["train"]) & set(found["validation"])
  assert sorted(total) == sorted(source.load())
  assert 300 < len(total) < 1000
  assert 1_500_000 < sum(len(t.encode()) for t in total) < 4_000_000
  assert any("Assert statements are a convenient way" in t for t in total)


def test_a_description_names_the_settings_that_decide_the_documents(
  tmp_path, data_config
):
  described = {
    tasks.pretraining(task).source(data_config(task=task, **changes)).describe()
    for task, changes in (
      ("text", {"files": "a"}),
      ("text", {"files": "b"}),
      ("text", {"files": "a", "validation_files": "c"}),
      ("text", {"files": "a", "field": "body"}),
      ("text", {"files": "a", "holdout_every": 7}),
      ("stdlib_docs", {}),
      ("stdlib_docs", {"holdout_every": 7}),
      ("c4", {"tfds_name": "c4/en:3.1.0"}),
      ("c4", {"tfds_name": "c4/en:3.0.1"}),
    )
  }
  assert len(described) == 9
  # The same in every process: nothing in it is an address in memory.
  assert not any(" at 0x" in d for d in described)


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["c4", "gutenberg", "openwebtext"])
def test_published_files_are_split_without_loss(name):
  folder = pathlib.Path(REAL, name)
  if not folder.is_dir():
    pytest.skip(f"PAUSEJAX_REAL_DATA has no {name}")
  files = file_lists.expand(str(folder)).files
  count = sum(
    sum(1 for _ in text_files.read_lines(f)) if text_files.is_json(f) else 1
    for f in files
  )
  found = read(files_of(folder))
  assert len(found["train"]) + len(found["validation"]) == count
  assert all([*found["train"], *found["validation"]])
