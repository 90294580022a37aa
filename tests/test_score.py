"""`pausejax score` and `pausejax tasks list`, as a user calls them.

With PAUSEJAX_REAL_DATA, published predictions get their published scores.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from pausejax import cli

REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")
ROOT = pathlib.Path(__file__).parent.parent

SQUAD = {
  "version": "1.1",
  "data": [
    {
      "title": "Paris",
      "paragraphs": [
        {
          "context": "Paris is the capital of France.",
          "qas": [
            {"id": i, "question": f"{i}?", "answers": [{"text": "the capital"}]}
            for i in ("q1", "q2", "q3", "q4")
          ],
        }
      ],
    }
  ],
}
COQA = {
  "data": [
    {
      "id": "s1",
      "story": "A white kitten.",
      "questions": [{"input_text": "What color?", "turn_id": 1}],
      "answers": [{"input_text": "white"}],
      "additional_answers": {
        "0": [{"input_text": "gray"}],
        "1": [{"input_text": "gray"}],
      },
    }
  ]
}
PIQA = {"goal": "cut wood", "sol1": "use a saw ", "sol2": "use a spoon"}


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """One small task of each shape, all in one folder."""
  (tmp_path / "dev-v1.1.json").write_text(json.dumps(SQUAD))
  (tmp_path / "coqa-dev-v1.0.json").write_text(json.dumps(COQA))
  (tmp_path / "valid.jsonl").write_text(f"{json.dumps(PIQA)}\n" * 2)
  (tmp_path / "valid-labels.lst").write_text("0\n1\n")
  return tmp_path


def score(folder, task, predictions, *options, name="predictions.json") -> int:
  path = folder / name
  if not isinstance(predictions, str):
    predictions = json.dumps(predictions)
  path.write_text(predictions)
  return cli.main(
    [
      "score",
      f"--task={task}",
      f"--local_dir={folder}",
      f"--predictions={path}",
      *options,
    ]
  )


def test_scores_of_squad_are_printed_and_written(folder, capsys):
  out = folder / "scores.json"
  predictions = {"q1": "The Capital!", "q2": "capital city", "q3": "", "x": "a"}
  code = score(folder, "squad", predictions, f"--out={out}")
  said = capsys.readouterr().out.splitlines()
  assert code == 0
  assert said == [
    "squad validation: 4 examples",
    "        1 examples without a prediction, counted as wrong",
    "        1 predictions of no example, ignored",
    "   25.000 em, percent",
    "   41.667 f1, percent",
  ]
  written = json.loads(out.read_text())
  assert written["task"] == "squad" and written["split"] == "validation"
  assert written["n"] == 4 and written["em"] == 25.0
  assert len(written["examples_sha256"]) == 64


def test_coqa_is_scored_by_leaving_one_reference_out(folder, capsys):
  rows = [{"id": "s1", "turn_id": 1, "answer": "white"}]
  for predictions in (rows, {"s1#1": "white"}):
    assert score(folder, "coqa", predictions) == 0
    said = capsys.readouterr().out
    assert "   66.667 f1" in said and "  100.000 f1_max" in said


@pytest.mark.parametrize(
  "predictions, percent",
  [
    ({"0": 0, "1": 1}, "100.000"),
    ({"0": "use a saw", "1": "use a spoon"}, "100.000"),
    ({"0": 1, "1": "use a spoon"}, " 50.000"),
    ({"0": 0}, " 50.000"),
  ],
)
def test_options_are_predicted_by_index_or_text(
  folder, capsys, predictions, percent
):
  assert score(folder, "piqa", predictions) == 0
  assert f"{percent} accuracy, percent" in capsys.readouterr().out


@pytest.mark.parametrize(
  "task, predictions, problem",
  [
    ("squad", "{", "malformed JSON at column 2"),
    ("squad", "[]", "expected a JSON object"),
    ("squad", '{"q1": "a", "q1": "b"}', "'q1' occurs 2 times"),
    ("squad", {"q1": 3}, "prediction of 'q1': expected a text, got 3"),
    ("squad", {"q1": None}, "got None"),
    ("squad", '{"q1": NaN}', "got nan"),
    ("squad", {"q1": ["a"]}, "got ['a']"),
    ("squad", "", "malformed JSON"),
    ("squad", "{}", "is among its 0"),
    ("squad", {"0": "a"}, "no id of 'validation' is among its 1"),
    ("coqa", [{"id": "s1", "answer": "a"}], "turn_id"),
    ("coqa", [{"id": "s1", "turn_id": 1, "answer": 2}], "expected a text"),
    ("piqa", {"0": 2}, "a number from 0 to 1, got 2"),
    ("piqa", {"0": -1}, "a number from 0 to 1, got -1"),
    ("piqa", {"0": True}, "got True"),
    ("piqa", {"0": "use a fork"}, "expected the text of an option"),
  ],
)
def test_a_wrong_file_is_one_line(folder, capsys, task, predictions, problem):
  assert score(folder, task, predictions) == 1
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert f"{folder}/predictions.json: " in said and problem in said


@pytest.mark.parametrize(
  "lines, problem",
  [
    ('{"id": "q1", "prediction": "a"}\n' * 2, "p.jsonl:2: 'q1' is answered tw"),
    ('{"id": "q1"}\n', "p.jsonl:1: expected 'id', a text, and 'prediction'"),
    ('{"prediction": "a"}\n', "p.jsonl:1: expected 'id'"),
    ('{"id": 1, "prediction": "a"}\n', "p.jsonl:1: expected 'id', a text"),
    ('\n{"id": "q1", "prediction": null}\n', "p.jsonl:2: prediction of 'q1'"),
    ('{"id": "q1", "prediction": NaN}\n', "p.jsonl:1: prediction of 'q1'"),
    ('{"id": "q1", "id": "q2", "prediction": ""}', "'id' occurs 2 times"),
    (
      '{"id": "x", "prediction": "a"}\n',
      "no id of 'validation' is among its 1",
    ),
    ("", "no id of 'validation' is among its 0"),
    ("[]\n", "p.jsonl:1: expected a JSON object"),
    (
      '{"id": "q1", "prediction": "", "references": ["an Aleph"]}',
      "p.jsonl:1: was written for other examples",
    ),
    (
      "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
      "Git LFS pointer",
    ),
  ],
)
def test_wrong_json_lines_are_one_line(folder, capsys, lines, problem):
  assert score(folder, "squad", lines, name="p.jsonl") == 1
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and problem in said


def test_json_lines_of_predictions_count_as_a_document_does(folder, capsys):
  predictions = {"q1": "the\u2028capital", "q2": "capital", "x": "a\u0085b"}
  assert score(folder, "squad", predictions) == 0
  expected = capsys.readouterr().out
  lines = "\n \r\n".join(
    json.dumps({"id": key, "prediction": text}, ensure_ascii=False)
    for key, text in predictions.items()
  )
  for name in ("one.predictions.jsonl", "two.jsonl"):
    assert score(folder, "squad", "\ufeff" + lines, name=name) == 0
    assert capsys.readouterr().out == expected
  assert "2 examples without a prediction" in expected
  assert "1 predictions of no example" in expected


def test_excluded_examples_are_shown_and_need_no_prediction(folder, capsys):
  data = json.loads(json.dumps(SQUAD))
  data["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
  (folder / "dev-v1.1.json").write_text(json.dumps(data))
  assert (
    score(folder, "squad", {q: "the capital" for q in ["q2", "q3", "q4"]}) == 0
  )
  said = capsys.readouterr().out
  assert "3 examples; 1 left out: a question without an answer" in said
  assert "100.000 em" in said and "without a prediction" in said


def test_numeric_predictions_for_excluded_examples_are_accepted(folder, capsys):
  records = [{**PIQA, "sol2": " "}, PIQA]
  text = "".join(json.dumps(record) + "\n" for record in records)
  (folder / "valid.jsonl").write_text(text)
  assert score(folder, "piqa", {"0": 1, "1": 1}) == 0
  said = capsys.readouterr().out
  assert "1 examples; 1 left out" in said
  assert "1 predictions of no example" in said and "100.000 accuracy" in said


def test_a_wrong_command_line_is_one_line(folder, capsys):
  assert score(folder, "squat", {"q1": "a"}) == 2
  assert "did you mean 'squad'?" in capsys.readouterr().err
  assert score(folder, "squad", {"q1": "a"}, "--split=validatoin") == 2
  assert "did you mean 'validation'?" in capsys.readouterr().err
  assert score(folder, "squad", {"q1": "a"}, "--split=train") == 1
  assert "no train-v1.1*.json" in capsys.readouterr().err


def test_the_list_has_all_tasks(capsys):
  assert cli.main(["tasks", "list"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("name ") and lines[0].endswith(" pauses")
  rows = {line.split()[0]: line for line in lines[1:]}
  assert {"c4", "text", "squad", "piqa", "natural_questions"} <= set(rows)
  assert "TFDS squad/v1.1:3.0.0" in rows["squad"]
  assert "em, f1" in rows["squad"] and rows["squad"].endswith("50")
  assert "pretraining" in rows["c4"]


def test_the_list_counts_the_available_examples(folder, capsys):
  train = [{"goal": "g", "sol1": "a", "sol2": "b"}]
  (folder / "train.jsonl").write_text(json.dumps(train[0]))
  (folder / "train-labels.lst").write_text("1")
  assert cli.main(["tasks", "list", f"--local_dir={folder}"]) == 0
  said = capsys.readouterr().out
  assert "train missing, validation 4 " in said
  assert "train 1, validation 2 " in said
  # GSM8K has a file of the same name: that of PIQA is not its own.
  assert "unreadable" not in said and "no field 'answer'" not in said


def test_the_list_finds_a_folder_for_each_task(folder, capsys):
  own = folder / "squad-v1.1"
  own.mkdir()
  (folder / "dev-v1.1.json").rename(own / "dev-v1.1.json")
  assert cli.main(["tasks", "list", f"--local_dir={folder}"]) == 0
  assert "train missing, validation 4 " in capsys.readouterr().out


def test_wrong_arguments_are_one_line(capsys, tmp_path):
  assert cli.main(["tasks", "lsit"]) == 2
  assert "did you mean 'list'?" in capsys.readouterr().err
  assert cli.main(["tasks", "list", f"--local_dir={tmp_path}/nothing"]) == 2
  assert "no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_scoring_imports_neither_jax_nor_tensorflow(folder):
  (folder / "p.json").write_text('{"q1": "a"}')
  script = (
    "import sys\n"
    "from pausejax import cli\n"
    f"code = cli.main(['score', '--task=squad', '--local_dir={folder}',"
    f" '--predictions={folder}/p.json'])\n"
    "assert not {'jax', 'tensorflow', 'seqio'} & set(sys.modules)\n"
    "sys.exit(code)"
  )
  subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
@pytest.mark.parametrize(
  "system, em, f1, missing",
  [
    ("bert_ens", 86.20624, 92.19558, 0),
    ("lr_baseline", 40.14191, 50.98154, 13),
  ],
)
def test_published_predictions_get_their_published_scores(
  tmp_path, system, em, f1, missing
):
  out = tmp_path / "scores.json"
  folder = f"{REAL}/squad"
  code = cli.main(
    [
      "score",
      "--task=squad",
      "--split=validation",
      f"--local_dir={folder}",
      f"--predictions={folder}/predictions/{system}.json",
      f"--out={out}",
    ]
  )
  scores = json.loads(out.read_text())
  assert code == 0 and scores["num_missing"] == missing
  assert scores["em"] == pytest.approx(em, abs=5e-6)
  assert scores["f1"] == pytest.approx(f1, abs=5e-6)
