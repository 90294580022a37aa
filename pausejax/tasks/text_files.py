"""Reads one text file: its bytes, its lines, its documents.

Lines end at "\\n" only. Content that is not text is an error that names file
and line: a Git LFS pointer, a NUL, bytes that are not UTF-8, an overlong line.
A byte order mark at the start is removed.
"""

import codecs
import contextlib
import dataclasses
import functools
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

from pausejax import errors, json_files

# Maximum bytes of one line and of one .txt document, decompressed: a small .gz
# may contain a line that does not fit in memory.
MAX_LINE_BYTES = 2**28
MAX_TEXT_BYTES = 2**30
# The start of a Git LFS pointer file, and its maximum size.
_LFS_START = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024


@dataclasses.dataclass
class Reading:
  """Counts of what was read.

  Attributes:
    documents: documents of both splits; the index of the next one.
    blank_lines: blank lines of JSON lines files, which are skipped.
    crlf_files: .txt files whose CRLF were read as line feeds.
  """

  documents: int = 0
  blank_lines: int = 0
  crlf_files: int = 0


def is_json(path: str) -> bool:
  """Returns whether the file contains JSON lines, by its name."""
  return path.removesuffix(".gz").endswith((".json", ".jsonl"))


def read_text(path: str, reading: Reading) -> str:
  """Returns the whole file as one document, its line ends as line feeds.

  Raises:
    UserError: what `read_whole` raises, not UTF-8, or a NUL.
  """
  data = read_whole(path)
  reading.crlf_files += b"\r\n" in data
  return _decode(data.replace(b"\r\n", b"\n"), path, 0)


def read_whole(path: str) -> bytes:
  """Returns the bytes of a file, decompressed, without a byte order mark.

  Raises:
    UserError: what `read_lines` raises, or longer than `MAX_TEXT_BYTES`.
  """
  lines, size = [], 0
  for line in read_lines(path):
    size += len(line)
    if size > MAX_TEXT_BYTES:
      raise _too_long(path, "file", MAX_TEXT_BYTES)
    lines.append(line)
  return b"".join(lines)


def parse_line(line: bytes, path: str, number: int, field: str) -> str:
  """Returns `field` of one JSON line; `number` counts from 0.

  Raises:
    UserError: not UTF-8, not JSON, a key twice, no such field, or the field is
      not a string.
  """
  where = f"{path}:{number + 1}"
  decoded = _decode(line, path, number)
  try:
    record = json_files.loads(decoded)
  except json.JSONDecodeError as e:
    raise errors.UserError(
      f"{where}: malformed JSON at column {e.colno}: {e.msg}"
    ) from e
  except ValueError as e:
    raise errors.UserError(f"{where}: malformed JSON: {e}") from e
  if not isinstance(record, dict):
    raise errors.UserError(
      f"{where}: expected a JSON object on each line, got {_start(record)}"
    )
  if field not in record:
    raise errors.UserError(
      f"{where}: no field {field!r}{errors.nearest(field, record)}; name it "
      "with --config.data.field="
    )
  if not isinstance(record[field], str):
    raise errors.UserError(
      f"{where}: field {field!r} is not a string: {_start(record[field])}"
    )
  try:
    record[field].encode("utf-8")
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f"{where}: field {field!r} has half a surrogate pair, "
      f"\\u{ord(e.object[e.start]):04x}, which is not a character"
    ) from e
  if "\0" in record[field]:
    raise errors.UserError(
      f"{where}: field {field!r} contains a NUL, which is not text"
    )
  return record[field].removeprefix("\ufeff")


def records(path: str, reading: Reading) -> Iterator[tuple[int, bytes | None]]:
  """Yields number and bytes of each JSON line that is not blank.

  For a .txt file, yields None instead of its bytes, which are read later.
  """
  if not is_json(path):
    yield 0, None
    return
  for number, line in enumerate(read_lines(path)):
    if line.isspace():
      reading.blank_lines += 1
    else:
      yield number, line


def read_lines(path: str) -> Iterator[bytes]:
  r"""Yields the lines of a file, decompressed if its name ends in .gz.

  A line ends at "\n" only, and keeps it. A byte order mark at the start of the
  file is not part of its first line.

  Raises:
    UserError: the file cannot be opened or read to its end, it is a Git LFS
      pointer, or a line is longer than `MAX_LINE_BYTES`.
  """
  mark = codecs.BOM_UTF8
  try:
    with _open_text(path) as f:
      lines = iter(functools.partial(f.readline, MAX_LINE_BYTES + 1), b"")
      for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_BYTES:
          raise _too_long(f"{path}:{number}", "line", MAX_LINE_BYTES)
        line = line.removeprefix(mark) if number == 1 else line
        if line:
          yield line
  except (OSError, EOFError, zlib.error) as e:
    raise errors.UserError(f"{path}: cannot be read: {e}") from e


@contextlib.contextmanager
def _open_text(path: str) -> Iterator[Any]:
  """Opens a file for reading bytes, decompressed if its name ends in .gz."""
  if "\0" in path:
    raise errors.UserError(f"{path!r}: a file name cannot contain a NUL")
  with open(path, "rb") as raw:
    start = raw.read(_LFS_BYTES)
    if start.startswith(_LFS_START) and b"\noid sha256:" in start:
      raise errors.UserError(
        f"{path}: is a Git LFS pointer, not the file itself; fetch it with "
        "`git lfs pull`"
      )
    raw.seek(0)
    if not path.endswith(".gz"):
      yield raw
      return
    if not start:
      raise EOFError("it is empty, so it is not gzip")
    with gzip.GzipFile(fileobj=raw) as f:
      yield f


def _too_long(where: str, what: str, limit: int) -> errors.UserError:
  return errors.UserError(
    f"{where}: this {what} has more than {limit:,} bytes, the maximum; split it"
  )


def _start(value: object) -> str:
  """Returns the repr of a value, cut to fit an error message."""
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:60]}..."


def _decode(data: bytes, path: str, number: int) -> str:
  """Returns the text of bytes that begin at line `number` (from 0)."""
  try:
    text = data.decode("utf-8")
  except UnicodeDecodeError as e:
    raise errors.UserError(
      f"{path}:{number + 1 + data[: e.start].count(10)}: byte "
      f"{data[e.start]:#04x} at offset {e.start} is not UTF-8"
    ) from e
  if "\0" in text:
    line = number + 1 + data[: data.index(0)].count(10)
    raise errors.UserError(f"{path}:{line}: a NUL, which is not text")
  return text
