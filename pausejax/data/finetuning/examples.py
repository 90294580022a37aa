"""A split of a downstream task as a list of examples.

A task without a published "validation" split gets one: the examples of every
`data.holdout_every`-th record of "train", which are removed from "train". The
turns of one conversation are one record and stay together.
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
    num_unusable: reason -> number left out: records that the task left out,
      and examples that no answer can get right.
    sha256: digest of the contents of the examples.
    prefix_ids: ids of each prefix; empty if not tokenized yet.
    target_ids: ids of each target, with EOS; empty if not tokenized yet.
  """

  split: str
  rows: list[tasks.Example]
  num_unusable: dict[str, int]
  sha256: str
  prefix_ids: Sequence[list[int]] = ()
  target_ids: Sequence[list[int]] = ()

  def summary(self) -> str:
    """Returns one line with the counts, including what was left out."""
    left_out = _left_out(self.num_unusable)
    return f"{self.split}: {len(self.rows):,} examples{left_out}"


def read_split(task: tasks.Task, split: str, data: DataConfig) -> Examples:
  """Reads a split.

  Raises:
    UserError: files are missing, a record is malformed, or no record is usable;
      the message names file and line.
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

  Its name is the task's name, or starts with it.
  """
  exact = pathlib.Path(root) / name
  longer = [p for p in sorted(exact.parent.glob(f"{name}*")) if p.is_dir()]
  return str(exact if exact.is_dir() or not longer else longer[0])


def splits(task: tasks.Task) -> list[str]:
  """Returns the published splits of a task and its held-out split."""
  published = list(task.source.splits)
  if "train" in published and "validation" not in published:
    published.insert(1, "validation")
  return published


def scoring_split(task: tasks.Task) -> str:
  """Returns the split of reported results: "test" if published."""
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
          f"{where}: the id {row.id!r} was already used at {places[row.id]}"
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
  """Returns the examples of a record; by default they are one group."""
  own = made[0].id if len(made) > 1 else ""
  return [dataclasses.replace(row, group=row.group or own) for row in made]


def _left_out(unusable: Mapping[str, int]) -> str:
  """Returns "; 2 left out: REASON; ..." to end a line, "" for none."""
  return "".join(f"; {n:,} left out: {why}" for why, n in unusable.items())


def _named(made: list[tasks.Example], place: int) -> list[tasks.Example]:
  """Returns the examples of a record; an empty id becomes the record's index.

  Left-out records count, so the index is that in the file.
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
  """Returns the sha256 of the contents of the examples."""
  digest = hashlib.sha256()
  for row in rows:
    fields = dataclasses.asdict(row)
    del fields["group"], fields["steps"]  # They follow from the rest.
    # Without the field, digests are those of earlier versions.
    if not row.num_characters:
      del fields["num_characters"]
    digest.update(json.dumps([*fields.values()]).encode())
  return digest.hexdigest()


def _make(task: tasks.Task, where: str, record: Any) -> list[tasks.Example]:
  """Returns the examples of a record; errors name its location."""
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
  """Raises unless an example has the fields that its kind of task needs."""
  for name in ("references", "options", "hints", "steps"):
    if isinstance(value := getattr(row, name), str):
      raise errors.UserError(
        f"an example's {name} are the text {value!r:.60}, expected a list of "
        "texts"
      )
  texts = [
    row.id,
    row.group,
    row.prefix,
    row.target,
    *row.references,
    *row.options,
  ]
  for text in [*texts, *row.hints, *row.steps]:
    if not isinstance(text, str):
      raise errors.UserError(f"an example has {text!r:.60}, expected a string")
  if task.kind == "decode" and not row.references:
    raise errors.UserError("an example of kind 'decode' needs references")
  if task.kind == "options" and len(row.options) < 2:
    raise errors.UserError(f"{len(row.options)} options, expected at least two")
  if task.kind == "options" and not -1 <= row.label < len(row.options):
    raise errors.UserError(
      f"label {row.label} is not one of {len(row.options)} options"
    )
  if row.options and row.label >= 0 and row.target != row.options[row.label]:
    raise errors.UserError(f"the target is not option {row.label}")
  if row.steps:
    _require_steps(task, row)
  if row.num_characters and len(row.num_characters) != len(row.options):
    raise errors.UserError(
      f"num_characters has {len(row.num_characters)} numbers for "
      f"{len(row.options)} options"
    )


def _require_steps(task: tasks.Task, row: tasks.Example) -> None:
  """Raises unless the target is the steps and an answer."""
  steps = "".join(row.steps)
  if not row.target.startswith(steps) or not row.target[len(steps) :].strip():
    raise errors.UserError(
      f"the steps {steps!r:.60} are not the start of the target "
      f"{row.target!r:.60}, followed by the answer"
    )
  if not all(step.strip() for step in row.steps):
    raise errors.UserError("an empty step")
  if task.kind == "options" or task.perplexity:
    raise errors.UserError(
      "steps: only for kind 'decode' without perplexity, which the whole "
      "target has"
    )
