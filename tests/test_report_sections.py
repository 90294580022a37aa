"""What each section of the report takes from runs and results."""

import json
import shlex

import pytest

from pausejax import errors
from pausejax.programs import report as program
from pausejax.study.report import commands, contents, grid, levels, loss_tables
from tests import reports


def folder_of_runs(tmp_path):
  """Two finetunings that sort before the pretraining they start from."""
  pretraining = tmp_path / "z"
  for name in ("a b", "c", "z"):
    reports.write_run(tmp_path / name, task="gsm8k")
    config = tmp_path / name / "config.json"
    fields = json.loads(config.read_text())
    fields["num_steps"] = 4
    if name != "z":
      fields["init_from"] = str(pretraining / "checkpoints" / "4")
    config.write_text(json.dumps(fields))
  reports.write_result(tmp_path / "a b", 10, [1, 0, 0, 1])
  return tmp_path


def text_score(**changes):
  return {
    "text": "held out.txt",
    "pause_fraction": 0.1,
    "seq_len": 256,
    "num_documents": 3,
    "num_empty": 1,
    "num_tokens": 1234,
    "num_bytes": 5000,
    "nats_per_token": 2.5,
    "perplexity": 12.18,
    "bits_per_byte": 0.8904,
    "documents_sha256": "0",
    "step": 4,
    **changes,
  }


def test_a_run_of_a_newer_version_is_refused(tmp_path):
  reports.write_run(tmp_path / "run", task="gsm8k")
  meta = tmp_path / "run" / "checkpoints" / "99" / "meta"
  meta.mkdir(parents=True)
  (meta / "meta.json").write_text('{"format": 99}')
  with pytest.raises(errors.CheckpointUnusable, match="99 has format 99"):
    contents.collect(tmp_path)


def test_runs_come_after_the_run_they_start_from(tmp_path):
  found = contents.collect(folder_of_runs(tmp_path)).commands
  assert list(found) == ["z", "a b", "c"]
  train, evaluate = map(shlex.split, found["a b"])
  assert f"--init_from={tmp_path / 'z'}-again" in train
  assert f"--workdir={tmp_path / 'a b'}-again" in train
  assert f"--checkpoint={tmp_path / 'a b'}-again" in evaluate
  for word in ("--task=gsm8k", "--split=test", "--pauses=10", "--limit=4"):
    assert word in evaluate


def test_runs_that_name_each_other_are_still_shown(tmp_path):
  for name, other in (("a", "b"), ("b", "a")):
    reports.write_run(tmp_path / name)
    config = tmp_path / name / "config.json"
    fields = json.loads(config.read_text())
    fields["init_from"] = str(tmp_path / other)
    config.write_text(json.dumps(fields))
  runs = contents.collect(tmp_path).runs
  assert [run.id for run in commands.ordered(runs)] == ["a", "b"]


def test_plain_text_scores_are_shown_and_reproduced(tmp_path):
  folder = folder_of_runs(tmp_path) / "c" / "text_scores"
  folder.mkdir()
  (folder / "x.json").write_text(json.dumps(text_score(step=2)))
  it = contents.collect(tmp_path)
  assert "0.8904" in loss_tables.text_scores(it)
  words = shlex.split(it.commands["c"][-1])
  assert "--text=held out.txt" in words and "--limit=4" in words
  assert f"--checkpoint={tmp_path / 'c'}-again/checkpoints/2" in words


def test_held_out_losses_compare_runs_by_the_text_without_pauses(tmp_path):
  reports.write_run(tmp_path / "run")
  metrics = tmp_path / "run" / "metrics.jsonl"
  rows = [
    {"step": 6, "eval_loss": 3.0, "eval_loss_without_pauses": 2.75},
    {"step": 8, "eval_loss": 2.0, "eval_loss_without_pauses": 2.875},
  ]
  text = metrics.read_text().rsplit("\n", 1)[0] + "\nnot a row\n"
  metrics.write_text(text + "".join(json.dumps(r) + "\n" for r in rows))
  it = contents.collect(tmp_path)
  shown = loss_tables.held_out(it)
  assert "2.8750" in shown and "2.7500 (6)" in shown
  assert "1 unreadable lines left out" in loss_tables.last_steps(it)


def test_a_run_without_a_checkpoint_has_an_unknown_machine(tmp_path):
  reports.write_run(tmp_path / "run")
  (run,) = contents.collect(tmp_path).runs
  assert loss_tables.machine(run) == ["unknown"] * 3


@pytest.mark.parametrize(
  "rows, expected",
  [
    ([], {}),
    (
      [{"options": ["a", "b"], "label": i % 4 == 0} for i in range(8)],
      {"chance": 50.0, "most common label": 75.0},
    ),
    (
      [{"options": ["a", "b"], "label": 0}, {"options": [*"abcd"], "label": 3}],
      {"chance": 37.5},
    ),
    (
      [{"references": ["0", "0"]}, {"references": ["1"]}] * 2,
      {"most common answer": 50.0},
    ),
    ([{"references": [str(i)]} for i in range(100)], {}),
  ],
)
def test_baselines_need_no_model(rows, expected):
  assert {x.label: x.percent for x in levels.levels_of(rows)} == expected


def test_a_single_number_of_pauses_gets_no_axis_of_pauses(tmp_path):
  for name in ("a", "b"):
    reports.write_run(tmp_path / name, task="gsm8k")
    reports.write_result(tmp_path / name, 10, [1, 0, 1, 1])
  program.main([f"--workdir={tmp_path}"])
  page = (tmp_path / "report.html").read_text()
  assert "pauses at inference, M" not in page
  assert "a, M=10" in page and "most common answer" in page


def test_zero_correct_of_a_few_examples_has_an_interval(tmp_path):
  reports.write_run(tmp_path / "run", task="gsm8k")
  reports.write_result(tmp_path / "run", 10, [0] * 64)
  (line,) = contents.collect(tmp_path).sweeps["gsm8k"]
  low, high = line.points[0].primary.interval
  assert low == 0.0 and 5.0 < high < 6.0  # Wilson: z^2 / (n + z^2).


FOUR = (
  ("StdPT_StdFT", "std", "m0"),
  ("StdPT_PauseFT", "std", "m10"),
  ("PausePT_StdFT", "pause", "m0"),
  ("PausePT_PauseFT", "pause", "m10"),
)


def test_the_two_by_two_chart_of_four_variants(tmp_path):
  plan = reports.plan(tmp_path / "four", variants=FOUR)
  names = [[v.name for v in line] for line in grid.variant_grid(plan)]
  assert names == [
    ["StdPT_StdFT", "StdPT_PauseFT"],
    ["PausePT_StdFT", "PausePT_PauseFT"],
  ]
  three = reports.plan(tmp_path / "three", variants=FOUR[:3])
  assert grid.variant_grid(three) is None
