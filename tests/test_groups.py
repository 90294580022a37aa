"""Examples on one text are a group, from the data to the predictions."""

import dataclasses
import hashlib
import json

import pytest

from pausejax import tasks
from pausejax.data.finetuning import examples
from tests import task_samples, test_answers


def question(id_: str) -> dict:
  answers = [{"text": "red", "answer_start": 0}]
  return {"id": id_, "question": "which?", "answers": answers}


def paragraph(text: str, *ids: str) -> dict:
  return {"context": text, "qas": [question(i) for i in ids]}


def groups(rows) -> dict[str, str]:
  return {row.id: row.group for row in rows}


def test_questions_on_one_paragraph_of_squad_are_a_group(tmp_path, data_config):
  paragraphs = [paragraph("red sea", "a", "b"), paragraph("red cow", "c")]
  article = {"title": "t", "paragraphs": paragraphs}
  task_samples.write(tmp_path, {"dev-v1.1.json": {"data": [article]}})
  rows = task_samples.load(data_config, "squad", "validation", tmp_path).rows
  found = groups(rows)
  assert found["a"] == found["b"] != found["c"]


def test_questions_on_one_story_of_coqa_are_a_group(tmp_path, data_config):
  stories = [{**task_samples.COQA, "id": i} for i in ("s1", "s2")]
  task_samples.write(tmp_path, {"coqa-dev-v1.0.json": {"data": stories}})
  rows = task_samples.load(data_config, "coqa", "validation", tmp_path).rows
  assert [row.group for row in rows] == ["s1#1", "s1#1", "s2#1", "s2#1"]


def test_endings_of_one_video_of_hellaswag_are_a_group(tmp_path, data_config):
  lines = [
    {**task_samples.HELLASWAG, "ind": ind, "source_id": source}
    for ind, source in enumerate(
      ["activitynet~a", "activitynet~a", "wikihow~1"]
    )
  ]
  task_samples.write(tmp_path, {"hellaswag_val.jsonl": lines})
  rows = task_samples.load(
    data_config, "hellaswag", "validation", tmp_path
  ).rows
  assert [r.group for r in rows] == [line["source_id"] for line in lines]


def test_an_example_of_a_record_of_its_own_has_no_group(tmp_path, data_config):
  task_samples.write(tmp_path, {"test.jsonl": [task_samples.GSM8K] * 2})
  rows = task_samples.load(data_config, "gsm8k", "test", tmp_path).rows
  assert [row.group for row in rows] == ["", ""]


def test_the_digest_of_examples_is_that_of_results_without_groups():
  """Results of earlier versions name it."""
  row = tasks.Example(id="a", prefix="p", target="t", references=("t",))
  before = json.dumps(["a", "p", "t", ["t"], [], -1, []]).encode()
  want = hashlib.sha256(before).hexdigest()
  assert examples._digest([row]) == want
  assert examples._digest([dataclasses.replace(row, group="g")]) == want


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decode", "options"])
def test_predictions_name_the_group(kind, monkeypatch):
  rows = test_answers.examples(kind)
  rows[:2] = [dataclasses.replace(row, group="story") for row in rows[:2]]
  monkeypatch.setattr(test_answers, "examples", lambda kind: rows)
  answered = test_answers.answer(kind)
  found = [row["group"] for row in answered.rows]
  assert found == ["story", "story", *(row.id for row in rows[2:])]
