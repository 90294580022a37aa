"""Compares two steps of one run or of two.

  pausejax checkpoint diff runs/pause            the newest step and the last
  pausejax checkpoint diff runs/a/checkpoints/500 runs/b/checkpoints/500

A and B are workdirs, for their newest step, or WORKDIR/checkpoints/STEP.
Without B, A is compared with the step before it. Prints what differs in the
config, the position in the data, the versions and other fields of meta.json,
and the leaves that are missing, have another shape or dtype, or other values,
with the largest absolute difference. Leaves with equal digests are equal and
are not read. Exit code 0: equal, 1: different, above 1: no comparison.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pausejax import commandline, errors, json_files
from pausejax.buckets import copies, layout
from pausejax.checkpoints import folders
from pausejax.runtime import phases
from pausejax.training import resume

# Of meta.json: compared as leaves and as files, or different in any two saves.
_NOT_COMPARED = ("leaves", "digests", "data_sha256", "time")
_SLAB = 2**22  # Elements that are subtracted at once.

Row = tuple[str, Any, Any]  # Name, value in A, value in B.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
  """A step, its small files read and checked."""

  place: str
  path: pathlib.Path
  url: str
  number: int
  small: folders.Small


def use_cpu() -> None:
  """Makes JAX, which is not imported yet, leave other devices to runs."""
  os.environ["JAX_PLATFORMS"] = "cpu"


def main(argv: list[str]) -> int:
  """Compares; returns 0 if the steps are equal, 1 if not.

  Raises:
    UserError: they cannot be compared; its exit code is never 1.
  """
  try:
    return _compare(argv)
  except errors.UserError as e:
    if e.exit_code > 1:
      raise
    raise errors.UsageError(e.message, e.details) from e


def _compare(argv: list[str]) -> int:
  parser = commandline.Parser(
    "checkpoint diff", __doc__, config=False, in_bucket=("a", "b")
  )
  parser.add_argument("a", metavar="A", help="workdir, or one step in it")
  parser.add_argument("b", metavar="B", nargs="?", default="", help="the same")
  parser.add_argument("--json", action="store_true", help="print JSON")
  options, _ = parser.parse(argv)
  a = _step(options.a, "A")
  b = _step(options.b or _before(a), "B")
  fields = _field_rows(a.small, b.small)
  leaves = {**_leaf_rows(a, b), **_value_rows(a, b)}
  equal = not any(fields.values()) and not leaves
  if options.json:
    rows = {"fields": fields, "leaves": leaves}
    print(json.dumps({"a": a.place, "b": b.place, "equal": equal, **rows}))
    return int(not equal)
  print(f"A: {a.place}\nB: {b.place}")
  for title, rows in fields.items():
    if rows:
      print(f"{title}:", *resume.difference_lines(rows), sep="\n")
  total = len({*a.small.meta["leaves"], *b.small.meta["leaves"]})
  print(f"leaves: {len(leaves):,} of {total:,} differ")
  width = max(map(len, leaves), default=0)
  for name, text in sorted(leaves.items()):
    print(f"  {name:{width}}  {text}")
  print("A and B are equal" if equal else "A and B differ")
  return int(not equal)


def _step(spec: str, name: str) -> _Step:
  """Returns a step; raises CheckpointUnusable if it is damaged."""
  workdir, number = folders.locate_checkpoint(spec, name)
  url = copies.run_url(spec)
  with copies.named(url, workdir):
    small = folders.require_step(workdir / layout.CHECKPOINTS, number)
  inside = f"{layout.CHECKPOINTS}/{number}"
  return _Step(
    place=f"{url or workdir}/{inside}",
    path=workdir / inside,
    url=url,
    number=number,
    small=small,
  )


def _before(step: _Step) -> str:
  """Returns the place of the step before another one in the same run."""
  folder = step.place.rpartition("/")[0]
  if step.url:
    copies.local_run(step.url, "A", required=False)
  older = [n for n in folders.numbered(step.path.parent) if n < step.number]
  if not older:
    raise errors.UserError(
      f"there is no step before {step.place} to compare it with; name B"
    )
  return f"{folder}/{older[-1]}"


def _field_rows(a: folders.Small, b: folders.Small) -> dict[str, list[Row]]:
  """Returns title -> differing fields, of meta.json and the data's files."""
  titles = [n for n in {**a.meta, **b.meta} if n not in _NOT_COMPARED]
  rows = {n: _rows(a.meta.get(n), b.meta.get(n), n) for n in titles}
  rows["position in the data"] = [
    row
    for name in sorted({**a.data, **b.data})
    for row in _rows(_parsed(a.data.get(name)), _parsed(b.data.get(name)), name)
  ]
  return rows


def _rows(a: Any, b: Any, name: str) -> list[Row]:
  """Returns the fields that differ; a missing one is None."""
  if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
    return [] if a == b else [(name, a, b)]
  ours, theirs = json_files.flat_fields(a), json_files.flat_fields(b)
  pairs = [(n, ours.get(n), theirs.get(n)) for n in {**ours, **theirs}]
  return [row for row in pairs if row[1] != row[2]]


def _parsed(content: bytes | None) -> Any:
  """Returns the JSON value of a file of `data`, else its SHA-256."""
  if content is None:
    return None
  try:
    return json_files.loads(content)
  except ValueError:
    return folders.sha256(content)


def _leaf_rows(a: _Step, b: _Step) -> dict[str, str]:
  """Returns leaf -> how its description differs."""
  ours, theirs = a.small.meta["leaves"], b.small.meta["leaves"]
  return {
    name: f"{_described(ours.get(name))} -> {_described(theirs.get(name))}"
    for name in {**ours, **theirs}
    if ours.get(name) != theirs.get(name)
  }


def _described(leaf: list | None) -> str:
  return f"{leaf[1]}{leaf[0]}" if leaf else "none"


def _value_rows(a: _Step, b: _Step) -> dict[str, str]:
  """Returns leaf -> the largest difference, of leaves with other digests."""
  ours, theirs = a.small.meta, b.small.meta
  changed = frozenset(
    name
    for name, leaf in ours["leaves"].items()
    if theirs["leaves"].get(name) == leaf
    and ours["digests"][name] != theirs["digests"][name]
  )
  if not changed:
    return {}
  use_cpu()
  for step in (a, b):
    if step.url:
      copies.fetch_arrays(step.url, step.number, folders.ITEMS)
  from pausejax.checkpoints import verification

  rows = {}
  for item, named in verification.leaf_groups(ours, changed):
    x, y = (_read(step, item, named) for step in (a, b))
    phases.advance()
    for name in named:
      difference = _largest_difference(np.asarray(x[name]), np.asarray(y[name]))
      rows[name] = f"{_described(ours['leaves'][name])}, {difference}"
  return rows


def _read(step: _Step, item: str, named: Mapping[str, Any]) -> dict[str, Any]:
  """Returns leaves of a step; raises CheckpointUnusable if one is damaged."""
  from pausejax.checkpoints import arrays

  try:
    return arrays.read_some(step.path, item, named, step.small.meta["digests"])
  except folders.Damaged as e:
    raise errors.CheckpointUnusable(f"{step.place} is damaged: {e}") from e


def _largest_difference(a: np.ndarray, b: np.ndarray) -> str:
  """Returns the largest absolute difference of two arrays of one shape."""
  a, b = a.reshape(-1), b.reshape(-1)
  largest, num_changed = 0.0, 0
  for start in range(0, a.size, _SLAB):
    x, y = (v[start : start + _SLAB].astype(np.float64) for v in (a, b))
    largest = np.maximum(largest, np.abs(x - y).max())
    num_changed += int((x != y).sum())
  return (
    f"largest |A - B| {largest:.3g}, {num_changed:,} of {a.size:,} elements"
  )
