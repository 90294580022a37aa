"""What each downstream task makes of its records, and which it refuses."""

import json
import re

import pytest

from pausejax import errors
from pausejax.tasks import coqa, hellaswag, records, web_questions
from tests.task_samples import (
  COMMONSENSE_QA,
  COQA,
  FILES,
  GSM8K,
  HELLASWAG,
  NATURAL_QUESTIONS,
  PIQA,
  REAL,
  SQUAD,
  WEB_QUESTIONS,
  load,
  message,
  real_folder,
  write,
)


def test_a_field_of_another_type_is_an_error(tmp_path, data_config):
  for value in (None, 3, ["a"]):
    write(tmp_path, {"train.jsonl": [GSM8K, {**GSM8K, "question": value}]})
    said = message(data_config, "gsm8k", "train", tmp_path)
    assert "train.jsonl:2: field 'question': expected a string" in said
  write(
    tmp_path, {"train.jsonl": '{"question": "\\ud800", "answer": "#### 1"}\n'}
  )
  said = message(data_config, "gsm8k", "train", tmp_path)
  assert "half a surrogate pair" in said
  write(tmp_path, {"train.jsonl": [{**GSM8K, "answer": "4"}]})
  assert "no number" in message(data_config, "gsm8k", "train", tmp_path)
  for name in ("gsm8k", "piqa"):
    write(tmp_path, {"train.jsonl": [[1]], "train-labels.lst": "0"})
    said = message(data_config, name, "train", tmp_path)
    assert "train.jsonl:1: expected a JSON object" in said


def test_an_id_that_comes_twice_is_an_error(tmp_path, data_config):
  write(tmp_path, {"dev_rand_split.jsonl": [COMMONSENSE_QA, COMMONSENSE_QA]})
  said = message(data_config, "commonsense_qa", "validation", tmp_path)
  assert "dev_rand_split.jsonl:2: the id 'c1'" in said


def test_squad_names_questions_by_their_ids(tmp_path, data_config):
  write(tmp_path, FILES["squad"]["validation"])
  rows = load(data_config, "squad", "validation", tmp_path).rows
  assert [row.id for row in rows] == ["q1", "q2"]
  assert rows[0].references == ["the capital", "the capital of France"]


def test_squad_counts_questions_without_answers(tmp_path, data_config):
  article = json.loads(json.dumps(SQUAD))
  article["paragraphs"][0]["qas"][0]["answers"] = []
  write(tmp_path, {"dev-v1.1.json": {"data": [article]}})
  loaded = load(data_config, "squad", "validation", tmp_path)
  assert [row.id for row in loaded.rows] == ["q2"]
  assert loaded.num_unusable == {"a question without an answer": 1}
  assert "1 left out: a question without an answer" in loaded.summary()


def test_coqa_has_one_example_per_turn_with_the_reference_answers_before_it(
  tmp_path, data_config
):
  write(tmp_path, FILES["coqa"]["train"])
  first, second = load(data_config, "coqa", "train", tmp_path).rows
  assert (first.id, second.id) == ("s1#1", "s1#2")
  assert second.prefix.startswith(f"{first.prefix} white\n\n")
  short = {**COQA, "answers": COQA["answers"][:1]}
  write(tmp_path, {"coqa-train-v1.0.json": {"data": [short]}})
  said = message(data_config, "coqa", "train", tmp_path)
  assert "answers: there is no row of turn 2" in said


def test_commonsense_qa_needs_a_right_answer(tmp_path, data_config):
  write(tmp_path, {"dev_rand_split.jsonl": [{**COMMONSENSE_QA, "id": "c2"}]})
  load(data_config, "commonsense_qa", "validation", tmp_path)
  for key in ("E", ""):
    row = {**COMMONSENSE_QA, "answerKey": key}
    write(tmp_path, {"dev_rand_split.jsonl": [row]})
    said = message(data_config, "commonsense_qa", "validation", tmp_path)
    assert "none of the choices A, B" in said


def test_piqa_needs_a_label_for_every_record(tmp_path, data_config):
  write(tmp_path, {"valid.jsonl": [PIQA, PIQA], "valid-labels.lst": "0\n"})
  said = message(data_config, "piqa", "validation", tmp_path)
  assert "valid.jsonl has 2" in said and "valid-labels.lst has 1" in said
  write(tmp_path, {"valid-labels.lst": "0\n2\n"})
  said = message(data_config, "piqa", "validation", tmp_path)
  assert "valid-labels.lst:2" in said
  (tmp_path / "valid-labels.lst").unlink()
  assert "valid-labels.lst" in message(
    data_config, "piqa", "validation", tmp_path
  )


def test_lambada_splits_at_the_last_white_space(tmp_path, data_config):
  passages = ["he saw anna", "he said :\xa0anna \n", "anna"]
  write(tmp_path, {"lambada_test.jsonl": [{"text": t} for t in passages]})
  loaded = load(data_config, "lambada", "test", tmp_path)
  assert [row.target for row in loaded.rows] == ["anna", "anna"]
  assert [row.prefix for row in loaded.rows] == ["he saw", "he said :"]
  assert loaded.num_unusable == {"a passage of fewer than two words": 1}


def test_lambada_prefers_the_test_file_that_fits_the_training_file(
  tmp_path, data_config
):
  write(tmp_path, FILES["lambada"]["test"])
  write(tmp_path, {"lambada_test_plain_text.txt": "he said to anna\n"})
  (row,) = load(data_config, "lambada", "test", tmp_path).rows
  assert row.prefix == "he said to"


def test_hellaswag_labels_are_within_the_endings(tmp_path, data_config):
  write(tmp_path, {"hellaswag_val.jsonl": [{**HELLASWAG, "label": 4}]})
  said = message(data_config, "hellaswag", "validation", tmp_path)
  assert "hellaswag_val.jsonl:1" in said
  assert hellaswag.clean(" [header] Do it [title] Now  then") == (
    "Do it. Now then"
  )


@pytest.mark.parametrize(
  "target, answers",
  [
    ("(list (description Lawyer))", ["Lawyer"]),
    (
      '(list (description "A (b) c") (description D))',
      ["A (b) c", "D"],
    ),
    (
      '(list (description ""Hope" is a thing") (description "x"))',
      ['"Hope" is a thing', "x"],
    ),
    ("(list)", []),
    ("(list )", []),
  ],
)
def test_answers_of_web_questions(target, answers):
  assert web_questions.parse_answers(target) == answers


def test_web_questions_without_answers_are_counted(tmp_path, data_config):
  empty = {**WEB_QUESTIONS, "targetValue": "(list )"}
  write(tmp_path, {"blobtest": json.dumps([WEB_QUESTIONS, empty])})
  loaded = load(data_config, "web_questions", "test", tmp_path)
  assert loaded.num_unusable == {"a question without an answer": 1}
  for wrong in ("Lawyer", "(list Lawyer)", "(list (description A) B)"):
    record = {**WEB_QUESTIONS, "targetValue": wrong}
    write(tmp_path, {"blobtest": json.dumps([record])})
    said = message(data_config, "web_questions", "test", tmp_path)
    assert "targetValue" in said


def test_natural_questions_needs_a_list_of_answers(tmp_path, data_config):
  rows = [
    NATURAL_QUESTIONS,
    {**NATURAL_QUESTIONS, "answer": "['Neil', 'Buzz']"},
    {**NATURAL_QUESTIONS, "answer": []},
  ]
  write(tmp_path, {"NQ-open.dev.jsonl": rows})
  loaded = load(data_config, "natural_questions", "validation", tmp_path)
  assert len(loaded.rows) == 1 and sum(loaded.num_unusable.values()) == 2


def test_predictions_of_coqa_come_as_the_official_list():
  rows = [
    {"id": "s1", "turn_id": 1, "answer": "white"},
    {"id": "s1", "turn_id": 2, "answer": "Cotton"},
  ]
  expected = {"s1#1": "white", "s1#2": "Cotton"}
  assert coqa.read_predictions(rows) == expected
  assert coqa.read_predictions(expected) == expected
  for wrong in ([*rows, rows[0]], [{"id": "s1"}], ["s1"], "s1"):
    with pytest.raises(errors.UserError):
      coqa.read_predictions(wrong)


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
def test_answers_of_web_questions_differ_from_tfds_where_quotes_do(data_config):
  tfds_rule = re.compile(r'\(description (?:"([^"]+?)"|([^)]+?))\)\w*')
  folder, differ = real_folder("web_questions"), 0
  for path in folder.glob("*.json"):
    for _, record in records.json_document(path):
      target = record["targetValue"]
      inner = re.sub(r"^\(list |\)$", "", target)
      theirs = ["".join(found) for found in tfds_rule.findall(inner)]
      differ += web_questions.parse_answers(target) != theirs
  assert differ == 10
