"""Where the records of downstream tasks come from.

  Files      a published data set: local copies in the published format
             (`data.local_dir`), or TensorFlow Datasets by name
  Generated  a function that makes them

Both yield (where, record): `where` names file and line for error messages, and
`text`, `words` and `texts` take a record apart with messages to go behind it.
Nothing is dropped silently: what cannot be read is an error that says where,
and what a task leaves out (`Unusable`) is counted. A line that holds nothing
but ASCII white space is no record, in every format.
"""

import collections
import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pausejax import errors
from pausejax.config import DataConfig
from pausejax.tasks import text_files

Located = tuple[str, Any]


class NotThere(errors.UserError):
  """A folder that does not have the files of a split."""


class Unusable(ValueError):
  """Raised by a task for a record it leaves out; counted by its message."""


class Source(Protocol):
  """Records by split, in an order that never changes."""

  @property
  def splits(self) -> Sequence[str]:
    """Names of the splits; "train" comes first where there is one."""
    ...

  def describe(self, data: DataConfig) -> str:
    """Returns where `records` will read, the same in every process."""
    ...

  def records(self, split: str, data: DataConfig) -> Iterator[Located]:
    """Yields (where, record)."""
    ...


def json_lines(path: pathlib.Path) -> Iterator[Located]:
  """Yields one JSON object a line, of .jsonl or .jsonl.gz; skips blank lines.

  Raises:
    UserError: not UTF-8, not JSON, not an object, or an object has a key
      twice; names file and line.
  """
  for where, line in lines(path):
    record = _parse(line, where)
    if not isinstance(record, dict):
      raise errors.UserError(f"{where}: expected a JSON object on each line")
    yield where, record


def lines(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Yields (where, line without its end) for each line that is not blank."""
  for number, line in enumerate(text_files.read_lines(str(path)), start=1):
    if line.strip():
      yield f"{path}:{number}", line.rstrip(b"\r\n")


def json_document(path: pathlib.Path) -> Iterator[Located]:
  """Yields the records of one JSON document: a list, or "data" of an object.

  Raises:
    UserError: not UTF-8, not JSON, an object has a key twice, or neither of
      the two.
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
  """Returns the value that one JSON document spells.

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
  """Returns a field as `text` does, one that is not empty.

  Raises:
    UserError: no such field, or not a text.
    Unusable: nothing but white space.
  """
  found = text(record, field)
  if not found:
    raise Unusable(f"an empty {field!r}")
  return found


def texts(record: Any, field: str) -> list[str]:
  """Returns a field that is a list of texts, as `text` returns one.

  Raises:
    UserError: no such field, or not a list of texts.
  """
  if not isinstance(record, dict) or not isinstance(record.get(field), list):
    raise errors.UserError(f"field {field!r}: expected a list of texts")
  return [_text(value, field) for value in record[field]]


def text_lines(path: pathlib.Path) -> Iterator[Located]:
  """Yields {"text": line} for each line of a text file that is not blank."""
  for where, line in lines(path):
    try:
      yield where, {"text": line.decode("utf-8")}
    except UnicodeDecodeError as e:
      raise errors.UserError(f"{where}: not UTF-8: {e.reason}") from e


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
  """A published data set.

  Attributes:
    files: split -> pattern of its files below `data.local_dir`, or several
      patterns of which the first that matches anything counts ("*" as in
      glob; ".gz" may follow).
    read: file -> its located records.
    tfds: name with version in TensorFlow Datasets, "" if there is none.
    tfds_splits: split -> its name in TFDS, where that differs.
    from_tfds: TFDS example (bytes decoded, arrays as lists) -> the record that
      `read` would have yielded.
  """

  files: Mapping[str, str | Sequence[str]]
  read: Callable[[pathlib.Path], Iterator[Located]] = json_lines
  tfds: str = ""
  tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  from_tfds: Callable[[dict[str, Any]], Any] = dict

  def __post_init__(self):
    for split, found in self.files.items():
      for pattern in [found] if isinstance(found, str) else found:
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

  def records(self, split: str, data: DataConfig) -> Iterator[Located]:
    """Yields the records of local files; `data/opening.py` reads TFDS."""
    errors.require_one_of("split", split, self.files)
    errors.require(
      bool(data.local_dir),
      "data.local_dir: this data set is not in TensorFlow Datasets; name the "
      "folder of its files with --local_dir=, in a config data.local_dir",
    )
    yield from self._read_all(self.find(split, pathlib.Path(data.local_dir)))

  def find(self, split: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a split in a folder, sorted.

    Raises:
      NotThere: no such folder, or no such file in it.
      UserError: a file is there both as it is and compressed.
    """
    if not folder.is_dir():
      raise NotThere(f"data.local_dir: no folder {str(folder)!r}")
    patterns = self.files[split]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
      found = {*folder.glob(pattern), *folder.glob(pattern + ".gz")}
      if found:
        _require_one_form(found)
        return sorted(found)
    there = sorted(p.name for p in folder.iterdir())
    close = [difflib.get_close_matches(p, there, n=1) for p in patterns]
    hints = dict.fromkeys(repr(name) for names in close for name in names)
    hint = f"; did you mean {' or '.join(hints)}?" if hints else ""
    raise NotThere(
      f"data.local_dir: no {' or '.join(patterns)} for split {split!r} in "
      f"{folder}{hint} (found: {', '.join(there[:8]) or 'nothing'})"
    )

  def _read_all(self, paths: Sequence[pathlib.Path]) -> Iterator[Located]:
    """Yields the records of files; raises if one has all that another has."""
    seen: dict[pathlib.Path, set[bytes]] = {}
    for path in paths:
      found: set[bytes] = set()
      for where, record in self.read(path):
        if len(paths) > 1:
          found.add(_fingerprint(record))
        yield where, record
      for other, theirs in seen.items():
        if found and theirs and (found <= theirs or theirs <= found):
          raise errors.UserError(
            f"{other} and {path}: every record of one is in the other as well; "
            "leave only one of them in the folder"
          )
      seen[path] = found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
  """Records that functions make: split -> a function that yields them all."""

  name: str
  make: Mapping[str, Callable[[], Iterator[Any]]]

  @property
  def splits(self) -> Sequence[str]:
    """Names of the splits."""
    return tuple(self.make)

  def describe(self, data: DataConfig) -> str:
    """Returns the name; the settings do not matter."""
    del data
    return self.name

  def records(self, split: str, data: DataConfig) -> Iterator[Located]:
    """Yields the records of the split."""
    del data
    errors.require_one_of("split", split, self.make)
    for number, record in enumerate(self.make[split]()):
      yield f"{self.name} {split} {number}", record


def one_form(path: pathlib.Path) -> pathlib.Path:
  """Returns a file, or the one with ".gz" behind its name if that is there.

  Raises:
    UserError: both are there.
  """
  zipped = path.with_name(f"{path.name}.gz")
  found = {p for p in (path, zipped) if p.exists()}
  _require_one_form(found)
  return zipped if found == {zipped} else path


def _require_one_form(paths: set[pathlib.Path]) -> None:
  """Raises if a file is there both as it is and compressed."""
  for path in sorted(paths):
    zipped = path.with_name(f"{path.name}.gz")
    if zipped in paths:
      raise errors.UserError(
        f"{path} and {zipped}: the same file twice; leave only one of them in "
        "the folder"
      )


def _fingerprint(record: Any) -> bytes:
  """Returns the sha256 of what a record says."""
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()


def _text(value: Any, field: str) -> str:
  if not isinstance(value, str):
    raise errors.UserError(
      f"field {field!r}: expected a text, got {value!r:.60}"
    )
  try:
    value.encode("utf-8")
  except UnicodeEncodeError as e:
    raise errors.UserError(
      f"field {field!r}: holds half a surrogate pair, which is no character"
    ) from e
  return value.strip()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the object; a key given twice would hide a value."""
  made = dict(pairs)
  if len(made) < len(pairs):
    ((key, count),) = collections.Counter(k for k, _ in pairs).most_common(1)
    raise ValueError(f"the key {key!r} is there {count} times")
  return made


def _parse(data: bytes, where: str) -> Any:
  try:
    return json.loads(data.decode("utf-8"), object_pairs_hook=_once)
  except UnicodeDecodeError as e:
    raise errors.UserError(f"{where}: not UTF-8: {e.reason}") from e
  except json.JSONDecodeError as e:
    line = f" (line {e.lineno})" if e.lineno > 1 else ""
    raise errors.UserError(
      f"{where}: malformed JSON at column {e.colno}{line}: {e.msg}"
    ) from e
  except (ValueError, RecursionError) as e:
    raise errors.UserError(f"{where}: malformed JSON: {e}") from e
