"""Published files as they should not be: nothing that loads is impossible.

Each record here can be met in a file of the published format. It is an error
that says where it is, or left out and counted, or its own answer is right.
"""

import json
import pathlib

import pytest

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.data.finetuning import examples
from pausejax.inspection import soundness
from pausejax.programs import score
from pausejax.tasks import hellaswag
from tests import task_samples
from tests.task_samples import COQA, FILES, GSM8K, HELLASWAG, PIQA, SQUAD


def load(name: str, split: str, folder) -> examples.Examples:
  """The published split as `pausejax score` loads it."""
  data = DataConfig(local_dir=str(folder))
  read, unusable = examples._read(tasks.downstream(name), split, data)
  return examples.Examples(split, [r for m in read for r in m], unusable, "")


def message(name: str, split: str, folder) -> str:
  with pytest.raises(errors.UserError) as caught:
    load(name, split, folder)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def write(folder: pathlib.Path, name: str, rows: list) -> tuple[str, str]:
  """Puts records into the last split of a task; returns (split, file)."""
  *_, (split, files) = FILES[name].items()
  file = next(iter(files))
  if name == "squad":
    qas = [row for row in rows if "qas" not in row]
    rows = [{"paragraphs": [{"context": "Paris, France.", "qas": qas}]}]
  is_document = name in ("squad", "coqa", "web_questions")
  content = rows if name == "web_questions" else {"data": rows}
  task_samples.write(
    folder, {file: json.dumps(content) if is_document else rows}
  )
  if name == "piqa":
    labels = "".join("0\n" for _ in rows)
    task_samples.write(folder, {"dev-labels.lst": labels})
  return split, file


def require_gold_is_right(task: tasks.Task, rows) -> None:
  """The right answer alone, and among all references, gets the full score."""
  for row in rows:
    if task.kind == "options":
      texts = [option.strip() for option in row.options]
      assert texts.count(row.target) == 1 and all(texts)
      continue
    for name, metric in task.metrics.items():
      assert metric(row.target, [row.target]) == 1.0, (name, row)
      # CoQA leaves each of several people's answers out in turn.
      if task.name != "coqa" or name == "f1_max":
        assert metric(row.target, row.references) == 1.0, (name, row)
  loaded = examples.Examples("test", list(rows), {}, "")
  gold = {row.id: row.target for row in rows}
  if task.name != "coqa":
    found = score.score_answers(task, loaded, gold)
    assert all(found[name] == 100.0 for name in task.metrics or ["accuracy"])
    assert found["num_missing"] == found["num_unknown"] == 0


# Gold answers.

NUMBERS = ["4", "-7", "1,450", "2.5", ".5", "42.", "18.00", "0", "007", "4 "]
NO_NUMBERS = [
  *("$18.00", "$18", "20%", "20 %", "6 apples", "1/2", "+4", "\u22127", "five"),
  *("", ".", ",", "-", "...", "1.2.3", "1e5", "1_000", "1 450", "18..", "- 4"),
  *(
    "\u0663",
    "\uff14",
    "2\u00bd",
    "nan",
    "3 or 4",
    "4\nDone.",
    "x = 4",
    "4\u00b0",
  ),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_gsm8k_number_matches_itself(number, tmp_path):
  write(tmp_path, "gsm8k", [{**GSM8K, "answer": f"So 3.\n#### {number}"}])
  (row,) = load("gsm8k", "test", tmp_path).rows
  require_gold_is_right(tasks.downstream("gsm8k"), [row])


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_gsm8k_answer_that_never_matches_is_refused(number, tmp_path):
  wrong = {**GSM8K, "answer": f"It is 4.\n#### {number}"}
  write(tmp_path, "gsm8k", [GSM8K, wrong])
  said = message("gsm8k", "test", tmp_path)
  assert "test.jsonl:2: field 'answer'" in said


@pytest.mark.parametrize(
  "answer", ["#### 3\nThen\n#### 6", "#### 6 ####", "####6", "####  6", "6"]
)
def test_gsm8k_requires_one_marker_before_one_number(answer, tmp_path):
  write(tmp_path, "gsm8k", [GSM8K, {**GSM8K, "answer": answer}])
  said = message("gsm8k", "test", tmp_path)
  assert "test.jsonl:2: field 'answer'" in said


@pytest.mark.skipif(
  not task_samples.REAL, reason="PAUSEJAX_REAL_DATA is not set"
)
@pytest.mark.parametrize("name", task_samples.COUNTS)
def test_references_of_real_files_score_as_correct(name):
  for split in task_samples.COUNTS[name]:
    loaded = load(name, split, task_samples.real_folder(name))
    require_gold_is_right(tasks.downstream(name), loaded.rows)


# Impossible records: task, record beside a good one, what it is left out for.

SQUAD_ROW = SQUAD["paragraphs"][0]["qas"][0]
WEB = task_samples.WEB_QUESTIONS
NQ = task_samples.NATURAL_QUESTIONS
CSQA = task_samples.COMMONSENSE_QA
GOOD = {
  "squad": SQUAD_ROW,
  "coqa": COQA,
  "commonsense_qa": CSQA,
  **{"gsm8k": GSM8K, "piqa": PIQA, "hellaswag": HELLASWAG},
  **{"web_questions": WEB, "natural_questions": NQ},
  "lambada": task_samples.LAMBADA,
}


def choices(*pairs) -> dict:
  rows = [{"label": label, "text": text} for label, text in pairs]
  question = {"stem": "Where?", "choices": rows}
  return {**CSQA, "id": "c2", "question": question, "answerKey": "B"}


def endings(*texts, **fields) -> dict:
  return {**HELLASWAG, "endings": list(texts), **fields}


def turns(**fields) -> dict:
  return {**COQA, "id": "s2", **fields}


def said(text: str, turn: int) -> dict:
  return {"input_text": text, "turn_id": turn}


LEFT_OUT = [
  ("hellaswag", {**HELLASWAG, "label": -1}, "no published label"),
  ("hellaswag", {**HELLASWAG, "label": ""}, "no published label"),
  ("hellaswag", {**HELLASWAG, "label": None}, "no published label"),
  ("hellaswag", endings("[header] ", "b", "c", "d"), "an empty option"),
  ("hellaswag", endings("a", "b", "c", " "), "an empty option"),
  ("hellaswag", endings("a", "a ", "[x] a", "a"), "fewer than two different"),
  ("hellaswag", endings("a", "b", "c", "[step] b"), "the right option twice"),
  (
    "hellaswag",
    {k: v for k, v in HELLASWAG.items() if k != "label"},
    "no published label",
  ),
  ("piqa", {**PIQA, "sol2": " "}, "an empty option"),
  ("piqa", {**PIQA, "sol2": "use a saw\n"}, "fewer than two different"),
  ("piqa", {**PIQA, "goal": "\t"}, "an empty 'goal'"),
  ("commonsense_qa", choices(("A", "x"), ("B", " ")), "an empty 'text'"),
  ("commonsense_qa", choices(("A", "x"), ("B", "x ")), "fewer than two"),
  ("gsm8k", {**GSM8K, "question": ""}, "an empty 'question'"),
  ("natural_questions", {**NQ, "answer": ["a", " "]}, "an empty answer"),
  ("natural_questions", {**NQ, "answer": []}, "without an answer"),
  ("natural_questions", {**NQ, "question": "\xa0"}, "an empty 'question'"),
  (
    "web_questions",
    {**WEB, "targetValue": '(list (description ""))'},
    "an empty answer",
  ),
  (
    "web_questions",
    {**WEB, "targetValue": '(list (description "a") (description " "))'},
    "an empty answer",
  ),
  ("web_questions", {**WEB, "utterance": ""}, "an empty 'utterance'"),
  ("squad", {**SQUAD_ROW, "id": "x", "answers": []}, "without an answer"),
  ("squad", {**SQUAD_ROW, "id": "x", "question": " "}, "an empty 'question'"),
  (
    "squad",
    {**SQUAD_ROW, "id": "x", "answers": [{"text": "a"}, {"text": ""}]},
    "articles and punctuation",
  ),
  (
    "squad",
    {**SQUAD_ROW, "id": "x", "answers": [{"text": "b"}, {"text": ""}]},
    "an empty answer",
  ),
  ("coqa", turns(story=""), "an empty 'story'"),
  (
    "coqa",
    turns(questions=[], answers=[], additional_answers={}),
    "a record without a question",
  ),
  (
    "coqa",
    turns(questions=[said("What?", 1), said(" ", 2)]),
    "an empty question",
  ),
  ("lambada", {"text": "anna"}, "fewer than two words"),
]


@pytest.mark.parametrize("name, record, reason", LEFT_OUT)
def test_an_unusable_record_is_skipped_and_counted(
  name, record, reason, tmp_path
):
  split, _ = write(tmp_path, name, [record, GOOD[name]])
  loaded = load(name, split, tmp_path)
  ((why, count),) = loaded.num_unusable.items()
  assert reason in why and count == 1
  assert f"1 left out: {why}" in loaded.summary()
  alone = write(tmp_path, name, [GOOD[name]])[0]
  kept = load(name, alone, tmp_path).rows
  assert [r.target for r in kept] == [r.target for r in loaded.rows]
  require_gold_is_right(tasks.downstream(name), loaded.rows)
  soundness.require_texts(loaded.rows)
  write(tmp_path, name, [record])
  assert f"1 left out: {why}" in message(name, split, tmp_path)


@pytest.mark.parametrize(
  "name, record, problem",
  [
    ("hellaswag", {**HELLASWAG, "label": 4}, "label 4 is not one of 4"),
    ("hellaswag", {**HELLASWAG, "label": -2}, "label -2 is not one of 4"),
    ("hellaswag", {**HELLASWAG, "label": "1"}, "expected the index"),
    ("hellaswag", {**HELLASWAG, "label": True}, "expected the index"),
    ("hellaswag", {**HELLASWAG, "label": 1.0}, "expected the index"),
    ("hellaswag", endings("b", label=0), "1 options"),
    (
      "commonsense_qa",
      choices(("A", "x"), ("A", "y"), ("B", "z")),
      "two choices have the label 'A'",
    ),
    ("commonsense_qa", choices(("A", "x"), ("C", "z")), "none of the choices"),
    (
      "coqa",
      turns(answers=[said("red", 2), said("Kim", 2)]),
      "answers: row 2 has the turn_id 2",
    ),
    (
      "coqa",
      turns(answers=[said("red", 1), {"input_text": "Kim"}]),
      "answers: row 2 has the turn_id None",
    ),
    (
      "coqa",
      turns(answers=[said("red", 1), said("Kim", 3)]),
      "answers: there is no row of turn 2",
    ),
    (
      "coqa",
      turns(additional_answers={"0": [said("red", 1)]}),
      "additional_answers '0': there is no row of turn 2",
    ),
    (
      "coqa",
      turns(questions=[said("Who?", 1), said("What?", 1)]),
      "questions: row 2 has the turn_id 1",
    ),
    ("squad", {**SQUAD_ROW, "id": "x", "answers": None}, "question 'x'"),
    ("squad", {**SQUAD_ROW, "id": 7}, "question 7: field 'id'"),
    ("squad", "x", "not an article of SQuAD"),
  ],
)
def test_a_malformed_record_is_named(name, record, problem, tmp_path):
  split, file = write(tmp_path, name, [GOOD[name], record])
  found = message(name, split, tmp_path)
  assert str(tmp_path / file) in found and problem in found


def test_coqa_pairs_by_turn_whatever_the_order(tmp_path):
  record = turns(
    questions=[said("How old?", 3), said("Who?", 1), said("What?", 2)],
    answers=[said("red", 2), said("Kim", 1), said("five", 3)],
    additional_answers={"0": [said("5", 3), said("a red", 2), said("kim", 1)]},
  )
  write(tmp_path, "coqa", [record])
  rows = load("coqa", "validation", tmp_path).rows
  assert [row.id for row in rows] == ["s2#1", "s2#2", "s2#3"]
  assert [list(row.references) for row in rows] == [
    *(["Kim", "kim"], ["red", "a red"], ["five", "5"]),
  ]
  assert rows[2].prefix.endswith(
    "Q: Who?\n\nA: Kim\n\nQ: What?\n\nA: red\n\nQ: How old?\n\nA:"
  )


def test_coqa_skips_a_question_without_an_answer(tmp_path):
  record = turns(answers=[said("", 1), said("Cotton", 2)])
  record["additional_answers"] = {}
  write(tmp_path, "coqa", [record])
  loaded = load("coqa", "validation", tmp_path)
  assert [row.id for row in loaded.rows] == ["s2#2"]
  assert loaded.num_unusable == {"an empty answer": 1}


def test_quotes_in_answers_of_web_questions(tmp_path):
  texts = [r'"5\' 11\" tall"', r'"Say \"hi\" (now)"', r'"back\\slash"', r"C:\x"]
  target = f"(list {' '.join(f'(description {t})' for t in texts)})"
  target = target.replace(r"\'", "'")
  write(tmp_path, "web_questions", [{**WEB, "targetValue": target}])
  (row,) = load("web_questions", "test", tmp_path).rows
  wanted = ["5' 11\" tall", 'Say "hi" (now)', "back\\slash", "C:\\x"]
  assert row.references == wanted
  task = tasks.downstream("web_questions")
  again = task.source.from_tfds({"question": "q", "answers": wanted})
  (row,) = task.examples(again)
  assert row.references == wanted


# Names of examples.


def test_hellaswag_has_one_ind_for_two_sources(tmp_path):
  """As 19077 in the published validation file."""
  first = {**HELLASWAG, "ind": 19077, "source_id": "activitynet~v_1"}
  second = {**HELLASWAG, "ind": 19077, "source_id": "wikihow~1", "ctx_a": "x"}
  write(tmp_path, "hellaswag", [first, second])
  rows = load("hellaswag", "validation", tmp_path).rows
  assert [row.id for row in rows] == ["0", "1"]


@pytest.mark.parametrize("name", ["hellaswag", "natural_questions", "piqa"])
def test_a_skipped_record_changes_no_id(name, tmp_path):
  record = next(r for n, r, _ in LEFT_OUT if n == name)
  split, _ = write(tmp_path, name, [GOOD[name], record, GOOD[name]])
  assert [row.id for row in load(name, split, tmp_path).rows] == ["0", "2"]


@pytest.mark.parametrize("name", ["squad", "coqa", "commonsense_qa"])
def test_a_published_id_twice_names_both_places(name, tmp_path):
  split, file = write(tmp_path, name, [GOOD[name], GOOD[name]])
  found = message(name, split, tmp_path)
  assert (
    found.count(str(tmp_path / file)) == 2 and "was already used at" in found
  )


# Characters, as lm-evaluation-harness counts them.


def test_options_keep_the_characters_they_were_published_with(tmp_path):
  write(tmp_path, "piqa", [PIQA])
  (row,) = load("piqa", "validation", tmp_path).rows
  assert row.options == ["use a saw", "use a spoon"]
  assert row.num_characters == [len("use a saw "), len("use a spoon")]
  texts = " [header] Open  it. [step] Turn [title] Now.", "b", "[a] c [d]", "d"
  write(tmp_path, "hellaswag", [endings(*texts)])
  (row,) = load("hellaswag", "validation", tmp_path).rows
  assert row.options == ["Open it. Turn. Now.", "b", "c", "d"]
  assert row.num_characters == [len(" Open it. Turn. Now."), 1, len(" c "), 1]
  assert hellaswag.clean(texts[0]) == row.options[0]
