"""Lists the files of a folder, a glob or a list of paths.

Every file is listed once, sorted by name. Files that are left out are counted
with the reason, and duplicated data is an error:

  .jsonl beside its .jsonl.gz            an error that names both
  one file under two names (a link)      listed once, and reported
  subfolders, other types, empty files   left out, and reported
  README, LICENSE                        left out of folders and globs, reported
"""

import collections
import dataclasses
import glob
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pausejax import errors

SUFFIXES = (".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz", ".json.gz")
# Files that describe a corpus, in lower case.
_ABOUT = {"readme", "license", "licence", "copying", "notice", "changelog"}
_UNPACK = {
  ".zst": "`zstd -d FILE` decompresses it",
  ".bz2": "`bzip2 -dk FILE` decompresses it",
  ".xz": "`xz -dk FILE` decompresses it",
  ".zip": "`unzip FILE` unpacks it",
}
_NUM_NAMES = 3  # Names shown for each reason.

_ABOUT_IT = "describe the corpus; give their paths to read them"
_EMPTY = "are empty"
_FOLDERS = "are subfolders; FOLDER/**/* matches all files below one"
_AGAIN = "are listed under another name"
_UNKNOWN = f"have an unknown type (known: {', '.join(SUFFIXES)})"
HELD_OUT = "are data.validation_files"

LeftOut = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class FileList:
  """The files that a spec names.

  Attributes:
    files: paths, sorted, each file once.
    left_out: reason -> paths that exist but are left out.
  """

  files: tuple[str, ...]
  left_out: LeftOut

  def without(self, others: Iterable[str]) -> "FileList":
    """Returns the list without the files of another one."""
    held_out = {_identity(f) for f in others}
    kept = tuple(f for f in self.files if _identity(f) not in held_out)
    held_out = [f for f in self.files if f not in kept]
    left_out = (
      {**self.left_out, HELD_OUT: held_out} if held_out else self.left_out
    )
    return FileList(kept, left_out)


def expand(spec: str, field: str = "data.files") -> FileList:
  """Returns the files that a folder, glob or path names (comma-separated).

  Args:
    spec: the value that the user gave.
    field: name of its option; error messages begin with it.

  Raises:
    UserError: nothing to read there, a named file of unknown type, a broken
      link, or the same data twice.
  """
  errors.require("\0" not in spec, f"{field}: {spec!r} contains a NUL")
  parts = [spec] if os.path.exists(spec) else spec.split(",")
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  matches: list[str] = []
  for part in filter(None, map(str.strip, parts)):
    files = list(_files(part, field, left_out))
    if not files:
      known = f" (known types: {', '.join(SUFFIXES)})"
      reasons = "; ".join(left_out_reasons(left_out))
      raise errors.UserError(
        f"{field}: nothing to read at {part!r}"
        + (f": {reasons}" if reasons else known)
      )
    matches += files
  files = _each_once(matches, left_out)
  require_no_twins(files)
  return FileList(tuple(files), {k: sorted(v) for k, v in left_out.items()})


def left_out_reasons(left_out: LeftOut) -> list[str]:
  """Returns one line per reason, with the count and the first names."""
  lines = []
  for reason, paths in sorted(left_out.items()):
    names = ", ".join(os.path.basename(p) for p in paths[:_NUM_NAMES])
    more = ", ..." if len(paths) > _NUM_NAMES else ""
    lines.append(f"{len(paths):,} left out that {reason}: {names}{more}")
  return lines


def require_no_twins(files: Sequence[str]) -> None:
  """Raises a UserError if two files seem to contain the same data.

  That is so if they are in one folder and their names differ only in ".gz", or
  in .jsonl instead of .json.
  """
  seen: dict[str, str] = {}
  for path in files:
    stem, suffix = os.path.splitext(path.removesuffix(".gz"))
    name = f"{os.path.realpath(os.path.dirname(path))}/" + os.path.basename(
      stem + suffix.replace(".jsonl", ".json")
    )
    if name in seen:
      raise errors.UserError(
        f"{seen[name]} and {path} seem to contain the same data; remove or "
        "rename one, or name the files to read"
      )
    seen[name] = path


def _files(
  part: str, field: str, left_out: dict[str, list[str]]
) -> Iterator[str]:
  """Yields the files of a part; adds skipped ones to `left_out`."""
  path = pathlib.Path(part)
  if path.exists() and not path.is_dir():  # Its name may look like a glob.
    _require_known(part, field)
    yield from _usable([part], left_out)
    return
  if path.is_dir():
    try:
      names = sorted(map(str, path.iterdir()))
    except OSError as e:
      raise errors.UserError(f"{field}: {part}: cannot be read: {e}") from e
    known = [f for f in names if f.endswith(SUFFIXES) or os.path.isdir(f)]
    for name in sorted({*names} - {*known}):
      left_out[_unknown(name)].append(name)
  else:
    known = sorted(glob.glob(part, recursive=True))
    if "**" in part:  # The contents of the folders match as well.
      known = [f for f in known if not os.path.isdir(f)]
    for name in known:
      if not os.path.isdir(name) and not _is_about(name):
        _require_known(name, field)
  for name in filter(_is_about, known):
    left_out[_ABOUT_IT].append(name)
  yield from _usable([f for f in known if not _is_about(f)], left_out)


def _usable(
  paths: Iterable[str], left_out: dict[str, list[str]]
) -> Iterator[str]:
  """Yields the paths of non-empty files."""
  for path in paths:
    if os.path.isdir(path):
      left_out[_FOLDERS].append(path)
    elif not os.path.exists(path):
      raise errors.UserError(f"{path}: is a link to a file that does not exist")
    elif not os.path.isfile(path):
      left_out["are not regular files"].append(path)
    elif not os.path.getsize(path) and not path.endswith(".gz"):
      left_out[_EMPTY].append(path)
    else:
      yield path


def _each_once(
  paths: Iterable[str], left_out: dict[str, list[str]]
) -> list[str]:
  """Returns the paths, sorted, one name of each file."""
  seen: dict[object, str] = {}
  for path in sorted(paths):
    if seen.setdefault(_identity(path), path) != path:
      left_out[_AGAIN].append(path)
  return list(seen.values())


def _identity(path: str) -> object:
  """Returns a value that is equal for all names of a file, hard links too."""
  status = os.stat(path)
  return (status.st_dev, status.st_ino) if status.st_ino else path


def _is_about(path: str) -> bool:
  name = os.path.basename(path).lower()
  is_text = name.endswith((".txt", ".txt.gz"))
  return is_text and name.partition(".")[0] in _ABOUT and os.path.isfile(path)


def _unknown(path: str) -> str:
  """Returns the reason why a file of unknown type is left out."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix in _UNPACK:
    return f"are {suffix}, which is not read ({_UNPACK[suffix]})"
  return _UNKNOWN


def _require_known(path: str, field: str) -> None:
  if not path.endswith(SUFFIXES):
    hint = _UNPACK.get(os.path.splitext(path)[1].lower(), "")
    raise errors.UserError(
      f"{field}: {path}: unknown type of file (known: {', '.join(SUFFIXES)})"
      + (f"; {hint}" if hint else "")
    )
