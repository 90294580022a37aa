"""Records on disk: ArrayRecord files, and an index of their contents.

  NAME.array_record ...   raw records, one per group, uncompressed
  units/store.json        what the store is built from, written first
  index.json              {..., SPLIT: {..., "shards": [row, ...]}, ...}

A row is {"file", "num_records", "num_bytes", "sha256"}. Every file is
written atomically, and the index last, so a folder with an index is complete.
Sizes and numbers of records are compared whenever a split is opened; `verify`
also compares the digests. A file without records is never written.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from etils import epath

from pausejax import errors, files, json_files
from pausejax.tasks.corpora import SPLITS

INDEX = "index.json"
UNITS = "units"  # State for resuming an interrupted build.
HEAD = "store.json"
_FIX = (
  "remove it and repeat the `pausejax segments` command of this store, which "
  "builds only what is missing"
)
_OPEN_AT_ONCE = 32
SHARDS = [{"file": str, "num_records": int, "num_bytes": int, "sha256": str}]


def begin(folder: pathlib.Path, head: dict) -> None:
  """Creates the folder of a store, or checks that it has the same store.

  Args:
    folder: folder of the store.
    head: the settings that determine its contents.

  Raises:
    UserError: the folder has another store or other files, or cannot be
      created.
  """
  path = folder / UNITS / HEAD
  # A kill may have left units/ without a head.
  foreign = folder.is_dir() and any(p.name != UNITS for p in folder.iterdir())
  if foreign and not path.exists():
    raise errors.UserError(
      f"{folder} already exists and is not an unfinished store; remove it or "
      "choose another --out"
    )
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = _temporary(path)
    own.write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
    # If two processes start at the same time, one of them writes it.
    with contextlib.suppress(FileExistsError):
      os.link(own, path)
    own.unlink()
  except OSError as e:
    raise errors.UserError(f"{folder}: cannot be created: {e}") from e
  fix = f"remove {folder} or choose another --out"
  saved = json_files.read(path, dict, fix)
  errors.require_same(
    f"the store in {folder} (remove it or choose another --out)", saved, head
  )


class RecordWriter:
  """Writes one file of records, which is renamed when it is complete."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._temporary = _temporary(path)
    self._writer: Any = None
    self._num_records = 0

  def write(self, record: bytes) -> None:
    """Adds a record.

    Raises:
      UserError: the file cannot be written.
    """
    # The package has no type information.
    from array_record.python import array_record_module  # pyright: ignore

    with _cannot_write(self._path):
      if self._writer is None:
        # One record per group: a seeded order reads them one by one.
        self._writer = array_record_module.ArrayRecordWriter(
          str(self._temporary), "group_size:1,uncompressed"
        )
      self._writer.write(record)
    self._num_records += 1

  def close(self) -> list[dict]:
    """Renames the file; returns its row, or no row if it has no record."""
    if self._writer is None:
      return []
    with _cannot_write(self._path):
      self._writer.close()
      row = {
        "file": self._path.name,
        "num_records": self._num_records,
        "num_bytes": self._temporary.stat().st_size,
        "sha256": _sha256(self._temporary),
      }
      if has_size(self._path.parent, row) and row["sha256"] == _sha256(
        self._path
      ):
        self._temporary.unlink()  # The file is there already.
      else:
        self._temporary.replace(self._path)
    return [row]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file atomically, unless it is there already."""
  text = json.dumps(value, indent=2) + "\n"
  with _cannot_write(path):
    if not path.exists() or path.read_text("utf-8") != text:
      files.write(path, text)


def read_index(
  folder: epath.Path,
  fields: Mapping[str, json_files.Shape] | None = None,
  *,
  format: tuple[str, int] | None = None,
) -> dict:
  """Returns the index of a folder.

  Args:
    folder: folder of the store.
    fields: required fields of each split, besides its shards.
    format: as in `json_files.read`.

  Raises:
    UserError: no index, a damaged one, or one of a newer format.
  """
  path = folder / INDEX
  if not path.is_file():
    raise errors.UserError(
      f"data.segments_dir: no segments at {str(folder)!r}; build them with "
      "`pausejax segments --config=... --out=...`"
    )
  index = json_files.read(
    path,
    {split: {"shards": SHARDS, **(fields or {})} for split in SPLITS},
    "build the store again with `pausejax segments`",
    format=format,
  )
  rows = [row for split in SPLITS for row in index[split]["shards"]]
  for name in (row["file"] for row in rows):
    # A store may be copied from elsewhere: read only files of its folder.
    if not files.is_name(name):
      raise errors.UserError(f"{path} is damaged: {name!r} is not a file name")
  return index


def require_formats(folder: epath.Path, *formats: tuple[str, int]) -> None:
  """Raises UserError if a newer version wrote the store.

  Args:
    folder: folder of the store.
    formats: of each kind of store, as in `json_files.read`.
  """
  path = folder / INDEX
  for format in formats if path.is_file() else ():
    json_files.read(path, dict, _FIX, format=format)


def open_records(folder: epath.Path, rows: Sequence[dict]) -> Any:
  """Returns an `ArrayRecordDataSource` over the files of some rows.

  Raises:
    UserError: a file is missing or is not what its row says.
  """
  import grain

  if not rows:
    raise errors.UserError(
      f"{folder / INDEX} is damaged: a split has no file; build the store "
      "again with `pausejax segments`"
    )
  with futures.ThreadPoolExecutor(_OPEN_AT_ONCE) as pool:
    problems = list(pool.map(lambda row: _problem(folder, row), rows))
  if problem := next(filter(None, problems), ""):
    raise errors.UserError(problem)
  paths = [f"{folder / r['file']}[0:{r['num_records']}]" for r in rows]
  return grain.sources.ArrayRecordDataSource(paths)


def locate_record(rows: Sequence[dict], record: int) -> tuple[str, int]:
  """Returns the file of a record of the split, and its index in the file."""
  for row in rows:
    if record < row["num_records"]:
      return row["file"], record
    record -= row["num_records"]
  raise IndexError(record)


def verify(folder: epath.Path) -> Iterator[tuple[str, str]]:
  """Yields (file, problem or "") for every file; also compares digests."""
  index = read_index(folder)
  for split in SPLITS:
    for row in index[split]["shards"]:
      path = folder / row["file"]
      problem = _problem(folder, row)
      if not problem and _sha256(path) != row["sha256"]:
        problem = f"{path}: the sha256 is not that of the index; {_FIX}"
      yield row["file"], problem


def has_size(folder: pathlib.Path, row: dict) -> bool:
  """Returns whether the file of a row exists with the right size."""
  path = folder / row["file"]
  return path.is_file() and path.stat().st_size == row["num_bytes"]


def _problem(folder: epath.Path, row: dict) -> str:
  """Returns the problem with a file, "" if none; does not read all of it."""
  from array_record.python import array_record_module  # pyright: ignore

  path, expected = folder / row["file"], row["num_records"]
  if not path.is_file():
    return f"{path} is missing; repeat `pausejax segments` to build it again"
  num_bytes = path.stat().length
  if num_bytes != row["num_bytes"]:
    return (
      f"{path} has {num_bytes:,} bytes, the index says {row['num_bytes']:,}: "
      f"truncated, or of another store; {_FIX}"
    )
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    num_records = reader.num_records()
    reader.close()
  except RuntimeError as e:
    return f"{path} is damaged: {e}; {_FIX}"
  if num_records != expected:
    return (
      f"{path} has {num_records:,} records, the index says {expected:,}; {_FIX}"
    )
  return ""


def _temporary(path: pathlib.Path) -> pathlib.Path:
  """Returns a unique name, as two processes may write the same file."""
  return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def _sha256(path: os.PathLike) -> str:
  with epath.Path(path).open("rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def _cannot_write(path: pathlib.Path) -> Iterator[None]:
  """Turns errors of the disk into one line."""
  try:
    yield
  except (OSError, RuntimeError) as e:
    raise errors.UserError(f"{path}: cannot be written: {e}") from e
