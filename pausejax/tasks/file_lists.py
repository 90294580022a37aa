"""Which files a folder, a glob or a list of paths names.

Every file is listed once, in the order of the names. What is there but is not
read is counted with the reason, and data that is there twice is an error:

  .jsonl beside its .jsonl.gz            an error that names both
  one file by two names (a link)         listed once, and said
  subfolders, other kinds, empty files   left out, and said
  README, LICENSE                        left out of folders and globs, and said
"""

import collections
import dataclasses
import glob
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pausejax import errors

SUFFIXES = (".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz", ".json.gz")
# About a corpus, not of it: files with these names, in small letters.
_ABOUT = {"readme", "license", "licence", "copying", "notice", "changelog"}
_UNPACK = {
  ".zst": "`zstd -d FILE` decompresses it",
  ".bz2": "`bzip2 -dk FILE` decompresses it",
  ".xz": "`xz -dk FILE` decompresses it",
  ".zip": "`unzip FILE` unpacks it",
}
_NUM_NAMES = 3  # So many names stand for all that were left out for a reason.

_ABOUT_IT = "say what the corpus is; name them alone to read them"
_EMPTY = "are empty"
_FOLDERS = "are subfolders; FOLDER/**/* names all files below one"
_AGAIN = "are listed by another name"
_UNKNOWN = f"are of no kind that is read ({', '.join(SUFFIXES)})"
HELD_OUT = "are data.validation_files"

LeftOut = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class FileList:
  """The files that a spec names.

  Attributes:
    files: paths, sorted, each file once.
    left_out: reason -> paths of what was there but is not read.
  """

  files: tuple[str, ...]
  left_out: LeftOut

  def without(self, others: Iterable[str]) -> "FileList":
    """Returns the list without the files of another one."""
    held_out = {_identity(f) for f in others}
    kept = tuple(f for f in self.files if _identity(f) not in held_out)
    gone = [f for f in self.files if f not in kept]
    left_out = {**self.left_out, HELD_OUT: gone} if gone else self.left_out
    return FileList(kept, left_out)


def expand(spec: str, field: str = "data.files") -> FileList:
  """Returns the files that a folder, glob or path names (comma-separated).

  Args:
    spec: what the user gave.
    field: where; begins the error messages.

  Raises:
    UserError: nothing to read there, a named file of another kind, a link to
      nothing, or the same data twice.
  """
  errors.require("\0" not in spec, f"{field}: {spec!r} holds a NUL")
  parts = [spec] if os.path.exists(spec) else spec.split(",")
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  found: list[str] = []
  for part in filter(None, map(str.strip, parts)):
    files = list(_files(part, field, left_out))
    if not files:
      there = "; ".join(describe(left_out))
      raise errors.UserError(
        f"{field}: nothing to read at {part!r}"
        + (f": {there}" if there else f" (looked for {', '.join(SUFFIXES)})")
      )
    found += files
  files = _each_once(found, left_out)
  require_no_twins(files)
  return FileList(tuple(files), {k: sorted(v) for k, v in left_out.items()})


def describe(left_out: LeftOut) -> list[str]:
  """Returns a line for each reason, with the count and the first names."""
  lines = []
  for reason, paths in sorted(left_out.items()):
    names = ", ".join(os.path.basename(p) for p in paths[:_NUM_NAMES])
    more = ", ..." if len(paths) > _NUM_NAMES else ""
    lines.append(f"{len(paths):,} left out that {reason}: {names}{more}")
  return lines


def require_no_twins(files: Sequence[str]) -> None:
  """Raises a UserError if two files seem to hold the same data.

  They do if they lie in one folder and differ in ".gz" or in the letter that
  .jsonl has more than .json.
  """
  seen: dict[str, str] = {}
  for path in files:
    stem, suffix = os.path.splitext(path.removesuffix(".gz"))
    name = f"{os.path.realpath(os.path.dirname(path))}/" + os.path.basename(
      stem + suffix.replace(".jsonl", ".json")
    )
    if name in seen:
      raise errors.UserError(
        f"{seen[name]} and {path} seem to hold the same data; remove or rename "
        "one, or name the files to read"
      )
    seen[name] = path


def _files(
  part: str, field: str, left_out: dict[str, list[str]]
) -> Iterator[str]:
  """Yields the files of a part; adds what it passes over to `left_out`."""
  path = pathlib.Path(part)
  if path.exists() and not path.is_dir():  # Its name may look like a glob.
    _require_known(part, field)
    yield from _usable([part], left_out)
    return
  if path.is_dir():
    try:
      there = sorted(map(str, path.iterdir()))
    except OSError as e:
      raise errors.UserError(f"{field}: {part}: cannot be read: {e}") from e
    known = [f for f in there if f.endswith(SUFFIXES) or os.path.isdir(f)]
    for name in sorted({*there} - {*known}):
      left_out[_unknown(name)].append(name)
  else:
    known = sorted(glob.glob(part, recursive=True))
    if "**" in part:  # What is in the folders is there, too.
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
  """Yields the paths that are files with something in them."""
  for path in paths:
    if os.path.isdir(path):
      left_out[_FOLDERS].append(path)
    elif not os.path.exists(path):
      raise errors.UserError(f"{path}: is a link to a file that is not there")
    elif not os.path.isfile(path):
      left_out["are no regular files"].append(path)
    elif not os.path.getsize(path) and not path.endswith(".gz"):
      left_out[_EMPTY].append(path)
    else:
      yield path


def _each_once(
  paths: Iterable[str], left_out: dict[str, list[str]]
) -> list[str]:
  """Returns the paths, sorted, without other names of the same file."""
  seen: dict[object, str] = {}
  for path in sorted(paths):
    if seen.setdefault(_identity(path), path) != path:
      left_out[_AGAIN].append(path)
  return list(seen.values())


def _identity(path: str) -> object:
  """Returns what two names of one file have in common, hard links too."""
  found = os.stat(path)
  return (found.st_dev, found.st_ino) if found.st_ino else path


def _is_about(path: str) -> bool:
  name = os.path.basename(path).lower()
  is_text = name.endswith((".txt", ".txt.gz"))
  return is_text and name.partition(".")[0] in _ABOUT and os.path.isfile(path)


def _unknown(path: str) -> str:
  """Returns the reason for which a file of another kind is left out."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix in _UNPACK:
    return f"are {suffix}, which is not read ({_UNPACK[suffix]})"
  return _UNKNOWN


def _require_known(path: str, field: str) -> None:
  if not path.endswith(SUFFIXES):
    hint = _UNPACK.get(os.path.splitext(path)[1].lower(), "")
    raise errors.UserError(
      f"{field}: {path}: unknown kind of file (known: {', '.join(SUFFIXES)})"
      + (f"; {hint}" if hint else "")
    )
