"""The metric that tables show is named by the task, not by an order."""

import json
import types

import pytest

from pausejax import errors, tasks
from pausejax.config import default, train_config
from pausejax.evaluation import held_out_answers, results
from pausejax.study.report import contents
from pausejax.tasks import records
from tests import reports


def task(**changes) -> tasks.Task:
  metrics = {"em": lambda answer, references: 0.0, "f1": lambda a, r: 1.0}
  return tasks.Task(
    name="made",
    examples=lambda record: [],
    source=records.Generated(name="made", make={}),
    **{"kind": "decode", "metrics": metrics, **changes},
  )


def test_a_task_names_its_primary_metric_or_the_first_is_used():
  assert task().primary_metric == "em"
  assert task(primary_metric="f1").primary_metric == "f1"
  assert task(kind="options", metrics={}).primary_metric == "accuracy"
  with pytest.raises(errors.UsageError, match="did you mean 'f1'"):
    task(primary_metric="f2")


def test_the_best_checkpoint_is_chosen_by_it(monkeypatch):
  answers = types.SimpleNamespace(metrics={"em": 10.0, "f1": 60.0})
  predictor = types.SimpleNamespace(
    answer=lambda *_: answers, check=lambda *_: None
  )
  monkeypatch.setattr(held_out_answers, "Predictor", lambda **_: predictor)
  tree = default().to_dict()
  tree["eval"]["num_examples"] = 4
  config = train_config(tree)
  held_out = [
    types.SimpleNamespace(
      name=f"task{i}",
      format=types.SimpleNamespace(task=task(primary_metric=name)),
      examples=types.SimpleNamespace(rows=[]),
    )
    for i, name in enumerate(("em", "f1"))
  ]
  score = held_out_answers.scorer(config, held_out, None)
  assert score(None, None)["score"] == (10.0 + 60.0) / 2


def with_two_metrics(workdir, m, *, f1, **changes) -> None:
  """Writes a result of EM 0 whose primary metric is F1."""
  reports.write_result(workdir, m, [0] * len(f1))
  folder = workdir / "evaluations"
  path = folder / f"gsm8k-test-append{m}-step4.json"
  result = json.loads(path.read_text())
  mean = 100 * sum(f1) / len(f1)
  result |= {"metrics": {"em": 0.0, "f1": mean}, "primary_metric": "f1"}
  path.write_text(json.dumps(result | changes))
  path = folder / f"{path.stem}{results.PREDICTIONS}"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row, value in zip(rows, f1, strict=True):
    row["values"] = {"em": 0.0, "f1": value}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_report_shows_it(tmp_path):
  for name, f1 in (("a", [0.0, 0.0, 1.0]), ("b", [1.0, 1.0, 0.0])):
    reports.write_run(tmp_path / name, task="gsm8k")
    with_two_metrics(tmp_path / name, 10, f1=f1)
  report = contents.collect(tmp_path)
  lines = report.sweeps["gsm8k"]
  assert {line.metric for line in lines} == {"f1"}
  means = sorted(line.points[0].primary.mean for line in lines)
  assert means == pytest.approx([100 / 3, 200 / 3])
  (compared,) = report.disagreements.values()
  assert compared.metric == "f1"
  assert sorted(compared.num_gained) == [0, 2]
  assert sorted(compared.num_lost) == [0, 1]


def test_a_result_of_an_older_version_has_the_first(tmp_path):
  reports.write_result(tmp_path, 10, [1, 0])
  (result,) = results.read_results(tmp_path / "evaluations")
  assert result["primary_metric"] == "accuracy"


def test_a_result_without_its_metric_is_named(tmp_path):
  with_two_metrics(tmp_path, 10, f1=[1.0], primary_metric="f2")
  with pytest.raises(errors.UserError, match="'f2', not one of em, f1"):
    results.read_results(tmp_path / "evaluations")
  with_two_metrics(tmp_path, 10, f1=[1.0])
  (result,) = results.read_results(tmp_path / "evaluations")
  path = next((tmp_path / "evaluations").glob(f"*{results.PREDICTIONS}"))
  path.write_text(path.read_text().replace('"f1"', '"f3"'))
  with pytest.raises(errors.UserError, match=r"jsonl:1: no value of 'f1'"):
    results.predictions(result)
