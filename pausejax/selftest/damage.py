"""Ways to damage a file of a step."""

import os
import pathlib
import random
import shutil
from collections.abc import Callable

Damage = Callable[[pathlib.Path, pathlib.Path], None]


def flip(seed: int) -> Damage:
  """Returns the damage that flips one bit, chosen by the seed."""

  def damage(path: pathlib.Path, older: pathlib.Path) -> None:
    del older
    content = bytearray(path.read_bytes())
    bit = random.Random(seed).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)

  return damage


def cut(path: pathlib.Path, older: pathlib.Path) -> None:
  """Removes the second half of a file."""
  del older
  os.truncate(path, path.stat().st_size // 2)


def delete(path: pathlib.Path, older: pathlib.Path) -> None:
  """Deletes a file."""
  del older
  path.unlink()


def _cut_by_1(path: pathlib.Path, older: pathlib.Path) -> None:
  del older
  os.truncate(path, path.stat().st_size - 1)


def _empty(path: pathlib.Path, older: pathlib.Path) -> None:
  del older
  os.truncate(path, 0)


def _zero(path: pathlib.Path, older: pathlib.Path) -> None:
  """Writes zeros over 64 bytes."""
  del older
  content = bytearray(path.read_bytes())
  start = len(content) // 3
  content[start : start + 64] = bytes(len(content[start : start + 64]))
  path.write_bytes(content)


def _exchange(path: pathlib.Path, older: pathlib.Path) -> None:
  if older.exists():  # Data files of arrays have names of their own.
    shutil.copyfile(older, path)


# Name -> function of the file and the same one in an older step.
DAMAGES: dict[str, Damage] = {
  "flip 0": flip(0),
  "flip 1": flip(1),
  "flip 2": flip(2),
  "cut": cut,
  "cut by 1": _cut_by_1,
  "emptied": _empty,
  "deleted": delete,
  "zeroed": _zero,
  "swapped": _exchange,
}


def files_of(step: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a step that are not empty, relative to it, sorted."""
  found = [p.relative_to(step) for p in step.rglob("*") if p.is_file()]
  return sorted(p for p in found if (step / p).stat().st_size)
