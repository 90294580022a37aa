"""CommonsenseQA: five answers, one of them sensible (Talmor et al., 2019).

  {"answerKey": "A", "id": "1afa02df02c908a558b4036e80242fac", "question":
    {"question_concept": "revolving door",
     "stem": "A revolving door is convenient for two direction travel, but ...",
     "choices": [{"label": "A", "text": "bank"},
                 {"label": "B", "text": "library"}, ...]}}

Published files: train_rand_split.jsonl (9,741) and dev_rand_split.jsonl
(1,221), from https://www.tau-nlp.org/commonsenseqa, license MIT. TFDS has no
builder of that name; cos_e:0.0.1 holds the same questions. The test file
(1,140) has no answerKey, so there is no split "test".

As in the paper, the answer is generated and scored by exact match. The paper
does not say whether the prompt lists the choices, or whether the answer is a
letter or the text. Here the prompt is lm-evaluation-harness's, which lists
them, and the target is the text of the right one. In 146 of the 10,962 records
two choices have the same text; they are kept, since only the text is scored.
"""

from collections.abc import Iterator

from pausejax import errors, metrics, tasks
from pausejax.tasks import records


def from_tfds(example: dict) -> dict:
  """Returns the record of an example of cos_e."""
  choices = [
    {"label": label, "text": text}
    for label, text in zip("ABCDE", example["choices"], strict=True)
  ]
  right = [c["label"] for c in choices if c["text"] == example["answer"]]
  return {
    "id": example["id"],
    "question": {"stem": example["question"], "choices": choices},
    "answerKey": "".join(right[:1]),
  }


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  question = record["question"]
  choices = _choices(question["choices"])
  key = records.text(record, "answerKey")
  if key not in choices:
    raise errors.UserError(
      f"answerKey {key!r} is none of the choices {', '.join(choices)}"
    )
  lines = [f"Question: {records.words(question, 'stem')}"]
  lines += [f"{label}. {text}" for label, text in choices.items()]
  yield tasks.Example(
    id=records.text(record, "id"),
    prefix="\n".join([*lines, "Answer:"]),
    target=choices[key],
    references=(choices[key],),
  )


def _choices(rows: list[dict]) -> dict[str, str]:
  """Returns label -> text."""
  choices = {}
  for row in rows:
    label = records.text(row, "label")
    if label in choices:
      raise errors.UserError(f"two choices have the label {label!r}")
    choices[label] = " ".join(records.words(row, "text").split())
  if len({*choices.values()}) < 2:
    raise tasks.Unusable("fewer than two different choices")
  return choices


tasks.register(
  tasks.Task(
    name="commonsense_qa",
    kind="decode",
    source=records.Files(
      files={
        "train": "train_rand_split*.jsonl",
        "validation": "dev_rand_split*.jsonl",
      },
      tfds="cos_e:0.0.1",
      from_tfds=from_tfds,
    ),
    examples=examples,
    metrics={"em": metrics.exact_match},
    num_pauses=10,
    max_target_len=16,
  )
)
