"""The numbers of a report, in every format, of a study or a folder of runs."""

import csv
import json

import pytest

from pausejax import errors, tasks
from pausejax.config import DataConfig, default
from pausejax.data.finetuning import examples
from pausejax.programs import report as program
from pausejax.study.report import contents, curves, document, runs
from tests import reports
from tests.reports import (
  Outline,
  outline,
  plan,
  write_result,
  write_run,
  write_study,
)

# Fixtures that several test files share.
written = reports.written


def read_table(path) -> list[dict]:
  with path.open() as file:
    return [*csv.DictReader(file)]


def test_every_format_shows_numbers_computed_by_hand(written):
  # 25 and 50, 75 and 100: means 37.5 and 87.5, deviations 25 / sqrt(2).
  page = outline(written)
  for text in ("37.5 ± 17.7", "87.5 ± 17.7", "+50.0 ["):
    assert any(text in cell for cell in page.cells), text
    assert text in (written / "report.md").read_text().replace("\\", "")
    tex = (written / "report.tex").read_text()
    assert text.replace("±", "$\\pm$") in tex
  assert "0 of 2" in page.cells
  assert "7.5 ± 0.5" in page.cells  # The paper's StdPT_StdFT.
  first, missing, pause = read_table(written / "report.csv")
  assert [float(r["mean"]) for r in (first, pause)] == [37.5, 87.5]
  assert missing["mean"] == "" and float(pause["difference"]) == 50.0


def test_json_holds_sweeps_disagreements_differences_and_commands(written):
  found = json.loads((written / "report.json").read_text())
  std, pause = found["sweeps"]["gsm8k"]
  assert (std["label"], pause["label"]) == ("std m0", "pause m10")
  assert pause["num_pauses_finetuned"] == 10
  means = {
    p["num_pauses"]: p["scores"]["accuracy"]["mean"] for p in pause["points"]
  }
  assert means == {0: 12.5, 10: 87.5}
  compared = found["disagreements"]["gsm8k"][1]
  assert (compared["gained"], compared["lost"], compared["n"]) == (2, 0, 4)
  fractions = found["config_differences"]["data.pause_fraction"]
  assert (fractions["std"], fractions["pause"]) == ("0.0", "0.1")
  assert found["runs"][0]["flops"] == 4000 and found["runs"][0]["loss"] == 1.0
  train, evaluate, again = found["commands"]["finetune/pause-gsm8k-m10-s1"]
  assert train.startswith("pausejax train --config=b.py:task=gsm8k,pauses=10")
  assert again == f"{evaluate} --pauses=0"


def test_the_header_counts_and_warns(written):
  text = outline(written).text
  assert "0 of 8 done, 6 started" in text
  assert "pausejax 0.0.7" in text
  assert (
    "Only 2 seeds" in text and "best one was chosen on the reported" in text
  )


def test_mean_losses_leave_out_nonfinite_values(tmp_path):
  write_run(tmp_path / "run", num_steps=240)
  (curve,) = curves.read_curves(runs.below(tmp_path))
  assert curve.num_lines_averaged == 4 and len(curve.loss) == 60
  assert curve.loss[0].loss == pytest.approx((4 + 3 + 1) / 3)
  assert curve.loss[0].x == {
    "steps": 4,
    "total_tokens": 400,
    "real_tokens": 360,
    "flops": 4000.0,
  }
  assert [s.loss for s in curve.held_out] == [3.5]
  assert curve.held_out[0].x["steps"] == 2


def test_a_study_without_results_states_so_in_each_section(tmp_path):
  plan(tmp_path)
  program.main([f"--workdir={tmp_path}"])
  page = outline(tmp_path)
  assert page.cells.count("0 of 2") == 3
  for text in (
    "Nothing was evaluated",
    "No run has",
    "This needs two variants",
  ):
    assert text in page.text
  assert page.count("section") == 10 and "pausejax train" in page.text


def test_a_folder_of_runs_needs_no_study(tmp_path):
  for name in ("deep/plain-s0", "deep/plain-s1", "other"):
    write_run(tmp_path / name, seed=int(name[-1] == "1"), task="gsm8k")
  write_result(tmp_path / "deep/plain-s0", 0, [1, 0])
  write_result(tmp_path / "deep/plain-s1", 0, [1, 1], seed=1)
  write_result(tmp_path / "other", 10, [0, 1])
  out = tmp_path / "out" / "page.html"
  program.main([str(tmp_path), f"--out={out}"])
  rows = read_table(out.with_suffix(".csv"))
  assert [r["variant"] for r in rows] == ["deep/plain", "other"]
  assert [float(r["mean"]) for r in rows] == [75.0, 50.0]
  commands = json.loads(out.with_suffix(".json").read_text())["commands"]
  line = f"--config={tmp_path}/other/config.json --workdir={tmp_path}/other-"
  assert line in commands["other"][0]
  assert not list(out.parent.glob("*.tmp"))


def test_a_folder_without_results_or_runs(tmp_path):
  with pytest.raises(errors.UsageError, match="neither a study"):
    program.main([str(tmp_path)])
  with pytest.raises(errors.UsageError, match="no folder"):
    program.main([str(tmp_path / "gone")])
  with pytest.raises(errors.UsageError, match="name one folder"):
    program.main([])
  write_run(tmp_path / "run")
  program.main([str(tmp_path)])
  assert "Nothing was evaluated yet." in outline(tmp_path).text


def test_prompts_are_shown_if_the_data_is_available(tmp_path):
  folder = tmp_path / "data"
  folder.mkdir()
  lines = [
    {"question": f"How many {i}?", "answer": "x #### 7"} for i in range(4)
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "test.jsonl").write_text(text)
  data = default().data.to_dict()
  data = DataConfig(**{**data, "local_dir": str(folder)})
  digest = examples.read_split(tasks.downstream("gsm8k"), "test", data).sha256
  write_study(tmp_path / "study", local_dir=folder, sha256=digest)
  found = contents.collect(tmp_path / "study")
  prompts = [case.prompt for case in found.disagreements["gsm8k"].cases]
  assert prompts == [f"Question: How many {i}?\nAnswer:" for i in (1, 2)]
  text = Outline(document.report_page(found, paper=False)).text
  assert "How many 1?" in text and "[pause] × 10" in text
  for other in ('{"question": "Else?", "answer": "#### 7"}', "no JSON"):
    (folder / "test.jsonl").write_text(other)
    found = contents.collect(tmp_path / "study")
    assert "not available" in document.report_page(found, paper=False)
