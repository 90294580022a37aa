"""The nine downstream tasks on small files in their published formats.

With PAUSEJAX_REAL_DATA naming a folder with a folder of each task's published
files, the real ones are counted and checked too.
"""

import gzip
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Iterator

import pytest

from pausejax import cli, errors, tasks
from pausejax.data.finetuning import examples
from pausejax.tasks import (
  coqa,
  hellaswag,
  records,
  registry,
  squad,
  web_questions,
)

REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")
DOCS = pathlib.Path(__file__).parent.parent / "docs"

GSM8K = {
  "question": "Two and two?",
  "answer": "2+2=<<2+2=4>>4\n#### 4",
}
SQUAD = {
  "title": "Paris",
  "paragraphs": [
    {
      "context": " Paris is the capital of France. ",
      "qas": [
        {
          "id": "q1",
          "question": "What is Paris? ",
          "answers": [
            {"text": "the capital", "answer_start": 9},
            {"text": "the capital of France", "answer_start": 9},
          ],
        },
        {"id": "q2", "question": "Whose?", "answers": [{"text": "France"}]},
      ],
    }
  ],
}
COQA = {
  "source": "mctest",
  "id": "s1",
  "story": "A white kitten named Cotton.\n",
  "questions": [
    {"input_text": "What color?", "turn_id": 1},
    {"input_text": "Whose name?", "turn_id": 2},
  ],
  "answers": [
    {"input_text": "white", "turn_id": 1},
    {"input_text": "Cotton", "turn_id": 2},
  ],
  "additional_answers": {
    "0": [{"input_text": "White"}, {"input_text": "a kitten"}],
    "1": [{"input_text": "it was white"}, {"input_text": "Cotton's"}],
  },
}
COMMONSENSE_QA = {
  "answerKey": "B",
  "id": "c1",
  "question": {
    "stem": "Where is a book?",
    "choices": [
      {"label": "A", "text": "sea"},
      {"label": "B", "text": "book  shop "},
    ],
  },
}
PIQA = {"goal": "cut wood", "sol1": "use a saw ", "sol2": "use a spoon"}
LAMBADA = {"text": '"Who is it?" he said.\n\n"It is\nAnna'}
HELLASWAG = {
  "ind": 24,
  "activity_label": "Roof",
  "ctx_a": "[header] A man sits.",
  "ctx_b": "he",
  "endings": ["skis.", "[title] sings.", "sleeps.", "eats."],
  "label": 1,
}
WEB_QUESTIONS = {
  "utterance": "what do they speak?",
  "targetValue": '(list (description "Patois (a)") (description English))',
}
NATURAL_QUESTIONS = {"question": "who went", "answer": ["Neil\xa0A", "Buzz"]}

# Task -> split -> file name -> what is in it; a list is a line a record.
FILES = {
  "gsm8k": {
    "train": {"train.jsonl": [GSM8K], "train_socratic.jsonl": ["not ours"]},
    "test": {"test.jsonl": [GSM8K]},
  },
  "squad": {
    "train": {"train-v1.1.json": {"version": "1.1", "data": [SQUAD]}},
    "validation": {"dev-v1.1.json": {"data": [SQUAD]}},
  },
  "coqa": {
    "train": {"coqa-train-v1.0.json": {"version": "1.0", "data": [COQA]}},
    "validation": {"coqa-dev-v1.0.json": {"data": [COQA]}},
  },
  "commonsense_qa": {
    "train": {"train_rand_split.jsonl": [COMMONSENSE_QA]},
    "validation": {"dev_rand_split.jsonl": [COMMONSENSE_QA]},
  },
  "piqa": {
    "train": {"train.jsonl": [PIQA, PIQA], "train-labels.lst": "0\n1\n"},
    "validation": {"dev.jsonl": [PIQA], "dev-labels.lst": "1\n"},
  },
  "lambada": {
    "train": {"lambada_development_plain_text.txt": "he said to anna\n\n"},
    "test": {"lambada_test.jsonl": [LAMBADA]},
  },
  "hellaswag": {
    "train": {"hellaswag_train.jsonl": [HELLASWAG]},
    "validation": {"hellaswag_val.jsonl": [HELLASWAG]},
  },
  "web_questions": {
    "train": {"webquestions.examples.train.json": json.dumps([WEB_QUESTIONS])},
    "test": {"blobtest": json.dumps([WEB_QUESTIONS])},
  },
  "natural_questions": {
    "train": {"NQ-open.train.jsonl": [NATURAL_QUESTIONS]},
    "validation": {"NQ-open.dev.jsonl": [NATURAL_QUESTIONS]},
  },
}
# Task -> (prefix, target, references or options) of its last example.
EXPECTED = {
  "gsm8k": (
    "Question: Two and two?\nAnswer:",
    "2+2=<<2+2=4>>4\n#### 4",
    ["2+2=<<2+2=4>>4\n#### 4"],
  ),
  "squad": (
    "Context: Paris is the capital of France.\nQuestion: Whose?\nAnswer:",
    "France",
    ["France"],
  ),
  "coqa": (
    "A white kitten named Cotton.\n\nQ: What color?\n\nA: white\n\n"
    "Q: Whose name?\n\nA:",
    "Cotton",
    ["Cotton", "a kitten", "Cotton's"],
  ),
  "commonsense_qa": (
    "Question: Where is a book?\nA. sea\nB. book shop\nAnswer:",
    "book shop",
    ["book shop"],
  ),
  "piqa": (
    "Question: cut wood\nAnswer:",
    "use a spoon",
    ["use a saw", "use a spoon"],
  ),
  "lambada": ('"Who is it?" he said.\n\n"It is', "Anna", ["Anna"]),
  "hellaswag": (
    "Roof: A man sits. He",
    "sings.",
    ["skis.", "sings.", "sleeps.", "eats."],
  ),
  "web_questions": (
    "Question: what do they speak?\nAnswer:",
    "Patois (a)",
    ["Patois (a)", "English"],
  ),
  "natural_questions": (
    "Answer these questions:\n\nQ: who went?\nA:",
    "Neil A",
    ["Neil A", "Buzz"],
  ),
}
COUNTS = {
  "gsm8k": {"train": 7473, "test": 1319},
  "squad": {"train": 11877, "validation": 10570},
  "coqa": {"validation": 4905},
  "commonsense_qa": {"train": 9741, "validation": 1221},
  "piqa": {"train": 16113, "validation": 1838},
  "lambada": {"test": 5153},
  "hellaswag": {"validation": 1000},
  "web_questions": {"train": 3778, "test": 2032},
  "natural_questions": {"train": 8757, "validation": 3610},
}


def write(folder: pathlib.Path, files: dict) -> None:
  for name, content in files.items():
    if isinstance(content, list):
      content = "".join(f"{json.dumps(record)}\n" for record in content)
    if isinstance(content, dict):
      content = json.dumps(content)
    (folder / name).write_text(content)


def load(data_config, task: str, split: str, folder) -> examples.Examples:
  """The published split, without holding anything out."""
  data = data_config(local_dir=str(folder))
  read, unusable = examples._read(tasks.downstream(task), split, data)
  rows = [row for made in read for row in made]
  return examples.Examples(split, rows, unusable, sha256="")


def message(data_config, task, split, folder) -> str:
  with pytest.raises(errors.UserError) as caught:
    load(data_config, task, split, folder)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def require_consistent(task: tasks.Task, rows) -> None:
  assert len({row.id for row in rows}) == len(rows)
  for row in rows:
    assert row.prefix.strip() == row.prefix and row.target.strip() == row.target
    assert row.prefix and row.target
    if task.kind == "decode":
      assert row.target in row.references and not row.options
      for metric in task.metrics.values():
        assert 0 <= metric(row.target, row.references) <= 1
      first = next(iter(task.metrics.values()))
      assert first(row.target, row.references) > 0
    else:
      assert row.target == row.options[row.label] and not row.references


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_published_files_become_examples(name, gz, tmp_path, data_config):
  for files in FILES[name].values():
    write(tmp_path, files)
  if gz:
    for path in list(tmp_path.iterdir()):
      zipped = path.with_name(path.name + ".gz")
      zipped.write_bytes(gzip.compress(path.read_bytes()))
      path.unlink()
  task = tasks.downstream(name)
  for split in FILES[name]:
    rows = load(data_config, name, split, tmp_path).rows
    require_consistent(task, rows)
  last = rows[-1]
  found = list(last.options or last.references)
  assert (last.prefix, last.target, found) == EXPECTED[name]


def test_the_nine_tasks_and_no_unlabeled_split_are_there():
  assert set(FILES) <= set(tasks.downstream_names())
  for name, splits in FILES.items():
    assert list(tasks.downstream(name).source.splits) == list(splits)


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_record_is_named_by_file_and_line(
  name, tmp_path, data_config
):
  for split, files in FILES[name].items():
    file, content = next(iter(files.items()))
    if file.endswith(".txt"):
      continue
    path = tmp_path / file
    write(tmp_path, files)
    path.write_text('{"a": 1}\n' if isinstance(content, list) else '[{"a": 1}]')
    if name == "piqa":
      labels = path.with_name(path.stem + "-labels.lst")
      labels.write_text("0")
    said = message(data_config, name, split, tmp_path)
    assert re.match(f"{re.escape(str(path))}(:1| record 0): ", said), said
    path.write_text("{")
    assert "malformed JSON" in message(data_config, name, split, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_the_error_for_missing_files_names_the_expected_files(
  name, tmp_path, data_config
):
  (tmp_path / "readme.txt").write_text("")
  split = next(iter(FILES[name]))
  said = message(data_config, name, split, tmp_path)
  assert f"for split {split!r}" in said and "readme.txt" in said


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


def test_a_task_that_violates_its_contract_is_an_error(data_config):
  source = records.Generated(name="made", make={"test": lambda: iter([0])})
  for changes, said in (
    ({}, "needs references"),
    ({"references": "black"}, "references are the text 'black', expected a"),
    ({"references": [3]}, "expected a string"),
    ({"id": 7, "references": ["a"]}, "expected a string"),
  ):
    row = tasks.Example(**{"id": "", "prefix": "p", "target": "t", **changes})
    task = tasks.Task(
      name="made",
      kind="decode",
      source=source,
      examples=lambda record, row=row: [row],
      metrics={"em": lambda prediction, references: 1.0},
    )
    with pytest.raises(errors.UserError, match=f"made test 0: .*{said}"):
      examples.read_split(task, "test", data_config())


def test_a_task_of_options_must_target_the_right_one(data_config):
  for label, said in ((1, "not option 1"), (2, "one of 2"), (-2, "one of")):
    row = tasks.Example(
      id="", prefix="p", target="a", options=["a", "b"], label=label
    )
    task = tasks.Task(
      name="made",
      kind="options",
      source=records.Generated(name="made", make={"test": lambda: iter([0])}),
      examples=lambda record, row=row: [row],
    )
    with pytest.raises(errors.UserError, match=said):
      examples.read_split(task, "test", data_config())


# A task of one's own.


@pytest.fixture
def my_task(tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
  """The file in docs/own_task.md and a little data, in the current folder."""
  text = (DOCS / "own_task.md").read_text()
  code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
  (tmp_path / "my_tasks.py").write_text(code)
  row = {"id": "fr", "country": "France", "capitals": ["Paris"]}
  none = {"id": "xx", "country": "Nowhere", "capitals": []}
  write(tmp_path, {"train.jsonl": [row], "test.jsonl": [row, none]})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})
  yield tmp_path
  sys.modules.pop("my_tasks", None)


def test_the_task_in_the_documentation_works(my_task, data_config, capsys):
  tasks.import_module("my_tasks")
  loaded = load(data_config, "my_task", "test", my_task)
  (row,) = loaded.rows
  assert row.id == "fr" and row.target == "Paris"
  assert row.prefix == "Question: What is the capital of France?\nAnswer:"
  assert loaded.num_unusable == {"a country without a capital": 1}
  (my_task / "theirs.json").write_text('{"fr": "the Paris"}')
  command = "score --task=my_task --tasks_module=my_tasks --local_dir=."
  assert cli.main([*command.split(), "--predictions=theirs.json"]) == 0
  assert "  100.000 em, percent" in capsys.readouterr().out
  assert cli.main(["tasks", "list", "--tasks_module=my_tasks"]) == 0
  assert "my_task " in capsys.readouterr().out


def test_an_entry_point_registers_a_task(my_task, monkeypatch):
  entry = importlib.metadata.EntryPoint("my", "my_tasks", "pausejax.tasks")
  monkeypatch.syspath_prepend(my_task)
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
  registry._import_all.cache_clear()
  assert "my_task" in tasks.downstream_names()


def test_a_module_of_tasks_that_fails_is_one_line(my_task):
  for name, code in (
    ("no_such_tasks", ""),
    ("broken_tasks", "1 / 0"),
    ("syntax_tasks", "def"),
  ):
    if code:
      (my_task / f"{name}.py").write_text(code)
    with pytest.raises(errors.UsageError, match=f"importing '{name}' failed"):
      tasks.import_module(name)


def test_the_documentation_lists_every_task():
  lines = (DOCS / "tasks.md").read_text().splitlines()
  for name in FILES:
    task = tasks.downstream(name)
    assert isinstance(task.source, records.Files)
    line = next(line for line in lines if line.startswith(f"| `{name}` |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert all(split in cells[0] for split in task.source.splits)
    assert cells[1].startswith(task.kind)
    expected = ", ".join(f"`{name}`" for name in task.metric_names)
    assert cells[2:] == [
      expected,
      str(task.num_pauses),
      f"`{task.source.tfds}`",
    ]


# What TFDS has of each task, in the plain values of `sources.tfds_examples`.


TFDS = {
  "squad": {
    "id": "q2",
    "title": "Paris",
    "context": "Paris is the capital of France.",
    "question": "Whose?",
    "answers": {"text": ["France"], "answer_start": [24]},
  },
  "coqa": {
    "source": "mctest",
    "story": COQA["story"],
    "questions": ["What color?", "Whose name?"],
    "answers": {
      "input_text": ["white", "Cotton"],
      "answer_start": [0, 0],
      "answer_end": [1, 1],
    },
  },
  "commonsense_qa": {
    "id": "c1",
    "question": "Where is a book?",
    "choices": ["sea", "book shop", "c", "d", "e"],
    "answer": "book shop",
    "abstractive_explanation": "",
    "extractive_explanation": "",
  },
  "lambada": {"passage": LAMBADA["text"] + "\n"},
  "hellaswag": {
    "context": "A man sits. he",
    "endings": HELLASWAG["endings"],
    "activity_label": "Roof",
    "label": 1,
    "source_id": "x",
    "split_type": "indomain",
  },
  "web_questions": {
    "url": "",
    "question": "what do they speak?",
    "answers": ["Patois (a)", "English"],
  },
}


@pytest.mark.parametrize("name", TFDS)
def test_tfds_features_become_the_same_examples(name):
  task = tasks.downstream(name)
  assert isinstance(task.source, records.Files)
  row = list(task.examples(task.source.from_tfds(TFDS[name])))[-1]
  prefix, target, found = EXPECTED[name]
  if name == "coqa":
    found = found[:1]  # TFDS has the main answers only, and no id.
    assert row.id == ""
  if name == "commonsense_qa":
    prefix = prefix.replace("Answer:", "C. c\nD. d\nE. e\nAnswer:")
  if name == "hellaswag":
    prefix = prefix.replace("He", "he")
  assert (row.prefix, row.target) == (prefix, target)
  assert list(row.options or row.references) == found


def test_squad_from_tfds_keeps_its_ids():
  (row,) = squad.examples(squad.from_tfds(TFDS["squad"]))
  assert row.id == "q2"


# Real files.


def real_folder(name: str) -> pathlib.Path:
  return next(p for p in sorted(pathlib.Path(REAL).glob(f"{name}*")))


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_whole_and_consistent(name, data_config):
  for split, count in COUNTS[name].items():
    loaded = load(data_config, name, split, real_folder(name))
    assert len(loaded.rows) + sum(loaded.num_unusable.values()) == count
    if name != "natural_questions" or split != "train":
      assert not loaded.num_unusable
    require_consistent(tasks.downstream(name), loaded.rows)


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


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
@pytest.mark.parametrize("name", COUNTS)
def test_published_layouts_are_read(name, tmp_path, data_config):
  stem = {"natural_questions": "nq_open"}.get(name, name)
  layouts = pathlib.Path(REAL) / "published_layouts"
  path = layouts / f"{stem}.dummy_data.zip"
  if not path.exists():
    pytest.skip(f"no layout of {name}")
  zipfile.ZipFile(path).extractall(tmp_path)
  task = tasks.downstream(name)
  assert isinstance(task.source, records.Files)
  patterns = task.source.files["train"]
  first = patterns if isinstance(patterns, str) else patterns[-1]
  folder = next(p for p in tmp_path.rglob(first) if "MACOSX" not in str(p))
  for split in task.source.splits:
    rows = load(data_config, name, split, folder.parent).rows
    require_consistent(task, rows)
