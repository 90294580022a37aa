"""Where documents come from, in plain Python.

A source answers one question, `units(split)`: the documents, in parts that can
be read apart. Nothing is dropped: what cannot be read is an error that names
file and line. How a corpus falls into units, the corpus alone decides, never
the number of workers. `TfdsSource` alone needs TensorFlow, and only says so
when it is read.

Files come as a folder, a glob or one path, comma-separated:

  .txt                 one document a file; CRLF is read as a line feed
  .jsonl, .json        one document a line, the text in `field`
  any of these + .gz   the same, compressed (C4's published shards)
"""

import codecs
import contextlib
import dataclasses
import functools
import glob
import gzip
import hashlib
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pausejax import errors

SPLITS = ("train", "validation")
# Small files are read together up to so many bytes, as one unit of work.
_UNIT_BYTES = 2**24
_UNIT_DOCUMENTS = 8192  # The same where the corpus is no files.
# The most bytes of one line and of one .txt document, decompressed: a small .gz
# may hold a line that does not fit in memory.
MAX_LINE_BYTES = 2**28
MAX_TEXT_BYTES = 2**30
# How a pointer of Git LFS begins, and the most bytes that one may have.
_LFS_START = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024
_SUFFIXES = (".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz", ".json.gz")


@dataclasses.dataclass(frozen=True)
class Unit:
  """A part of a split that is read by itself.

  Attributes:
    key: tells these documents from others without reading large files: an edit
      that keeps the size of a file goes unnoticed.
    documents: yields the text of each document.
  """

  key: str
  documents: Callable[[], Iterator[str]]


class Source:
  """A corpus, read split by split in an order that never changes."""

  def describe(self) -> str:
    """Returns what the source is, the same in every process."""
    return repr(self)

  def units(self, split: str) -> list[Unit]:
    """Returns the parts of a split, in order."""
    raise NotImplementedError

  def documents(self, split: str) -> Iterator[str]:
    """Yields the text of each document of a split."""
    for unit in self.units(split):
      yield from unit.documents()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource(Source):
  """Text files; without `validation`, every n-th document is held out.

  Of .txt files every `holdout_every`-th file is held out, of JSON lines every
  `holdout_every`-th line: a choice that no host or worker count can move.
  """

  train: str
  validation: str
  field: str
  holdout_every: int

  def files(self, split: str) -> list[str]:
    """Returns the files that hold the split, sorted by name."""
    if self.validation:
      held_out = expand(self.validation)
      if split == "validation":
        return held_out
      # A folder may hold both: what is held out is not trained on.
      resolved = {pathlib.Path(f).resolve() for f in held_out}
      files = expand(self.train)
      return [f for f in files if pathlib.Path(f).resolve() not in resolved]
    held_out = split == "validation"
    files = expand(self.train)
    texts = [f for f in files if not is_json(f)]
    texts = [f for i, f in enumerate(texts) if self._is_held_out(i) == held_out]
    return sorted(texts + [f for f in files if is_json(f)])

  def keeps_line(self, line: int, split: str) -> bool:
    """Returns whether JSON line `line` (from 0) of a file is in the split."""
    return bool(self.validation) or (
      self._is_held_out(line) == (split == "validation")
    )

  def units(self, split: str) -> list[Unit]:
    """Returns the files; small ones that follow each other share a unit."""
    return [
      Unit(
        digest([f"{pathlib.Path(f).name} {size}" for f, size in group]),
        functools.partial(self._read, [f for f, _ in group], split),
      )
      for group in _together(self.files(split))
    ]

  def _read(self, files: Sequence[str], split: str) -> Iterator[str]:
    for path in files:
      if not is_json(path):
        yield read_text(path)
        continue
      for number, line in enumerate(read_lines(path)):
        if self.keeps_line(number, split):
          yield parse_line(line, path, number, self.field)

  def _is_held_out(self, index: int) -> bool:
    return index % self.holdout_every == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonSource(Source):
  """Documents that a function makes; every n-th is held out."""

  name: str
  load: Callable[[], Sequence[str]]
  holdout_every: int

  def describe(self) -> str:
    """Returns the name and how much is held out."""
    return f"{self.name}, one in {self.holdout_every} held out"

  def units(self, split: str) -> list[Unit]:
    """Returns runs of documents, in the function's order."""
    texts = [
      text
      for i, text in enumerate(self.load())
      if (i % self.holdout_every == 0) == (split == "validation")
    ]
    return [
      Unit(digest(part), functools.partial(iter, part))
      for start in range(0, len(texts), _UNIT_DOCUMENTS)
      for part in [texts[start : start + _UNIT_DOCUMENTS]]
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSource(Source):
  """A TensorFlow Datasets builder by name and version, text in `field`."""

  name: str
  data_dir: str
  field: str

  def units(self, split: str) -> list[Unit]:
    """Returns the files that TFDS prepared; imports TensorFlow."""
    from pausejax.data.seqio import sources

    return sources.tfds_units(self, split)


def expand(spec: str) -> list[str]:
  """Returns the files that a folder, glob or path names (comma-separated).

  Raises:
    UserError: nothing there, or a file of another kind.
  """
  files = []
  for part in filter(None, map(str.strip, spec.split(","))):
    path = pathlib.Path(part)
    if path.is_dir():
      found = [str(f) for f in path.iterdir() if f.name.endswith(_SUFFIXES)]
    elif path.exists():  # Its name may hold the signs of a glob.
      found = [part]
    else:
      found = glob.glob(part, recursive=True)
    found = [f for f in found if pathlib.Path(f).is_file()]
    if not found:
      raise errors.UserError(
        f"data.files: nothing at {part!r} (looked for {', '.join(_SUFFIXES)})"
      )
    files += found
  for f in files:
    if not f.endswith(_SUFFIXES):
      raise errors.UserError(
        f"data.files: {f}: unknown kind of file (known: {', '.join(_SUFFIXES)})"
      )
  return sorted(files)


def is_json(path: str) -> bool:
  """Returns whether the file holds JSON lines, by its name."""
  return path.removesuffix(".gz").endswith((".json", ".jsonl"))


def read_text(path: str) -> str:
  """Returns the whole file as one document, its line ends as line feeds.

  Raises:
    UserError: what `read_whole` raises, not UTF-8, or a NUL.
  """
  return _decode(read_whole(path).replace(b"\r\n", b"\n"), path, 0)


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
    UserError: not UTF-8, not JSON, no such field, or the field is not a text.
  """
  where = f"{path}:{number + 1}"
  decoded = _decode(line, path, number)
  try:
    record = json.loads(decoded)
  except json.JSONDecodeError as e:
    raise errors.UserError(
      f"{where}: malformed JSON at column {e.colno}: {e.msg}"
    ) from e
  except (ValueError, RecursionError) as e:
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
      f"{where}: field {field!r} is not a text: {_start(record[field])}"
    )
  try:
    record[field].encode("utf-8")
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f"{where}: field {field!r} holds half a surrogate pair, "
      f"\\u{ord(e.object[e.start]):04x}, which is no character"
    ) from e
  if "\0" in record[field]:
    raise errors.UserError(
      f"{where}: field {field!r} holds a NUL, which is no text"
    )
  return record[field].removeprefix("\ufeff")


def require_documents(source: Source, split: str) -> Iterator[str]:
  """Yields the documents of the split; raises if there is none at all."""
  count = 0
  for text in source.documents(split):
    count += 1
    yield text
  if not count:
    raise no_documents(source, split)


def no_documents(source: Source, split: str) -> errors.UserError:
  """Returns the error of a split without any document."""
  return errors.UserError(
    f"no document in split {split!r} of {source.describe()}; is the source "
    "empty, or smaller than data.holdout_every?"
  )


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
    with _opened(path) as f:
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
def _opened(path: str) -> Iterator[Any]:
  """Opens a file for reading bytes, decompressed if its name ends in .gz."""
  if "\0" in path:
    raise errors.UserError(f"{path!r}: a file name cannot hold a NUL")
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
      raise EOFError("it has no bytes, so it is not gzip")
    with gzip.GzipFile(fileobj=raw) as f:
      yield f


def _too_long(where: str, what: str, limit: int) -> errors.UserError:
  return errors.UserError(
    f"{where}: this {what} has more than {limit:,} bytes, the most that is "
    "read; split it"
  )


def _together(files: Sequence[str]) -> list[list[tuple[str, int]]]:
  """Returns (file, bytes) pairs in groups of `_UNIT_BYTES` and little more."""
  groups, room = [], 0
  for path in files:
    size = pathlib.Path(path).stat().st_size
    if room <= 0:
      groups.append([])
      room = _UNIT_BYTES
    groups[-1].append((path, size))
    room -= size
  return groups


def digest(texts: Iterable[str]) -> str:
  """Returns the sha256 of texts; where each of them ends matters."""
  total = hashlib.sha256()
  for text in texts:
    data = text.encode("utf-8")
    total.update(len(data).to_bytes(8, "little") + data)
  return total.hexdigest()


def _start(value: object) -> str:
  """Returns how a value looks, cut to fit an error message."""
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
    raise errors.UserError(f"{path}:{line}: a NUL, which is no text")
  return text
