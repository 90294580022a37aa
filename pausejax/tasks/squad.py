"""SQuAD v1.1: answers contained in a Wikipedia paragraph (Rajpurkar, 2016).

  {"version": "1.1", "data": [{"title": "Super_Bowl_50", "paragraphs": [
    {"context": "Super Bowl 50 was an American football game to ...", "qas": [
      {"id": "56be4db0acb8001400a502ec",
       "question": "Which NFL team represented the AFC at Super Bowl 50?",
       "answers": [{"text": "Denver Broncos", "answer_start": 177}, ...]}]}]}]}

Published files: train-v1.1.json (87,599 questions) and dev-v1.1.json (10,570),
from https://rajpurkar.github.io/SQuAD-explorer, license CC BY-SA 4.0; TFDS
squad/v1.1:3.0.0. The test set is not public.

The paper gives no prompt, and lm-evaluation-harness has none for v1.1. The
question comes last, after its paragraph, so that a prefix too long for the
model loses text of the paragraph. 50 pauses are the paper's.
"""

import hashlib
import pathlib
from collections.abc import Iterator

from pausejax import errors, metrics, tasks
from pausejax.tasks import records


def read_questions(path: pathlib.Path) -> Iterator[records.LocatedRecord]:
  """Yields one record per question: id, context, question, answers.

  Raises:
    UserError: not the shape of an article; it names file and article.
  """
  for where, article in records.json_document(path):
    try:
      for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
          named = f"{where} question {question.get('id')!r:.60}"
          yield named, {"context": paragraph["context"], **question}
    except (AttributeError, KeyError, TypeError) as e:
      raise errors.UserError(
        f"{where}: not an article of SQuAD: {type(e).__name__}: {e}"
      ) from e


def from_tfds(example: dict) -> dict:
  """Returns the record; TFDS has a list of texts in place of answers."""
  answers = [{"text": text} for text in example["answers"]["text"]]
  return {**example, "answers": answers}


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a question."""
  answers = [records.text(answer, "text") for answer in record["answers"]]
  if not answers:
    raise tasks.Unusable("a question without an answer")
  if not metrics.normalize_answer(answers[0]):
    raise tasks.Unusable("an answer of articles and punctuation only: F1 is 0")
  context = records.words(record, "context")
  question = records.words(record, "question")
  yield tasks.Example(
    id=records.text(record, "id"),
    prefix=f"Context: {context}\nQuestion: {question}\nAnswer:",
    target=answers[0],
    references=answers,
    # The questions on one paragraph.
    group=hashlib.sha256(context.encode()).hexdigest()[:16],
  )


tasks.register(
  tasks.Task(
    name="squad",
    kind="decode",
    source=records.Files(
      files={"train": "train-v1.1*.json", "validation": "dev-v1.1*.json"},
      read=read_questions,
      tfds="squad/v1.1:3.0.0",
      from_tfds=from_tfds,
    ),
    examples=examples,
    metrics={"em": metrics.squad_em, "f1": metrics.squad_f1},
    num_pauses=50,
    max_target_len=64,
  )
)
