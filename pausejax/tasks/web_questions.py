"""WebQuestions: questions people asked a search engine (Berant et al., 2013).

  {"url": "http://www.freebase.com/view/en/jamaica",
   "targetValue": "(list (description \\"Jamaican Creole English Language\\")
                   (description \\"Jamaican English\\"))",
   "utterance": "what does jamaican people speak?"}

Published files: webquestions.examples.train.json (3,778) and .test.json
(2,032), each one JSON list (published as .bz2: unpack them), from
https://nlp.stanford.edu/software/sempre, license CC BY 4.0; TFDS
web_questions:1.0.0. Other copies are called blobtrain and blobtest.

Closed book: the paper does not say so, but calls the task fact recall. The
prompt is lm-evaluation-harness's. The target is the first answer, and every
answer counts as right.

Quotes inside an answer are not escaped in most of the published files; the
backslash of an escaped one is removed. An answer ends where the next begins;
TFDS ends it at the first parenthesis or quote, which differs in 10 of the
5,810 records.
"""

import re
from collections.abc import Iterator

from pausejax import errors, metrics, tasks
from pausejax.tasks import records

_ANSWER = re.compile(r"\(description (.*?)\)(?= \(description |$)", re.DOTALL)


def parse_answers(target: str) -> list[str]:
  """Returns the answers in `(list (description "Lightning rod") ...)`.

  Raises:
    UserError: not such a list.
  """
  inner = target.removeprefix("(list").removesuffix(")").strip()
  answers = _ANSWER.findall(inner)
  if _list(answers) != target and inner:
    raise errors.UserError(
      "field 'targetValue': expected (list (description ...) ...), got "
      f"{target!r:.60}"
    )
  return [_unquoted(answer).strip() for answer in answers]


def from_tfds(example: dict) -> dict:
  """Returns the record, its answers written as they were published."""
  escaped = [re.sub(r'(["\\])', r"\\\1", text) for text in example["answers"]]
  answers = [f'"{answer}"' for answer in escaped]
  return {"utterance": example["question"], "targetValue": _list(answers)}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  answers = parse_answers(records.text(record, "targetValue"))
  if not answers:
    raise tasks.Unusable("a question without an answer")
  yield tasks.Example(
    id="",
    prefix=f"Question: {records.words(record, 'utterance')}\nAnswer:",
    target=answers[0],
    references=answers,
  )


def _unquoted(answer: str) -> str:
  """Returns the answer without its outer quotes, if it has any."""
  quoted = re.fullmatch(r'(?s)"(.*)"', answer)
  return re.sub(r'\\(["\\])', r"\1", quoted.group(1)) if quoted else answer


def _list(answers: list[str]) -> str:
  described = " ".join(f"(description {answer})" for answer in answers)
  return f"(list {described})"


tasks.register(
  tasks.Task(
    name="web_questions",
    kind="decode",
    source=records.Files(
      files={
        "train": ("*train*.json", "blobtrain"),
        "test": ("*test*.json", "blobtest"),
      },
      read=records.json_document,
      tfds="web_questions:1.0.0",
      from_tfds=from_tfds,
    ),
    examples=examples,
    metrics={"em": metrics.alias_em},
    num_pauses=10,
    max_target_len=32,
  )
)
