"""The experiments in `benchmarks/`: what they skip, print and draw."""

import json
import pathlib
import re

import pytest

from benchmarks import line_chart, match3, zero_pauses
from pausejax import cli


@pytest.fixture
def called(monkeypatch, tmp_path):
  """The commands that were called; answers are made up as results on disk."""
  commands = []

  def main(words):
    commands.append(words)
    if words[0] == "evaluate":
      made_up(dict(word.removeprefix("--").split("=") for word in words[1:]))
    return 0

  monkeypatch.setattr(cli, "main", main)
  return commands


def made_up(options):
  folder = pathlib.Path(options["checkpoint"]) / "evaluations"
  folder.mkdir(parents=True, exist_ok=True)
  for num_pauses in map(int, options["pauses"].split(",")):
    result = dict(
      task="short_parity",
      split="validation",
      examples_sha256="0",
      num_pauses=num_pauses,
      position="append",
      filler="",
      finetuned=None,
      step=1,
      n=64,
      metrics={"accuracy": 50.0 + num_pauses},
      pausejax="0",
    )
    (folder / f"{num_pauses}.json").write_text(json.dumps(result))


def test_a_run_is_trained_once_and_answers_once(called, tmp_path):
  for _ in range(2):
    zero_pauses.run("parity", "0 or 8", 3, tmp_path)
  assert [words[0] for words in called] == ["train", "evaluate"]
  assert "--config.finetune.train_num_pauses=0,8" in called[0]
  assert "--config.seed=3" in called[0]
  (answers,) = zero_pauses.read_answers(tmp_path)["parity"].items()
  assert answers == (
    ("0 or 8", 3),
    {m: {"accuracy": 50.0 + m} for m in range(9)},
  )


def test_only_the_numbers_of_pauses_that_are_missing_are_answered(
  called, tmp_path
):
  zero_pauses.run("parity", "8", 0, tmp_path)
  (tmp_path / "parity-8-s0/evaluations/5.json").unlink()
  (answers,) = zero_pauses.read_answers(tmp_path)["parity"].values()
  assert set(answers) == {0, 1, 2, 3, 4, 6, 7, 8}
  zero_pauses.run("parity", "8", 0, tmp_path)
  assert "--pauses=5" in called[-1]


def test_a_command_that_fails_ends_the_program(monkeypatch, tmp_path):
  monkeypatch.setattr(cli, "main", lambda words: 4)
  with pytest.raises(SystemExit, match="4"):
    zero_pauses.run("parity", "8", 0, tmp_path)


def test_a_table_has_the_mean_and_the_range_of_the_seeds(tmp_path):
  answers = {
    name: {
      (arm, seed): {
        m: dict.fromkeys(experiment.metrics, 10.0 + seed)
        for m in experiment.sweep
      }
      for arm in experiment.arms
      for seed in (0, 2)
    }
    for name, experiment in zero_pauses.EXPERIMENTS.items()
  }
  lines = zero_pauses.table_lines(answers)
  assert "| 0 or 8 | 2 " + "| 11.0 (10.0 to 12.0) " * 9 + "|" in lines
  picture = zero_pauses.picture(answers)
  assert picture.count("<polyline") == 2 * 2 * 4  # Panels, seeds, arms.
  del answers["parity"]["0 or 8", 0][3], answers["parity"]["0 or 8", 2][3]
  mean = "| 11.0 (10.0 to 12.0) "
  row = f"| 0 or 8 | 2 {mean * 3}| - {mean * 5}|"
  assert row in zero_pauses.table_lines(answers)
  nothing = zero_pauses.read_answers(tmp_path)
  assert "| 0 or 8 | 0 " + "| - " * 9 + "|" in zero_pauses.table_lines(nothing)


def test_a_chart_places_its_points():
  lines = [("a", [(0, 25.0), (10, 100.0)])]
  panel = line_chart.Panel("title", "x", lines, {"a": "arm"})
  drawn = line_chart.picture("both", [panel, panel])
  (first, last), _ = [
    [tuple(map(float, point.split(","))) for point in points.split()]
    for points in re.findall(r'<polyline points="([^"]*)"', drawn)
  ]
  assert first[0] < last[0] and first[1] > last[1]
  logarithmic = line_chart.Panel(
    "", "", [("a", [(0, 3.0), (1, 2e4)])], {}, True
  )
  assert logarithmic.ticks() == [1, 10, 100, 1_000, 10_000, 100_000]
  assert logarithmic.height(1_000) == pytest.approx(0.6)


def evaluated(folder, step, **accuracies):
  """Writes a run of 20 steps with one evaluation."""
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text('{"num_steps": 20}')
  values = {f"eval_{task}_accuracy": a for task, a in accuracies.items()}
  with (folder / "metrics.jsonl").open("a") as f:
    f.write(json.dumps({"step": step, "eval_score": 1.0, **values}) + "\n")


def test_3sum_skips_complete_runs_and_shows_both_answers_of_the_mixture(
  called, tmp_path
):
  evaluated(tmp_path / "none-s2", 20, match3_small=51.0)
  evaluated(tmp_path / "mixed-s0", 10, match3_small=75.0)
  both = dict(match3_small=99.0, match3_small_cot=100.0)
  evaluated(tmp_path / "mixed-s1", 20, **both)
  assert match3.table_lines(tmp_path)[2:] == [
    "| no pauses | - | - | 51.0 |",
    "| pauses | - | - | - |",
    "| pauses, mixed with work: after pauses | - | 99.0 | - |",
    "| pauses, mixed with work: after its own work | - | 100.0 | - |",
  ]
  for seed in match3.SEEDS:
    match3.train("mixed", seed, tmp_path)
  trained = [words[2] for words in called]
  assert trained == ["--config.seed=0", "--config.seed=2"]
  assert "arm=mixed,size=small" in called[0][1]


@pytest.mark.slow
def test_short_parity_is_a_valid_task():
  words = ["tasks", "check", "short_parity"]
  assert cli.main([*words, "--tasks_module=benchmarks.short_parity"]) == 0
