"""The nine downstream tasks on small files in their published formats.

With PAUSEJAX_REAL_DATA naming a folder with a folder of each task's published
files, the real ones are counted and checked too.
"""

import gzip
import pathlib
import re
import zipfile

import pytest

from pausejax import errors, tasks
from pausejax.data.finetuning import examples
from pausejax.tasks import records, squad
from tests.task_samples import (
  COQA,
  COUNTS,
  DOCS,
  FILES,
  HELLASWAG,
  LAMBADA,
  REAL,
  load,
  message,
  real_folder,
  write,
)

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
