"""LAMBADA: the last word of a passage (Paperno et al., 2016).

  lambada_test_plain_text.txt   he looked at these and at the tinder pouch that
                                hung beside it . `` i have n't forgotten ...
  lambada_test.jsonl            {"text": "In my palm is a clear stone, and ..."}

Two publications of the same passages, license CC BY 4.0:

  https://zenodo.org/records/2630551: lambada_development_plain_text.txt (4,869)
    and lambada_test_plain_text.txt (5,153), lower case and tokenized; TFDS
    lambada:1.0.0, which calls the development file "train".
  OpenAI's lambada_test.jsonl (5,153): the text as it stood in the books, line
    ends and quotes included, the last word cleaned of punctuation.

The published training text is 2,662 whole novels without questions. The paper
does not name its finetuning data or which publication it used. Here, as in
TFDS, the development file is "train". OpenAI's test file is read only if
the plain one is missing: train and test should both be in lower case.

The prefix is the passage up to its last white space, the target the last word.
lm-evaluation-harness cuts at the last space only, and so has a line end inside
some targets.
"""

import pathlib
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records


def read_passages(path: pathlib.Path) -> Iterator[records.LocatedRecord]:
  """Yields {"text": passage} of either publication."""
  is_json = ".jsonl" in path.suffixes
  return records.json_lines(path) if is_json else records.text_lines(path)


def from_tfds(example: dict) -> dict:
  """Returns the record; the passage keeps its line end, which is stripped."""
  return {"text": example["passage"]}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a passage."""
  words = records.text(record, "text").rsplit(maxsplit=1)
  if len(words) < 2:
    raise tasks.Unusable("a passage of fewer than two words")
  yield tasks.Example(
    id="", prefix=words[0], target=words[1], references=(words[1],)
  )


tasks.register(
  tasks.Task(
    name="lambada",
    kind="decode",
    source=records.Files(
      files={
        "train": "lambada_development_plain_text*.txt",
        "test": ("lambada_test_plain_text*.txt", "lambada_test*.jsonl"),
      },
      read=read_passages,
      tfds="lambada:1.0.0",
      from_tfds=from_tfds,
    ),
    examples=examples,
    metrics={"em": metrics.last_word_em},
    num_pauses=10,
    max_target_len=16,
    perplexity=True,
  )
)
