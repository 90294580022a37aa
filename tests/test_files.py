"""Files appear whole or not at all; lines end at line feeds."""

import pathlib

import pytest

from pausejax import files


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
