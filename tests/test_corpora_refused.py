"""Text that is missing, damaged or malformed: one line names the place."""

import json

import pytest

from pausejax import errors
from pausejax.tasks import corpora, text_files
from tests.test_corpora import (
  TEXTS,
  assert_refused,
  files_of,
  write_bytes,
  write_lines,
)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl.gz", "a.txt.gz"])
def test_a_git_lfs_pointer_is_refused(tmp_path, name):
  pointer = b"version https://git-lfs.github.com/spec/v1\n"
  pointer += b"oid sha256:" + b"0" * 64 + b"\nsize 1230\n"
  (tmp_path / name).write_bytes(pointer)
  assert_refused(
    files_of(tmp_path),
    name,
    "Git LFS pointer",
    "git lfs pull",
    split="validation",
  )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.txt.gz"])
def test_a_line_longer_than_any_text_is_refused(tmp_path, name, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1000)
  path = tmp_path / name
  write_bytes(path, b" " * 999 + b"\n")
  assert len(list(text_files.read_lines(str(path)))) == 1
  write_bytes(path, b"\n" + b" " * 1000 + b"\n")
  with pytest.raises(errors.UserError, match=rf"{name}:2: this line has more"):
    list(text_files.read_lines(str(path)))


def test_a_text_too_long_for_memory_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 1000)
  write_bytes(tmp_path / "a.txt.gz", b"word\n" * 201)
  assert_refused(
    files_of(tmp_path), "a.txt.gz", "more than 1,000 bytes", split="validation"
  )


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_nul_names_its_line_in_a_text(tmp_path, name):
  write_bytes(tmp_path / name, b"one\r\ntwo\r\nthr\0ee\n")
  assert_refused(files_of(tmp_path), f"{name}:3: a NUL", split="validation")


@pytest.mark.parametrize("line", [b"\0", b'{"text": "\\u0000"}', b'"\0"'])
def test_a_nul_names_its_line_in_json(tmp_path, line):
  (tmp_path / "a.jsonl").write_bytes(b'{"text": "0"}\n' + line + b"\n")
  assert_refused(files_of(tmp_path), "a.jsonl:2: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=f"{tmp_path}: cannot be read"):
    list(text_files.read_lines(str(tmp_path)))
  with pytest.raises(errors.UserError, match="NUL"):
    list(text_files.read_lines("a\0b"))


def test_holding_out_every_file_is_an_error(tmp_path):
  write_lines(tmp_path / "a.jsonl", TEXTS)
  assert_refused(files_of(tmp_path, tmp_path), "no document in split 'train'")


@pytest.mark.parametrize(
  "spec", ["none", "none/*.txt", "empty", "empty/*.json"]
)
def test_a_glob_without_matches_is_an_error(tmp_path, spec):
  (tmp_path / "empty").mkdir()
  assert_refused(files_of(tmp_path / spec), "nothing to read at", spec)


def test_a_validation_glob_without_matches_is_an_error(tmp_path):
  write_lines(tmp_path / "a.jsonl", TEXTS)
  assert_refused(
    files_of(tmp_path / "a.jsonl", tmp_path / "b*"), "nothing to read at", "b*"
  )


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.txt.zst", "txt"])
def test_another_kind_of_file_is_an_error(tmp_path, name):
  (tmp_path / name).write_text("x")
  assert_refused(files_of(tmp_path / name), name, "unknown type of file")


def test_a_missing_field_names_line_and_nearest_field(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"text": "0"}\n{"text": "1"}\n{"texts": "2", "url": ""}\n')
  assert_refused(
    files_of(path), f"{path}:3", "no field 'text'", "did you mean 'texts'?"
  )
  path.write_text('{"text": "0"}\n{}\n')
  assert_refused(files_of(path), f"{path}:2", "no field 'text'")


@pytest.mark.parametrize(
  "line",
  [
    "not json",
    '{"text": "cut sho',
    '{"text": "a"} {"text": "b"}',
    "{'text': 'single quotes'}",
    '{"text": "a",}',
    '{"text": "a tab\tbare"}',
    '\ufeff{"text": "a byte order mark"}',
    '{"text": ' + "[" * 100_000,
    '{"n": ' + "9" * 5000 + "}",
  ],
)
def test_malformed_json_names_its_line(tmp_path, line):
  path = tmp_path / "a.jsonl"
  path.write_text(f'{{"text": "0"}}\n{{"text": "1"}}\n{line}\n')
  message = assert_refused(files_of(path), f"{path}:3", "malformed JSON")
  assert len(message) < 400


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "null", "3", "true"])
def test_json_that_is_no_object_names_its_line(tmp_path, line):
  path = tmp_path / "a.json"
  path.write_text(f'{{"text": "0"}}\n{line}\n')
  assert_refused(files_of(path), f"{path}:2", "expected a JSON object")


@pytest.mark.parametrize("value", ["null", "3", "true", '["a"]', '{"en": "a"}'])
def test_a_field_that_is_no_text_names_its_line(tmp_path, value):
  path = tmp_path / "a.json"
  path.write_text(f'{{"text": "0"}}\n{{"text": {value}}}\n')
  assert_refused(files_of(path), f"{path}:2", "field 'text' is not a string")


def test_messages_do_not_grow_with_the_data(tmp_path):
  path = tmp_path / "a.json"
  everything = [{"text": "a" * 1000}] * 100
  path.write_text('{"text": "0"}\n' + json.dumps(everything) + "\n")
  assert len(assert_refused(files_of(path), f"{path}:2")) < 400
  path.write_text('{"text": "0"}\n' + json.dumps({"text": everything}) + "\n")
  assert len(assert_refused(files_of(path), f"{path}:2")) < 400


@pytest.mark.parametrize("text", ["\\ud83d", "a \\ude00 b", "\\ude00\\ud83d"])
def test_half_a_surrogate_pair_names_its_line(tmp_path, text):
  path = tmp_path / "a.jsonl"
  path.write_text(f'{{"text": "0"}}\n{{"text": "{text}"}}\n')
  assert_refused(files_of(path), f"{path}:2", "surrogate")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bytes_that_are_not_utf8_name_their_line(tmp_path, suffix):
  path = tmp_path / f"a.jsonl{suffix}"
  good = b'{"text": "ok"}\n'
  write_bytes(path, good * 3 + b'{"text": "caf\xe9"}\n' + good)
  assert_refused(files_of(path), f"{path}:4: byte 0xe9", "not UTF-8")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bytes_that_are_not_utf8_name_their_line_in_a_text(tmp_path, suffix):
  path = tmp_path / f"a.txt{suffix}"
  write_bytes(path, b"first\nsecond\n\ncaf\xe9\nlast\n")
  message = assert_refused(
    files_of(path), f"{path}:4: byte 0xe9", "not UTF-8", split="validation"
  )
  assert "offset 17" in message


def test_text_in_utf16_is_an_error(tmp_path):
  (tmp_path / "a.txt").write_bytes("text".encode("utf-16"))
  assert_refused(files_of(tmp_path), "a.txt:1: byte 0xff", split="validation")


@pytest.mark.parametrize(
  "damage", ["cut", "flip", "nothing", "garbage", "plain"]
)
def test_a_damaged_gz_is_an_error(tmp_path, damage):
  path = tmp_path / "c4-train.00000-of-01024.json.gz"
  write_lines(path, TEXTS)
  data = bytearray(path.read_bytes())
  if damage == "cut":
    data = data[: len(data) // 2]
  elif damage == "flip":
    data[len(data) // 2] ^= 0xFF
  elif damage == "nothing":
    data = b""
  elif damage == "garbage":
    data += b"not gzip"
  else:
    data = b'{"text": "never compressed"}\n'
  path.write_bytes(data)
  assert_refused(files_of(path), path.name)


def test_an_empty_source_is_an_error(tmp_path):
  write_bytes(tmp_path / "a.json.gz", b"\n \r\n")
  for split in corpora.SPLITS:
    assert_refused(
      files_of(tmp_path), "no document in split", split, split=split
    )


def test_a_source_smaller_than_the_hold_out_is_an_error(tmp_path):
  (tmp_path / "only.txt").write_text("held out")
  assert_refused(files_of(tmp_path), "data.holdout_every")
