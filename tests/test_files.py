"""Files appear whole or not at all; lines end at line feeds."""

import os
import pathlib

import pytest

from pausejax import errors, files


def test_write_replaces_the_old_content_and_leaves_nothing_else(tmp_path):
  path = tmp_path / "a.json"
  files.write(path, "old")
  files.write(path, "né\n")
  assert path.read_bytes() == "né\n".encode()
  assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  files.write(path, "old")

  def fill_the_disk(self, data):
    with self.open("wb") as f:
      f.write(data[:1])
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_bytes", fill_the_disk)
  with pytest.raises(OSError, match="No space"):
    files.write(path, "new")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_only_regular_files_of_a_limited_size_are_read(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(b"12345")
  assert files.read_bounded(path, 5) == b"12345"
  with pytest.raises(OSError, match="5 bytes, at most 4 are read"):
    files.read_bounded(path, 4)
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(OSError, match="not a regular file"):
    files.read_bounded(tmp_path / "pipe")
  with pytest.raises(IsADirectoryError):
    files.read_bounded(tmp_path)
  with pytest.raises(FileNotFoundError):
    files.read_bounded(tmp_path / "b")


@pytest.mark.parametrize(
  "text, lines",
  [
    ("", []),
    ("a", ["a"]),
    ("a\n", ["a"]),
    ("a\n\nb\n", ["a", "", "b"]),
    ("a\u2028b\x85c\x0bd\x1ce\rf\n", ["a\u2028b\x85c\x0bd\x1ce\rf"]),
  ],
)
def test_lines_end_at_line_feeds_only(text, lines):
  assert files.split_lines(text) == lines


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("d\u00e9j\u00e0 vu \U0001f600", "d\u00e9j\u00e0 vu \U0001f600"),
    ("two\r\nlines\n", "two lines"),
    ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
    ("a\u202eb\u2028c\ud800", r"a\u202eb c\ud800"),
  ],
)
def test_a_message_is_one_printable_line(text, shown):
  error = errors.UserError(text, details="  a row\n  \x1b[31m")
  assert error.message == shown
  assert str(error).split("\n") == [shown, "  a row", r"  \x1b[31m"]


def test_a_long_message_loses_its_middle():
  message = errors.UserError(f"start{'x' * 100_000}; the fix").message
  assert len(message) < 2_000
  assert message.startswith("startx") and message.endswith("x; the fix")
