"""Files written by released versions are read by this one.

`saved/VERSION-COMMIT.tar.gz` holds what that version wrote at the smallest
size, in /golden: a pretrained and a finetuned run, both stopped at step 2 of
4, their stores of segments and examples, a study with results, and in
expected.json what that version went on to compute. Losses are compared to
1e-4, since their last bits depend on the machine.
"""

import json
import pathlib
import sys
import tarfile

import pytest

from pausejax.runtime import metric_rows
from tests import toys

pytestmark = pytest.mark.slow

ARCHIVES = sorted((pathlib.Path(__file__).parent / "saved").glob("*.tar.gz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda p: p.name[:-7])
def saved(request, tmp_path_factory):
  """The folder with all that a version wrote."""
  folder = tmp_path_factory.mktemp("saved")
  with tarfile.open(request.param) as archive:
    archive.extractall(folder, filter="data")
  return folder


def run(*words) -> str:
  """Runs a verb to its end and returns what it printed."""
  return toys.finish([sys.executable, "-m", "pausejax", *map(str, words)])


def expected(saved):
  return json.loads((saved / "expected.json").read_text())


def require_rows(saved, name):
  """Compares the steps taken now with those that the old version took."""
  rows = metric_rows.read_rows(saved / name / "metrics.jsonl")
  later = [row for row in rows if row["step"] > 2]
  for row, wanted in zip(later, expected(saved)[name], strict=True):
    assert {n: row[n] for n in wanted} == pytest.approx(wanted, rel=1e-4)


def test_generation_from_a_saved_run(saved):
  words = ("generate", f"--checkpoint={saved / 'pretrained'}")
  more = ("--prompt=The model", "--max_new_tokens=16")
  for num_pauses, text in expected(saved)["generate"].items():
    assert text in run(*words, *more, f"--pauses={num_pauses}")


def test_evaluation_of_a_saved_run(saved, tmp_path):
  run(
    "evaluate",
    f"--checkpoint={saved / 'finetuned'}",
    f"--local_dir={saved / 'web_questions'}",
    "--pauses=0,2",
    f"--out={tmp_path}",
  )
  before = saved / "finetuned" / "evaluations"
  for path in sorted(before.glob("*.json")):
    then, now = (
      json.loads((folder / path.name).read_text())
      for folder in (before, tmp_path)
    )
    assert now["metrics"] == pytest.approx(then["metrics"])
    assert now["examples_sha256"] == then["examples_sha256"]


def test_finetuning_from_a_saved_run_reads_the_saved_store(saved, tmp_path):
  output = run(
    "train",
    "--config=configs/finetune_smoke.py:task=web_questions,pauses=2",
    f"--init_from={saved / 'pretrained'}",
    f"--config.data.local_dir={saved / 'web_questions'}",
    f"--config.data.segments_dir={saved / 'examples'}",
    "--config.num_steps=1",
    f"--workdir={tmp_path / 'run'}",
  )
  assert "parameters from step 2" in output


def test_a_report_on_a_saved_study(saved):
  run("report", f"--workdir={saved / 'study'}")
  page = (saved / "study" / "report.html").read_text()
  assert "PausePT_PauseFT" in page


def test_a_saved_pretraining_resumes(saved):
  output = run(
    "train",
    f"--config={saved / 'pretrained' / 'config.json'}",
    f"--config.data.files={saved / 'corpus.jsonl'}",
    f"--config.data.segments_dir={saved / 'segments'}",
    "--config.stop_at_step=0",
    f"--workdir={saved / 'pretrained'}",
  )
  assert "resuming from step 2" in output
  require_rows(saved, "pretrained")


def test_a_saved_finetuning_resumes(saved):
  output = run(
    "train",
    f"--config={saved / 'finetuned' / 'config.json'}",
    f"--config.data.local_dir={saved / 'web_questions'}",
    "--config.stop_at_step=0",
    f"--workdir={saved / 'finetuned'}",
  )
  assert "resuming from step 2" in output
  require_rows(saved, "finetuned")


@pytest.mark.parametrize(
  ("name", "loss"), [("lamb", 5.5458808), ("adafactor", 5.5673203)]
)
def test_a_state_of_all_layers_as_one_resumes_as_one_of_each(
  name, loss, tmp_path
):
  """The next loss is what 0.1.0 had: it depends on the parameters only."""
  archive = ARCHIVES[0].parent / "optimizers" / ARCHIVES[0].name
  with tarfile.open(archive) as file:
    file.extractall(tmp_path, filter="data")
  workdir = tmp_path / name
  words = ("train", f"--config={workdir}/config.json", f"--workdir={workdir}")
  output = run(*words, "--config.stop_at_step=0")
  assert "updated all layers of a parameter as one" in output
  rows = metric_rows.read_rows(workdir / "metrics.jsonl")
  assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
  assert rows[2]["loss"] == pytest.approx(loss, rel=1e-4)
  assert rows[3]["loss"] < loss + 0.1
