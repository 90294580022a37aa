"""Natural Questions, open domain: questions to Google (Lee et al., 2019).

  {"question": "when was the last time anyone was on the moon",
   "answer": ["14 December 1972 UTC", "December 1972"]}

Published files: NQ-open.train.jsonl (87,925) and NQ-open.dev.jsonl (3,610),
from https://github.com/google-research-datasets/natural-questions (nq_open),
license CC BY-SA 3.0; TFDS natural_questions_open:1.0.0.

Closed book: the paper does not say so, but calls the task fact recall. The
prompt is lm-evaluation-harness's, with its line of instruction. The target is
the first answer, and every answer counts as right. Hard spaces become spaces.
"""

from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  if not record["answer"]:
    raise tasks.Unusable("a question without an answer")
  if isinstance(record["answer"], str):  # In copies made through CSV.
    raise tasks.Unusable("answers that are one text, not a list")
  answers = [" ".join(text.split()) for text in records.texts(record, "answer")]
  question = " ".join(records.words(record, "question").split())
  yield tasks.Example(
    id="",
    prefix=f"Answer these questions:\n\nQ: {question}?\nA:",
    target=answers[0],
    references=answers,
  )


tasks.register(
  tasks.Task(
    name="natural_questions",
    kind="decode",
    source=records.Files(
      files={
        "train": "NQ-open.train*.jsonl",
        "validation": "NQ-open.dev*.jsonl",
      },
      tfds="natural_questions_open:1.0.0",
    ),
    examples=examples,
    metrics={"em": metrics.alias_em},
    num_pauses=10,
    max_target_len=32,
  )
)
