"""PhysicalIQA: which of two ways to do something works (Bisk et al., 2020).

  valid.jsonl       {"goal": "How do I ready a guinea pig cage for it's ...",
                     "sol1": "Provide the guinea pig with a cage full of ...",
                     "sol2": "Provide the guinea pig with a cage full of ..."}
  valid-labels.lst  0

Published files: train.jsonl (16,113) with train-labels.lst, and valid.jsonl
(1,838) with valid-labels.lst, which physicaliqa-train-dev.zip calls dev.jsonl
and dev-labels.lst; from https://yonatanbisk.com/piqa, license AFL-3.0; TFDS
piqa:1.0.0. The labels of tests.jsonl are not public.

The paper calls it a scoring task. The prompt is lm-evaluation-harness's; the
more likely solution is the answer. White space around a solution (230 of the
3,676 in valid.jsonl have some) is not scored, but `accuracy_per_character`
counts it, as acc_norm of lm-evaluation-harness does.
"""

import pathlib
from collections.abc import Iterator

from pausejax import errors, tasks
from pausejax.tasks import records


def read_labeled(path: pathlib.Path) -> Iterator[records.LocatedRecord]:
  """Yields the records, each with the "label" of its line.

  Raises:
    UserError: the numbers of labels and records differ, or a label is not 0 or
      1.
  """
  located = list(records.json_lines(path))
  stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
  labels_path = records.one_form(path.with_name(f"{stem}-labels.lst"))
  labels = list(records.nonblank_lines(labels_path))
  if len(labels) != len(located):
    raise errors.UserError(
      f"{path} has {len(located)} records, but {labels_path} has "
      f"{len(labels)} labels"
    )
  for (where, record), (label_where, label) in zip(
    located, labels, strict=True
  ):
    if label.strip() not in (b"0", b"1"):
      raise errors.UserError(f"{label_where}: {label!r:.60} is not 0 or 1")
    yield where, {**record, "label": int(label)}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  options = [records.text(record, name) for name in ("sol1", "sol2")]
  yield tasks.Example(
    id="",
    prefix=f"Question: {records.words(record, 'goal')}\nAnswer:",
    target=tasks.option(options, record["label"]),
    options=options,
    label=record["label"],
    num_characters=[len(record["sol1"]), len(record["sol2"])],
  )


tasks.register(
  tasks.Task(
    name="piqa",
    kind="options",
    source=records.Files(
      files={
        "train": "train.jsonl",
        "validation": ("valid.jsonl", "dev.jsonl"),
      },
      read=read_labeled,
      tfds="piqa:1.0.0",
    ),
    examples=examples,
    num_pauses=10,
  )
)
