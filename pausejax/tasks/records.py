"""Sources of the records of downstream tasks.

  Files      a published data set: local copies in the published format
             (`data.local_dir`), or TensorFlow Datasets by name
  Generated  a function that generates them

Both yield (where, record): `where` names file and line for error messages, and
`text`, `words` and `texts` read the fields of a record and check their types.
Nothing is dropped silently: what cannot be read is an error that names file and
line, and what a task leaves out (`Unusable`) is counted. Lines of ASCII white
space only are skipped in every format.
"""

import dataclasses
import difflib
import hashlib
import itertools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pausejax import errors, json_files
from pausejax.config import DataConfig
from pausejax.tasks import text_files

LocatedRecord = tuple[str, Any]


class MissingData(errors.UserError):
  """The folder does not exist or has no files of the split."""


class Unusable(ValueError):
  """Raised by a task for a record to leave out; counted by message."""


class RecordSource(Protocol):
  """Records by split, in an order that never changes."""

  @property
  def splits(self) -> Sequence[str]:
    """Names of the splits; "train" comes first if it exists."""
    ...

  def describe(self, data: DataConfig) -> str:
    """Returns what `records` will read, the same in every process."""
    ...

  def records(self, split: str, data: DataConfig) -> Iterator[LocatedRecord]:
    """Yields (where, record)."""
    ...


def json_lines(path: pathlib.Path) -> Iterator[LocatedRecord]:
  """Yields one JSON object per line of .jsonl(.gz); skips blank lines.

  Raises:
    UserError: not UTF-8, not JSON, not an object, or an object has a key
      twice; the message names file and line.
  """
  for where, line in nonblank_lines(path):
    record = _parse(line, where)
    if not isinstance(record, dict):
      raise errors.UserError(f"{where}: expected a JSON object on each line")
    yield where, record


def nonblank_lines(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Yields (where, line without its end) for each line that is not blank."""
  for number, line in enumerate(text_files.read_lines(str(path)), start=1):
    if line.strip():
      yield f"{path}:{number}", line.rstrip(b"\r\n")


def json_document(path: pathlib.Path) -> Iterator[LocatedRecord]:
  """Yields the records of one JSON document: a list, or "data" of an object.

  Raises:
    UserError: not UTF-8, not JSON, an object has a key twice, or the document
      is neither.
  """
  document = json_value(path)
  rows = document.get("data") if isinstance(document, dict) else document
  if not isinstance(rows, list):
    raise errors.UserError(
      f"{path}: expected a JSON list, or an object whose 'data' is one"
    )
  for number, row in enumerate(rows):
    yield f"{path} record {number}", row


def json_value(path: pathlib.Path) -> Any:
  """Returns the value of one JSON document.

  Raises:
    UserError: not UTF-8, not JSON, or an object has a key twice.
  """
  return _parse(text_files.read_whole(str(path)), str(path))


def text(record: Any, field: str) -> str:
  """Returns a field of a record, without white space around it.

  Raises:
    UserError: no such field, or not a text.
  """
  if not isinstance(record, dict):
    raise errors.UserError(f"expected a JSON object, got {record!r:.60}")
  if field not in record:
    raise errors.UserError(f"no field {field!r}{errors.nearest(field, record)}")
  return _text(record[field], field)


def words(record: Any, field: str) -> str:
  """Returns a non-empty field, as `text` does.

  Raises:
    UserError: no such field, or not a text.
    Unusable: nothing but white space.
  """
  value = text(record, field)
  if not value:
    raise Unusable(f"an empty {field!r}")
  return value


def texts(record: Any, field: str) -> list[str]:
  """Returns a list of strings, each as `text` returns it.

  Raises:
    UserError: no such field, or not a list of texts.
  """
  if not isinstance(record, dict) or not isinstance(record.get(field), list):
    raise errors.UserError(f"field {field!r}: expected a list of texts")
  return [_text(value, field) for value in record[field]]


def text_lines(path: pathlib.Path) -> Iterator[LocatedRecord]:
  """Yields {"text": line} for each line of a text file that is not blank."""
  for where, line in nonblank_lines(path):
    try:
      yield where, {"text": line.decode("utf-8")}
    except UnicodeDecodeError as e:
      raise errors.UserError(f"{where}: not UTF-8: {e.reason}") from e


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
  """A published data set.

  Attributes:
    files: split -> pattern of its files below `data.local_dir`, or several
      patterns, of which the first one with a match is used ("*" as in glob;
      ".gz" may follow).
    read: file -> its (where, record) pairs.
    tfds: name with version in TensorFlow Datasets, "" if there is none.
    tfds_splits: split -> its name in TFDS, where that differs.
    from_tfds: TFDS example (bytes decoded, arrays as lists) -> the record that
      `read` would have yielded.
  """

  files: Mapping[str, str | Sequence[str]]
  read: Callable[[pathlib.Path], Iterator[LocatedRecord]] = json_lines
  tfds: str = ""
  tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  from_tfds: Callable[[dict[str, Any]], Any] = dict

  def __post_init__(self):
    for split, value in self.files.items():
      for pattern in [value] if isinstance(value, str) else value:
        errors.require(
          bool(pattern) and not pathlib.PurePath(pattern).is_absolute(),
          f"records.Files: files of split {split!r}: expected patterns below "
          f"data.local_dir, such as 'train.jsonl', got {pattern!r}",
        )

  @property
  def splits(self) -> Sequence[str]:
    """Names of the splits."""
    return tuple(self.files)

  def describe(self, data: DataConfig) -> str:
    """Returns the folder, or the name in TFDS."""
    if data.local_dir:
      return data.local_dir
    return f"TFDS {self.tfds}" if self.tfds else "files in data.local_dir"

  def records(self, split: str, data: DataConfig) -> Iterator[LocatedRecord]:
    """Yields the records of local files; `data/opening.py` reads TFDS."""
    yield from self._read_all(self.paths(split, data))

  def paths(self, split: str, data: DataConfig) -> list[pathlib.Path]:
    """Returns the local files of a split, sorted.

    Raises:
      UserError: no such split, no folder is named, or as `find`.
    """
    errors.require_one_of("split", split, self.files)
    errors.require(
      bool(data.local_dir),
      "data.local_dir: this data set is not in TensorFlow Datasets; name the "
      "folder of its files with --local_dir=, in a config data.local_dir",
    )
    return self.find(split, pathlib.Path(data.local_dir))

  def find(self, split: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a split in a folder, sorted.

    Raises:
      MissingData: no such folder, or no such file in it.
      UserError: a file exists both compressed and uncompressed.
    """
    if not folder.is_dir():
      raise MissingData(f"data.local_dir: no folder {str(folder)!r}")
    patterns = self.files[split]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
      matches = {*folder.glob(pattern), *folder.glob(pattern + ".gz")}
      if matches:
        _require_one_form(matches)
        return sorted(matches)
    available = sorted(p.name for p in folder.iterdir())
    close = [difflib.get_close_matches(p, available, n=1) for p in patterns]
    hints = dict.fromkeys(repr(name) for names in close for name in names)
    hint = f"; did you mean {' or '.join(hints)}?" if hints else ""
    raise MissingData(
      f"data.local_dir: no {' or '.join(patterns)} for split {split!r} in "
      f"{folder}{hint} (files there: {', '.join(available[:8]) or 'none'})"
    )

  def _read_all(self, paths: Sequence[pathlib.Path]) -> Iterator[LocatedRecord]:
    """Yields the records of files; raises if one contains another."""
    seen: dict[pathlib.Path, set[bytes]] = {}
    for path in paths:
      ours: set[bytes] = set()
      for where, record in self.read(path):
        if len(paths) > 1:
          ours.add(_fingerprint(record))
        yield where, record
      for other, theirs in seen.items():
        if ours and theirs and (ours <= theirs or theirs <= ours):
          raise errors.UserError(
            f"{other} and {path}: every record of one is also in the other; "
            "keep only one of them in the folder"
          )
      seen[path] = ours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
  """Generated records: split -> a function that yields them."""

  name: str
  make: Mapping[str, Callable[[], Iterator[Any]]]

  @property
  def splits(self) -> Sequence[str]:
    """Names of the splits."""
    return tuple(self.make)

  def describe(self, data: DataConfig) -> str:
    """Returns the name; the settings are not used."""
    del data
    return self.name

  def records(self, split: str, data: DataConfig) -> Iterator[LocatedRecord]:
    """Yields the records of the split."""
    del data
    errors.require_one_of("split", split, self.make)
    for number, record in enumerate(self.make[split]()):
      yield f"{self.name} {split} {number}", record


def is_held_out(text: str, every: int) -> bool:
  """Returns whether a checksum holds a text out: one text in `every`."""
  return zlib.crc32(text.encode()) % every == 0


def of_split(
  texts: Iterable[str], split: str, *, count: int, every: int
) -> Iterator[str]:
  """Returns the first `count` of the texts that belong to a split.

  Args:
    texts: generated, as many as are needed.
    split: "train" or "validation".
    count: examples of the split.
    every: one text in so many is held out.
  """
  wanted = split == "validation"
  mine = (text for text in texts if is_held_out(text, every) == wanted)
  return itertools.islice(mine, count)


def one_form(path: pathlib.Path) -> pathlib.Path:
  """Returns the path, or the path with ".gz" appended if that file exists.

  Raises:
    UserError: both files exist.
  """
  zipped = path.with_name(f"{path.name}.gz")
  existing = {p for p in (path, zipped) if p.exists()}
  _require_one_form(existing)
  return zipped if existing == {zipped} else path


def _require_one_form(paths: set[pathlib.Path]) -> None:
  """Raises if a file exists both compressed and uncompressed."""
  for path in sorted(paths):
    zipped = path.with_name(f"{path.name}.gz")
    if zipped in paths:
      raise errors.UserError(
        f"{path} and {zipped}: the same file twice; keep only one of them in "
        "the folder"
      )


def _fingerprint(record: Any) -> bytes:
  """Returns the sha256 of the contents of a record."""
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()


def _text(value: Any, field: str) -> str:
  if not isinstance(value, str):
    raise errors.UserError(
      f"field {field!r}: expected a string, got {value!r:.60}"
    )
  try:
    value.encode("utf-8")
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f"field {field!r}: has half a surrogate pair, which is not a character"
    ) from e
  return value.strip()


def _parse(data: bytes, where: str) -> Any:
  try:
    return json_files.loads(data.decode("utf-8"))
  except UnicodeDecodeError as e:
    raise errors.UserError(f"{where}: not UTF-8: {e.reason}") from e
  except json.JSONDecodeError as e:
    line = f" (line {e.lineno})" if e.lineno > 1 else ""
    raise errors.UserError(
      f"{where}: malformed JSON at column {e.colno}{line}: {e.msg}"
    ) from e
  except ValueError as e:
    raise errors.UserError(f"{where}: malformed JSON: {e}") from e
