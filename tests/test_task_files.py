"""Files of downstream tasks as disks and tools leave them.

A byte order mark, blank lines, other line ends, a Git LFS pointer, a small file
that unpacks to much, and the same data under two names.
"""

import codecs
import gzip
import json
import pathlib

import pytest

from pausejax import tasks
from pausejax.tasks import text_files
from tests import task_samples
from tests.task_samples import FILES, HELLASWAG, PIQA
from tests.test_task_records import GOOD, load, message, write

POINTER = (
  "version https://git-lfs.github.com/spec/v1\n"
  "oid sha256:00000000000000000000000000000000000000000000000000000000000000\n"
  "size 1230\n"
)
LINES = ["gsm8k", "commonsense_qa", "piqa", "hellaswag", "natural_questions"]


def published(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  for files in FILES[name].values():
    task_samples.write(folder, files)
  return [folder / file for files in FILES[name].values() for file in files]


def everything(folder: pathlib.Path, name: str) -> list[tasks.Example]:
  return [r for split in FILES[name] for r in load(name, split, folder).rows]


@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_is_not_text(name, tmp_path):
  paths = published(tmp_path, name)
  plain = everything(tmp_path, name)
  for path in paths:
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
  assert everything(tmp_path, name) == plain


@pytest.mark.parametrize("name", FILES)
def test_blank_lines_and_line_endings_change_nothing(name, tmp_path):
  paths = published(tmp_path, name)
  plain = everything(tmp_path, name)
  for path in paths:
    data = path.read_bytes().replace(b"\n", b"\r\n \t\r\n\n")
    path.write_bytes(b"\n\r\n" + data + b"\n")
  assert everything(tmp_path, name) == plain


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_git_lfs_pointer_is_refused(name, gz, tmp_path):
  for split, files in FILES[name].items():
    for file in files:
      published(tmp_path, name)
      if gz:  # The pointer lies under the name of the compressed file.
        (tmp_path / file).unlink()
      path = tmp_path / (file + ".gz" if gz else file)
      path.write_text(POINTER)
      if name == "gsm8k" and file == "train_socratic.jsonl":
        continue
      if gz and file.endswith(".lst"):
        continue  # Sought under this name beside a compressed .jsonl only.
      found = message(name, split, tmp_path)
      assert str(path) in found and "Git LFS pointer" in found
      path.unlink()


@pytest.mark.parametrize("name", FILES)
def test_a_decompression_bomb_is_refused(name, tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 5_000)
  monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 9_000)
  *_, (split, files) = FILES[name].items()
  path = tmp_path / (next(iter(files)) + ".gz")
  path.write_bytes(gzip.compress(b"x" * 100_000))
  assert "more than 5,000 bytes" in message(name, split, tmp_path)
  if name in ("squad", "coqa", "web_questions"):
    path.write_bytes(gzip.compress(b" \n" * 50_000))
    assert "more than 9,000 bytes" in message(name, split, tmp_path)


@pytest.mark.parametrize("name", [*LINES, "lambada"])
def test_lines_end_at_line_feeds_only(name, tmp_path):
  text = "one\u2028two\u0085three\x0bfour"
  field = {"gsm8k": "question", "piqa": "sol2", "hellaswag": "ctx_a"}
  field |= {"natural_questions": "question", "lambada": "text"}
  record = {**GOOD[name], field.get(name, "concept"): f"{text} five"}
  split, file = write(tmp_path, name, [GOOD[name]])
  line = json.dumps({**record, "id": "other"}, ensure_ascii=False)
  (tmp_path / file).write_bytes(f"{line}\n".encode())
  if name == "piqa":
    (tmp_path / "dev-labels.lst").write_text("0\n")
  assert len(load(name, split, tmp_path).rows) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_beside_its_compressed_copy_is_refused(name, tmp_path):
  published(tmp_path, name)
  for split, files in FILES[name].items():
    path = tmp_path / next(iter(files))
    zipped = path.with_name(f"{path.name}.gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    found = message(name, split, tmp_path)
    assert f"{path} and {zipped}" in found


@pytest.mark.parametrize("part, whole", [("-part", ""), ("", "-whole")])
def test_a_file_beside_a_part_of_it_is_refused(part, whole, tmp_path):
  other = {**HELLASWAG, "ctx_a": "Other."}
  names = [f"hellaswag_val{name}.jsonl" for name in (part, whole)]
  rows = [HELLASWAG], [other, HELLASWAG]
  task_samples.write(tmp_path, dict(zip(names, rows, strict=True)))
  found = message("hellaswag", "validation", tmp_path)
  assert all(str(tmp_path / name) in found for name in names)
  task_samples.write(tmp_path, {names[0]: [{**HELLASWAG, "ctx_a": "Third."}]})
  assert len(load("hellaswag", "validation", tmp_path).rows) == 3


def test_a_key_that_comes_twice_in_a_record_is_an_error(tmp_path):
  line = '{"question": "a", "question": "b", "answer": "#### 1"}\n'
  (tmp_path / "test.jsonl").write_text(line)
  found = message("gsm8k", "test", tmp_path)
  assert "test.jsonl:1: " in found and "'question' occurs 2 times" in found


def test_an_error_in_a_label_names_its_line(tmp_path):
  write(tmp_path, "piqa", [PIQA, PIQA])
  for labels, problem in (
    ("0\n\n2\n", "dev-labels.lst:3"),
    ("0 1\n0\n", "dev-labels.lst:1"),
    ("0\n-1\n", "dev-labels.lst:2"),
    ("0\n", "has 1 labels"),
    ("0\n1\n0\n", "has 3 labels"),
  ):
    (tmp_path / "dev-labels.lst").write_text(labels)
    assert problem in message("piqa", "validation", tmp_path)


def test_labels_may_be_compressed_whatever_the_records_are(tmp_path):
  write(tmp_path, "piqa", [PIQA, PIQA])
  labels = tmp_path / "dev-labels.lst"
  zipped = tmp_path / "dev-labels.lst.gz"
  zipped.write_bytes(gzip.compress(b"1\n0\n"))
  labels.write_text("1\n0\n")
  assert f"{labels} and {zipped}" in message("piqa", "validation", tmp_path)
  labels.unlink()
  rows = load("piqa", "validation", tmp_path).rows
  assert [row.label for row in rows] == [1, 0]
