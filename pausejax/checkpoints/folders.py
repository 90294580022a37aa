"""Lists the checkpoints of a folder and checks that they are intact.

Imports no JAX. A step is intact if it has the parts below, if meta.json matches
its SHA-256 in meta.sha256 (in the format of `sha256sum -c`), if every file of
`data` matches its SHA-256 in meta.json, and if meta.json, the data and the
folder name the same step. `arrays.py` compares the digests of arrays.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from pausejax import errors, files, json_files
from pausejax.buckets import copies, urls
from pausejax.buckets.layout import ASIDE, CHECKPOINTS
from pausejax.checkpoints import upgrade

META, META_SHA256 = "meta.json", "meta.sha256"
# Items of arrays; not every step has the last two.
ITEMS = ("params", "opt_state", "average", "spikes")
REASON = "set_aside.txt"  # In a step that was set aside: why.
_PARTS = ("commit_success.txt", "data")
_ARRAY_PARTS = ("_METADATA", "manifest.ocdbt")  # The second of a database.
_FIELDS = {
  "format": int,
  "step": int,
  "leaves": {str: [([int], str)]},
  "digests": {str: [int]},
  "data_sha256?": {str: str},
}


class Damaged(Exception):
  """A step differs from what was saved; the message names the file or leaf."""


@dataclasses.dataclass(frozen=True)
class Small:
  """The small files of an intact step: meta.json, and the files of `data`."""

  meta: dict[str, Any]
  data: dict[str, bytes]


def numbered(folder: pathlib.Path) -> list[int]:
  """Returns the steps of a folder, intact or not, oldest first.

  Raises:
    OSError: the folder exists, but cannot be read.
  """
  try:
    names = os.listdir(folder)
  except FileNotFoundError:
    return []
  return sorted(int(n) for n in names if re.fullmatch(r"0|[1-9][0-9]*", n))


def set_aside(folder: pathlib.Path) -> list[str]:
  """Returns the names of the steps set aside from `folder`, sorted.

  Raises:
    OSError: the list cannot be read.
  """
  try:
    names = os.listdir(folder.parent / ASIDE)
  except FileNotFoundError:
    return []
  return sorted(n for n in names if re.match(r"[0-9]", n))


def read_step(folder: pathlib.Path, step: int) -> Small:
  """Reads and checks the small files of a step in its place, as `read_path`."""
  return read_path(folder / str(step), step)


def read_path(path: pathlib.Path, step: int) -> Small:
  """Reads and checks the small files of a step.

  Args:
    path: its folder, which has another name if the step was set aside.
    step: the step that it must be.

  Raises:
    Damaged: the step is not intact.
    CheckpointUnusable: a newer version of pausejax wrote it.
    OSError: a file exists but cannot be read. That is no sign of damage.
  """
  if not path.is_dir():
    raise Damaged("not a folder" if path.exists() else "it does not exist")
  meta = _meta(path)
  if meta["step"] != step:
    raise Damaged(f"meta/{META} is of step {meta['step']}")
  items = [*ITEMS[:2], *(i for i in ITEMS[2:] if has_item(meta, i))]
  is_database = meta["format"] != upgrade.FORMAT_OF_SHARDS
  of_item = _ARRAY_PARTS if is_database else _ARRAY_PARTS[:1]
  for part in (*_PARTS, *(f"{i}/{p}" for i in items for p in of_item)):
    _require(path, part)
  if meta["digests"].keys() != meta["leaves"].keys():
    raise Damaged(f"meta/{META} does not have a digest of every leaf")
  data = _data(path, meta)
  for name, content in data.items():
    if name.endswith("position.json") and _position(name, content) != step:
      raise Damaged(f"data/{name} is of another step")
  return Small(meta, data)


def has_item(meta: Mapping[str, Any], item: str) -> bool:
  """Returns whether a step has an item that not all have, such as average."""
  return any(name.startswith(f"{item}/") for name in meta["leaves"])


def require_step(folder: pathlib.Path, step: int) -> Small:
  """Returns the small files of a step, for reading, not for resuming.

  Raises:
    CheckpointUnusable: the step is damaged, or has a newer format.
    UserError: a file cannot be read.
  """
  try:
    with readable(folder / str(step)):
      return read_step(folder, step)
  except Damaged as e:
    refuse(folder, step, str(e))


def refuse(folder: pathlib.Path, step: int, why: str) -> NoReturn:
  """Raises CheckpointUnusable; the message names another step to use."""
  older = [s for s in numbered(folder) if s < step]
  other = f" ({folder / str(older[-1])})" if older else ""
  raise errors.CheckpointUnusable(
    f"the checkpoint {folder / str(step)} is damaged: {why}; name an older "
    f"one{other}, or start the training in {folder.parent} again, which "
    "resumes from the newest intact one"
  )


def locate_checkpoint(
  spec: str, name: str = "--checkpoint"
) -> tuple[pathlib.Path, int]:
  """Returns (workdir, step) of a run's workdir, or of one checkpoint in it.

  Args:
    spec: `WORKDIR`, for its newest checkpoint, or `WORKDIR/checkpoints/STEP`;
      from a URL of a bucket, all but the arrays is downloaded.
    name: the option or argument that gave it, for messages.

  Raises:
    UsageError: `spec` is another URL, or no folder.
    UserError: there is no such checkpoint, or the folder cannot be read.
  """
  if not urls.is_url(spec):
    return _located(spec, name)
  path = copies.local_run(spec, name)
  url = copies.run_url(spec)
  with copies.named(url, urls.local_folder(url, "copy")):
    return _located(str(path), name)


def _located(spec: str, name: str) -> tuple[pathlib.Path, int]:
  errors.require_local(name, spec)
  errors.require(spec != "", f"{name}: got '', name the folder of a run")
  path = pathlib.Path(spec).resolve()
  is_step = path.name.isdigit() and path.parent.name == CHECKPOINTS
  workdir = path.parent.parent if is_step else path
  _require_folder(name, spec, workdir)
  folder = workdir / CHECKPOINTS
  with readable(folder):
    steps = numbered(folder)
  step = int(path.name) if is_step else max(steps, default=-1)
  if step not in steps:
    known = f"; available: {', '.join(map(str, steps))}" if steps else ""
    what = f"no step {step}" if is_step else "no checkpoint"
    raise errors.UserError(
      f"{name}: {what} in {folder}{known}; name the --workdir of a training "
      "run, or WORKDIR/checkpoints/STEP"
    )
  return workdir, step


def _require_folder(name: str, spec: str, workdir: pathlib.Path) -> None:
  """Raises UsageError unless `workdir` is a folder."""
  errors.require(
    not os.path.isfile(workdir),
    f"{name}: {spec!r} is a file, not the folder of a run",
  )
  runs = [p.parent.name for p in workdir.parent.glob("*/checkpoints")]
  errors.require(
    os.path.isdir(workdir),
    f"{name}: no folder {spec!r}{errors.nearest(workdir.name, runs)}",
  )


def move_aside(folder: pathlib.Path, step: int, why: str) -> pathlib.Path:
  """Moves a step to `set_aside` with the reason; returns its new place."""
  aside = folder.parent / ASIDE
  aside.mkdir(exist_ok=True)
  names = {*os.listdir(aside)}
  free = next(i for i in itertools.count() if f"{step}-{i}" not in names)
  moved = (folder / str(step)).rename(aside / f"{step}-{free}")
  with contextlib.suppress(OSError):  # The reason is for the user only.
    (moved / REASON).write_text(f"{why}\n", "utf-8")
  return moved


@contextlib.contextmanager
def readable(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError inside into a UserError that explains what to do."""
  try:
    yield
  except OSError as e:
    raise errors.UserError(
      f"cannot read {e.filename or path}: {e.strerror or e}; that is no "
      "sign of damage and nothing was moved; start again when it can be read"
    ) from e


def read_through(path: pathlib.Path) -> None:
  """Reads every file of a step completely.

  Raises:
    OSError: a folder or a file cannot be read.
  """

  def fail(error: OSError) -> NoReturn:
    raise error

  for folder, _, names in os.walk(path, onerror=fail):
    for name in names:
      with open(os.path.join(folder, name), "rb") as file:
        while file.read(2**24):
          pass


def sha256(content: bytes) -> str:
  """Returns the SHA-256 in hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()


def _meta(path: pathlib.Path) -> dict[str, Any]:
  """Returns meta.json after a check of its SHA-256, format and fields."""
  content = _content(path, f"meta/{META}")
  try:
    expected = _content(path, f"meta/{META_SHA256}")
  except Damaged:
    expected = None
  if expected is not None and expected != checksum(content):
    raise Damaged(f"meta/{META} does not match meta/{META_SHA256}")
  try:
    meta = json_files.loads(content)
  except ValueError as e:
    raise Damaged(f"meta/{META} is not JSON") from e
  where = f"the checkpoint {path}"
  number = meta.get("format") if isinstance(meta, dict) else None
  # Checked first: a newer format may have other fields, which is no damage.
  newest = upgrade.FORMAT_OF_SHARDS
  if isinstance(number, int) and number > newest:
    json_files.require_format(where, number, newest, errors.CheckpointUnusable)
  if problem := json_files.mismatch(meta, _FIELDS) or _wrong_field(meta):
    raise Damaged(f"meta/{META}: {problem}")
  if meta["format"] > 1 and expected is None:
    raise Damaged(f"it lacks meta/{META_SHA256}")
  return upgrade.upgrade(meta, meta["format"], where)


def _wrong_field(meta: dict[str, Any]) -> str:
  """Returns what is wrong with the format or a leaf, "" if nothing is."""
  if meta["format"] < 1:
    return f"format: {meta['format']}"
  for name, leaf in meta["leaves"].items():
    if [isinstance(part, str) for part in leaf] != [False, True]:
      return f"leaves.{name}: expected a shape and a dtype"
  return ""


def checksum(meta: bytes) -> bytes:
  """Returns meta.sha256, as `sha256sum meta.json` prints it."""
  return f"{sha256(meta)}  {META}\n".encode()


def _data(path: pathlib.Path, meta: dict[str, Any]) -> dict[str, bytes]:
  """Returns the files of `data`, after checking their SHA-256."""
  if meta["format"] == 1:
    return {p.name: p.read_bytes() for p in sorted((path / "data").iterdir())}
  data = {}
  for name, expected in meta.get("data_sha256", {}).items():
    if not files.is_name(name):
      raise Damaged(f"meta/{META}: {name!r} is not a file name")
    data[name] = _content(path, f"data/{name}")
    if sha256(data[name]) != expected:
      raise Damaged(f"data/{name} does not match its SHA-256 in meta/{META}")
  return data


def _position(name: str, content: bytes) -> Any:
  """Returns the step in a position file (`data/pretraining/source.py`)."""
  try:
    return json_files.loads(content)["step"]
  except (ValueError, KeyError, TypeError) as e:
    raise Damaged(f"data/{name} names no step") from e


def _content(path: pathlib.Path, name: str) -> bytes:
  _require(path, name)
  return files.read_bounded(path / name)


def _require(path: pathlib.Path, name: str) -> None:
  try:
    (path / name).stat()  # `exists` returns False on some other errors.
  except FileNotFoundError:
    raise Damaged(f"it lacks {name}") from None
