"""HellaSwag: what happens next, one of four (Zellers et al., 2019).

  {"ind": 24, "activity_label": "Roof shingle removal",
   "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
   "ctx": "A man is sitting on a roof. he", "split": "val", "label": 3,
   "endings": ["is using wrap to wrap a pair of skis.", ...], ...}

Published files: hellaswag_train.jsonl (39,905) and hellaswag_val.jsonl
(10,042), from https://github.com/rowanz/hellaswag, license MIT; TFDS
hellaswag:1.1.0. hellaswag_test.jsonl (10,003) has no labels, so there is no
split "test".

Examples are named by their index in the file, from 0. "ind" is not unique: in
the validation file, 19077 is both "Applying sunscreen" and "How to get skinny".

The paper calls it a scoring task. Prompt and clean-up are those of
lm-evaluation-harness, except for the white space that it leaves around an
ending where a mark was: it is not scored here, although
`accuracy_per_character` counts it as acc_norm does. TFDS joins ctx_a and ctx_b,
so its last sentence of a prefix begins with a lower-case letter.
"""

import re
from collections.abc import Iterator

from pausejax import errors, tasks
from pausejax.tasks import records


def clean(text: str) -> str:
  """Returns the text without WikiHow's marks and white space around it."""
  return without_marks(text).strip()


def without_marks(text: str) -> str:
  """Returns the text as lm-evaluation-harness scores it.

  White space next to a mark at the start or the end is kept.
  """
  text = text.strip().replace(" [title]", ". ")
  return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def from_tfds(example: dict) -> dict:
  """Returns the record with the whole context in ctx_a."""
  return {**example, "ctx_a": example["context"], "ctx_b": ""}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  activity, ctx_a, ctx_b = (
    records.text(record, name) for name in ("activity_label", "ctx_a", "ctx_b")
  )
  endings = records.texts(record, "endings")
  options = [clean(text) for text in endings]
  label = _label(record)
  yield tasks.Example(
    id="",
    prefix=clean(f"{activity}: {ctx_a} {ctx_b.capitalize()}"),
    target=tasks.option(options, label),
    options=options,
    label=label,
    num_characters=[len(without_marks(text)) for text in endings],
    # The video, or article, that several examples are cut from.
    group=records.text(record, "source_id") if "source_id" in record else "",
  )


def _label(record: dict) -> int:
  """Returns the index of the right ending, -1 if it is not published."""
  label = record.get("label", -1)
  if label in (None, ""):
    return -1
  if type(label) is not int:
    raise errors.UserError(
      f"field 'label': expected the index of an ending, got {label!r:.60}"
    )
  return label


tasks.register(
  tasks.Task(
    name="hellaswag",
    kind="options",
    source=records.Files(
      files={
        "train": "hellaswag_train*.jsonl",
        "validation": "hellaswag_val*.jsonl",
      },
      tfds="hellaswag:1.1.0",
      from_tfds=from_tfds,
    ),
    examples=examples,
    num_pauses=10,
  )
)
