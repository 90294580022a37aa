"""Compares every file and every leaf of a step with what was saved.

Leaves are read a few at a time, so that the memory needed is bounded by the
largest one.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from pausejax.checkpoints import arrays, folders, step_files
from pausejax.runtime import phases

_GROUP_BYTES = 2**26  # Of leaves that are read together.
_MAX_PROBLEMS = 12  # After which the other leaves are not compared.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
  """What was compared, and what differs.

  Attributes:
    num_files: files compared with a SHA-256.
    num_leaves: leaves compared with a digest.
    num_bytes: bytes of those files and leaves.
    problems: what differs from what was saved; none if the step is intact.
  """

  num_files: int
  num_leaves: int
  num_bytes: int
  problems: list[str]


def verify_step(path: pathlib.Path, step: int) -> Verified:
  """Compares a step with its digests.

  Args:
    path: its folder, under any name.
    step: the step that it must be.

  Raises:
    CheckpointUnusable: a newer version of pausejax wrote it.
    UserError: a file cannot be read, which is no sign of damage.
  """
  phases.enter("comparing", step)
  path = path.absolute()  # Orbax refuses others.
  try:
    with folders.readable(path):
      small = folders.read_path(path, step)
  except folders.Damaged as e:
    return Verified(num_files=0, num_leaves=0, num_bytes=0, problems=[str(e)])
  files = _checked_files(path, small)
  num_leaves, num_bytes, problems = 0, sum(files.values()), []
  for item, named in leaf_groups(small.meta):
    for read in _read(path, item, named, small.meta["digests"]):
      phases.advance()
      if isinstance(read, str):
        problems.append(read)
        continue
      num_leaves += len(read)
      num_bytes += sum(x.nbytes for x in read.values())
      if "step" in read and int(read["step"]) != step:
        problems.append(f"its state is of step {int(read['step'])}")
    if len(problems) >= _MAX_PROBLEMS:
      problems.append("the leaves after these were not compared")
      break
  if not num_leaves and not problems:
    problems.append(f"meta/{folders.META} names no leaf to compare")
  return Verified(
    num_files=len(files),
    num_leaves=num_leaves,
    num_bytes=num_bytes,
    problems=problems,
  )


def leaf_groups(
  meta: Mapping[str, Any], names: frozenset[str] | None = None
) -> Iterator[tuple[str, dict[str, jax.ShapeDtypeStruct]]]:
  """Yields (item, leaf name -> shape, dtype and sharding), small ones together.

  Args:
    meta: meta.json of the step.
    names: the leaves to yield; None: all.
  """
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  chosen = [n for n in meta["leaves"] if names is None or n in names]
  by_item = sorted(chosen, key=step_files.item_of)
  for item, of_item in itertools.groupby(by_item, key=step_files.item_of):
    group: dict[str, jax.ShapeDtypeStruct] = {}
    size = 0
    for name in of_item:
      shape, dtype = meta["leaves"][name]
      leaf = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
      num_bytes = leaf.size * leaf.dtype.itemsize
      if group and size + num_bytes > _GROUP_BYTES:
        yield item, group
        group, size = {}, 0
      group[name] = leaf
      size += num_bytes
    yield item, group


def _read(
  path: pathlib.Path,
  item: str,
  named: dict[str, jax.ShapeDtypeStruct],
  digests: Mapping[str, list[int]],
) -> Iterator[dict[str, jax.Array] | str]:
  """Yields leaves, or what is wrong with one; each leaf once."""
  try:
    yield arrays.read_some(path, item, named, digests)
    return
  except folders.Damaged as e:
    if len(named) == 1:
      (name,) = named
      yield str(e) if name in str(e) else f"{name}: {e}"
      return
  num_problems = 0
  for name in named:
    for read in _read(path, item, {name: named[name]}, digests):
      yield read
      num_problems += isinstance(read, str)
    if num_problems >= _MAX_PROBLEMS:
      return


def _checked_files(path: pathlib.Path, small: folders.Small) -> dict[str, int]:
  """Returns the bytes of the files that `folders` compared with a SHA-256."""
  if not (path / "meta" / folders.META_SHA256).exists():  # Format 1.
    return {}
  names = [f"data/{name}" for name in small.data]
  names.append(f"meta/{folders.META}")
  return {name: (path / name).stat().st_size for name in names}
