"""A split of a downstream task as a list of examples, with what was left out.

A task that publishes no "validation" split gets one: the examples of every
`data.holdout_every`-th record of "train", which training then leaves out. By
record, so that the turns of one conversation stay together.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.data import opening


@dataclasses.dataclass(frozen=True)
class Examples:
  """The examples of one split.

  Attributes:
    split: its name.
    rows: the examples, in the order of the source.
    num_unusable: reason -> how many were left out for it: whole records by the
      task, single examples because no answer can be right.
    sha256: digest of all that the examples say.
    prefix_ids: ids of each prefix; empty where they are not known yet.
    target_ids: the same of each target, EOS at the end.
  """

  split: str
  rows: list[tasks.Example]
  num_unusable: dict[str, int]
  sha256: str
  prefix_ids: Sequence[list[int]] = ()
  target_ids: Sequence[list[int]] = ()

  def summary(self) -> str:
    """Returns one line: the counts, with everything that was left out."""
    left_out = _left_out(self.num_unusable)
    return f"{self.split}: {len(self.rows):,} examples{left_out}"


def load(task: tasks.Task, split: str, data: DataConfig) -> Examples:
  """Reads a split.

  Raises:
    UserError: files are missing, a record is malformed, or none is usable; it
      names file and line.
  """
  holds_out = "validation" not in task.source.splits
  is_part = holds_out and split in ("train", "validation")
  read, unusable = _read(task, "train" if is_part else split, data)
  rows = [
    row
    for number, made in enumerate(read)
    for row in made
    if not is_part
    or (number % data.holdout_every == 0) == (split == "validation")
  ]
  if not rows:
    raise errors.UserError(
      f"task {task.name!r}: {len(read)} records are too few to hold out one in "
      f"{data.holdout_every}: none is left for split {split!r}"
    )
  return Examples(split, rows, unusable, _digest(rows))


def folder_of(root: str, name: str) -> str:
  """Returns the folder of a task's files below `root`.

  It has the task's name, or a name that begins with it.
  """
  exact = pathlib.Path(root) / name
  longer = [p for p in sorted(exact.parent.glob(f"{name}*")) if p.is_dir()]
  return str(exact if exact.is_dir() or not longer else longer[0])


def splits(task: tasks.Task) -> list[str]:
  """Returns the published splits of a task and the one that is held out."""
  published = list(task.source.splits)
  if "train" in published and "validation" not in published:
    published.insert(1, "validation")
  return published


def scoring_split(task: tasks.Task) -> str:
  """Returns the split on which results are reported: "test" if published."""
  published = task.source.splits
  return "test" if "test" in published else "validation"


def _read(
  task: tasks.Task, split: str, data: DataConfig
) -> tuple[list[list[tasks.Example]], dict[str, int]]:
  """Returns (the examples of each usable record, the unusable by reason)."""
  read: list[list[tasks.Example]] = []
  places: dict[str, str] = {}
  unusable: dict[str, int] = collections.Counter()
  for place, (where, record) in enumerate(
    opening.read_records(task.source, split, data)
  ):
    try:
      made = _make(task, where, record)
    except tasks.Unusable as e:
      unusable[str(e)] += 1
      continue
    made = _grouped(_named(made, place))
    for row in made:
      if row.id in places:
        raise errors.UserError(
          f"{where}: the id {row.id!r} was there before, at {places[row.id]}"
        )
      places[row.id] = where
    reasons = [_fault(task, row) for row in made]
    unusable.update(filter(None, reasons))
    usable = [row for row, why in zip(made, reasons, strict=True) if not why]
    read += [usable] if usable else []
  if not read:
    raise errors.UserError(
      f"task {task.name!r}: no usable example in split {split!r} of "
      f"{task.source.describe(data)}{_left_out(unusable)}"
    )
  return read, dict(unusable)


def _grouped(made: list[tasks.Example]) -> list[tasks.Example]:
  """Returns the examples of a record; several are one group by default."""
  own = made[0].id if len(made) > 1 else ""
  return [dataclasses.replace(row, group=row.group or own) for row in made]


def _left_out(unusable: Mapping[str, int]) -> str:
  """Returns "; 2 left out: REASON; ..." to end a line, "" for none."""
  return "".join(f"; {n:,} left out: {why}" for why, n in unusable.items())


def _named(made: list[tasks.Example], place: int) -> list[tasks.Example]:
  """Returns the examples of a record, those without an id named by its place.

  Records that are left out count, so that the place is that in the file.
  """
  ids = [f"{place}#{turn}" for turn in range(1, len(made) + 1)]
  ids = ids if len(made) > 1 else [str(place)]
  return [
    row if row.id else dataclasses.replace(row, id=own)
    for row, own in zip(made, ids, strict=False)
  ]


def _fault(task: tasks.Task, row: tasks.Example) -> str:
  """Returns why no answer to an example can be right, "" if one can."""
  if not row.prefix.strip():
    return "an empty prefix"
  if task.kind == "decode":
    is_empty = not all(t.strip() for t in (row.target, *row.references))
    return "an empty answer" if is_empty else ""
  options = [option.strip() for option in row.options]
  if row.label < 0:
    return "no published label"
  if not all(options):
    return "an empty option"
  if len({*options}) < 2:
    return "fewer than two different options"
  return "the right option twice" * (options.count(options[row.label]) > 1)


def _digest(rows: Iterable[tasks.Example]) -> str:
  """Returns the sha256 of all that the examples say."""
  digest = hashlib.sha256()
  for row in rows:
    said = dataclasses.asdict(row)
    del said["group"]  # It follows from the rest.
    # The digests of examples without it are those of earlier versions.
    if not row.num_characters:
      del said["num_characters"]
    digest.update(json.dumps([*said.values()]).encode())
  return digest.hexdigest()


def _make(task: tasks.Task, where: str, record: Any) -> list[tasks.Example]:
  """Returns the examples of a record, or an error that says where it is."""
  try:
    made = list(task.examples(record))
    if not made:
      raise tasks.Unusable("a record without a question")
    for row in made:
      _require_whole(task, row)
  except tasks.Unusable:
    raise
  except errors.UserError as e:
    raise errors.UserError(f"{where}: {e.message}") from e
  except Exception as e:
    raise errors.UserError(
      f"{where}: not a record of task {task.name!r}: {type(e).__name__}: {e}"
    ) from e
  return made


def _require_whole(task: tasks.Task, row: tasks.Example) -> None:
  """Raises unless an example has what its kind of task needs."""
  texts = [
    row.id,
    row.group,
    row.prefix,
    row.target,
    *row.references,
    *row.options,
  ]
  for text in [*texts, *row.hints]:
    if not isinstance(text, str):
      raise errors.UserError(f"an example holds {text!r:.60}, want a text")
  if task.kind == "decode" and not row.references:
    raise errors.UserError("an example of kind 'decode' needs references")
  if task.kind == "options" and len(row.options) < 2:
    raise errors.UserError(f"{len(row.options)} options, want at least two")
  if task.kind == "options" and not -1 <= row.label < len(row.options):
    raise errors.UserError(
      f"label {row.label} is none of {len(row.options)} options"
    )
  if row.options and row.label >= 0 and row.target != row.options[row.label]:
    raise errors.UserError(f"the target is not option {row.label}")
  if row.num_characters and len(row.num_characters) != len(row.options):
    raise errors.UserError(
      f"num_characters has {len(row.num_characters)} numbers for "
      f"{len(row.options)} options"
    )
