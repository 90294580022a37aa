"""A file of lines that only grows, as parts in a bucket."""

import pathlib
from collections.abc import Iterable

from pausejax.buckets.objects import Objects

_MAX_PARTS = 100  # More are replaced by one.


def join_parts(objects: Objects, file: str, names: Iterable[str]) -> bytes:
  """Returns the whole lines of a file, b"" if it has no parts.

  Args:
    objects: the objects of the run.
    file: its name, such as metrics.jsonl.
    names: the names of all objects of the run.
  """
  content = b""
  for offset, name in sorted(_newest(file, names).items()):
    if offset != len(content):
      break
    content += objects.read(name)
  return content


class PartWriter:
  """Copies the lines of a growing file to a bucket, as new parts."""

  def __init__(self, objects: Objects, path: pathlib.Path):
    """Copies nothing yet.

    Args:
      objects: the objects of the run.
      path: the file, directly in the folder of the run.
    """
    self._objects, self._path = objects, path
    self._start = self._offset = self._count = 0

  def push(self) -> None:
    """Copies the whole lines that are new; raises OSError."""
    if not self._path.exists():
      return
    with self._path.open("rb") as file:
      is_first = self._count in (0, _MAX_PARTS)
      offset = 0 if is_first else self._offset
      file.seek(offset)
      content = file.read()
    content = content[: content.rfind(b"\n") + 1]
    if not content and not is_first:
      return
    old = self._begin() if is_first else []
    part = f"{self._path.name}/{self._start:06}.{offset:015}"
    self._objects.write(part, content)
    self._offset = offset + len(content)
    self._count = 1 if is_first else self._count + 1
    self._objects.delete(old)

  def _begin(self) -> list[str]:
    """Begins a new series of parts; returns the names of the earlier ones."""
    old = list(self._objects.sizes(self._path.name))
    starts = [_numbers(self._path.name, name) for name in old]
    self._start = 1 + max((n[0] for n in starts if n), default=0)
    return old


def _newest(file: str, names: Iterable[str]) -> dict[int, str]:
  """Returns offset -> name of the newest complete series of parts."""
  series: dict[int, dict[int, str]] = {}
  for name in names:
    if numbers := _numbers(file, name):
      series.setdefault(numbers[0], {})[numbers[1]] = name
  complete = [start for start, parts in series.items() if 0 in parts]
  return series[max(complete)] if complete else {}


def _numbers(file: str, name: str) -> tuple[int, int] | None:
  """Returns (start, offset) of a part, None if it is not one of the file."""
  start, dot, offset = name.removeprefix(f"{file}/").partition(".")
  is_part = name.startswith(f"{file}/") and dot and (start + offset).isdecimal()
  return (int(start), int(offset)) if is_part else None
