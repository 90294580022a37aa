"""CoQA: a conversation about a story (Reddy et al., 2019).

  {"version": "1.0", "data": [{"source": "mctest", "id": "3dr23u6we5exclen...",
    "story": "Once upon a time, in a barn near a farm house, there lived ...",
    "questions": [{"input_text": "What color was Cotton?", "turn_id": 1}, ...],
    "answers": [{"input_text": "white", "turn_id": 1, "span_text": ...}, ...],
    "additional_answers": {"0": [{"input_text": "white", "turn_id": 1}, ...],
                           "1": ..., "2": ...}}]}

Published files: coqa-train-v1.0.json (7,199 stories) and coqa-dev-v1.0.json
(500), from https://stanfordnlp.github.io/coqa, licenses by source of the story
(CC BY-SA 4.0, Apache-2.0 and others); TFDS coqa:1.0.0, which calls the dev
file "test" and leaves out ids and additional answers, so its F1 is not
comparable. The test set is not public.

One example per question, named STORY#TURN. Questions and answers are matched
by turn_id, whatever their order. The prompt is lm-evaluation-harness's:
the story, then every earlier question with its right answer. The target is the
main answer; the references are all four. The paper says neither which history
its model saw nor which of the two rules of F1 it used; the primary metric here
is the official one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pausejax import errors, metrics, tasks
from pausejax.tasks import records


def from_tfds(example: dict) -> dict:
  """Returns the record, with the fields that TFDS has."""
  questions, answers = example["questions"], example["answers"]["input_text"]
  return {
    "story": example["story"],
    "questions": [
      {"input_text": text, "turn_id": turn}
      for turn, text in enumerate(questions, start=1)
    ],
    "answers": [{"input_text": text} for text in answers],
  }


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields an example for every question of a story."""
  prefix = records.words(record, "story") + "\n\n"
  questions = _by_turn(record["questions"], "questions")
  given = [_by_turn(record["answers"], "answers", questions)]
  for key, rows in record.get("additional_answers", {}).items():
    given.append(_by_turn(rows, f"additional_answers {key!r}", questions))
  if not all(questions.values()):
    raise tasks.Unusable("an empty question")
  for turn in sorted(questions):
    references = [answers[turn] for answers in given]
    prefix += f"Q: {questions[turn]}\n\nA:"
    yield tasks.Example(
      id=_id(record["id"], turn) if "id" in record else "",
      prefix=prefix,
      target=references[0],
      references=references,
    )
    prefix += f" {references[0]}\n\n"


def read_predictions(document: Any) -> Mapping[str, str]:
  """Returns STORY#TURN -> answer of the official list, or of an object.

  Raises:
    UserError: another type, or a question answered twice.
  """
  if not isinstance(document, list):
    return tasks.predictions_by_id(document)
  answers = {}
  for row in document:
    if not isinstance(row, dict) or not {"id", "turn_id", "answer"} <= {*row}:
      raise errors.UserError(
        f"expected {{'id', 'turn_id', 'answer'}} in each row, got {row!r:.60}"
      )
    key = _id(row["id"], row["turn_id"])
    if key in answers:
      raise errors.UserError(f"{key!r} is answered twice")
    answers[key] = row["answer"]
  return answers


def _by_turn(
  rows: list[dict], what: str, questions: Mapping[int, str] | None = None
) -> dict[int, str]:
  """Returns turn_id -> text; counts from 1 if no row has a turn_id.

  Raises:
    UserError: a row without turn_id beside others with one, a turn_id twice, or
      turns that are not those of `questions`.
  """
  has_turns = any("turn_id" in row for row in rows)
  texts: dict[int, str] = {}
  for place, row in enumerate(rows, start=1):
    turn = row.get("turn_id") if has_turns else place
    if type(turn) is not int or turn in texts:
      raise errors.UserError(
        f"{what}: row {place} has the turn_id {turn!r}, expected a number that "
        "no other row has"
      )
    texts[turn] = records.text(row, "input_text")
  for turn in sorted(texts.keys() ^ (questions or texts).keys()):
    lacks = "question" if turn in texts else "row"
    raise errors.UserError(f"{what}: there is no {lacks} of turn {turn}")
  return texts


def _id(story: str, turn: int) -> str:
  return f"{story}#{turn}"


tasks.register(
  tasks.Task(
    name="coqa",
    kind="decode",
    source=records.Files(
      files={"train": "coqa-train*.json", "validation": "coqa-dev*.json"},
      read=records.json_document,
      tfds="coqa:1.0.0",
      tfds_splits={"validation": "test"},
      from_tfds=from_tfds,
    ),
    examples=examples,
    metrics={
      "f1": metrics.coqa_f1,
      "em": metrics.coqa_em,
      "f1_max": metrics.coqa_f1_max,
    },
    num_pauses=10,
    max_target_len=64,
    read_predictions=read_predictions,
  )
)
