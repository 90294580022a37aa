"""HellaSwag: what happens next, one of four (Zellers et al., 2019).

  {"ind": 24, "activity_label": "Roof shingle removal",
   "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
   "ctx": "A man is sitting on a roof. he", "split": "val", "label": 3,
   "endings": ["is using wrap to wrap a pair of skis.", ...], ...}

Published files: hellaswag_train.jsonl (39,905) and hellaswag_val.jsonl
(10,042), from https://github.com/rowanz/hellaswag, licence MIT; TFDS
hellaswag:1.1.0. hellaswag_test.jsonl (10,003) has no labels, so there is no
split "test".

The paper calls it a scoring task. Prompt and clean-up are those of
lm-evaluation-harness, but for the space that it leaves before an ending where a
mark was. TFDS joins ctx_a and ctx_b, so that there the last
sentence of a prefix begins with a small letter, and has no "ind" to name an
example by.
"""

import re
from collections.abc import Iterator

from pausejax import tasks
from pausejax.data import records


def clean(text: str) -> str:
  """Returns the text without the marks that WikiHow left in it."""
  text = text.strip().replace(" [title]", ". ")
  return re.sub(r"\[.*?\]", "", text).replace("  ", " ").strip()


def from_tfds(example: dict) -> dict:
  """Returns the record, all of its context in ctx_a."""
  return {**example, "ctx_a": example["context"], "ctx_b": ""}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  activity, ctx_a, ctx_b = (
    records.text(record, name) for name in ("activity_label", "ctx_a", "ctx_b")
  )
  options = [clean(text) for text in records.texts(record, "endings")]
  yield tasks.Example(
    id=str(record.get("ind", "")),
    prefix=clean(f"{activity}: {ctx_a} {ctx_b.capitalize()}"),
    target=options[record["label"]],
    options=options,
    label=record["label"],
  )


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
