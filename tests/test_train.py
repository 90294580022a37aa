"""The train program as a user runs it: other processes, real signals."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests import toys
from tests.soak import training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text") / "corpus"
  toys.write_corpus(folder)
  return folder


@pytest.mark.parametrize("pipeline", ["segments", "seqio"])
def test_a_killed_run_resumes_bit_for_bit(pipeline, tmp_path):
  setting = training.Setting(pipeline=pipeline, num_steps=20)
  counts = training.soak(setting, kills=2, seed=1, folder=tmp_path)
  assert counts["kills"] == 2 and counts["resumes above step 0"] >= 1
  assert counts["comparisons"] >= 20 + 5


def test_sigterm_saves_and_asks_to_be_run_again(corpus, tmp_path):
  workdir = tmp_path / "run"
  process = toys.start(
    toys.command(corpus, workdir, "--config.num_steps=100000")
  )
  while not toys.rows(workdir) and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 143, output
  last = toys.rows(workdir)[-1]["step"]
  assert toys.last_meta(workdir)["step"] == last
  assert f"step {last} is saved" in output


def test_a_standard_run_and_a_pause_run_are_paired(corpus, tmp_path):
  found = {}
  for arm in ("true", "false"):
    args = toys.command(
      corpus, tmp_path / arm, "--config.num_steps=3", "--config.eval.every=3"
    )
    args[args.index("--config=configs/smoke.py")] += f":pause={arm}"
    toys.finish(args)
    found[arm] = toys.rows(tmp_path / arm)
  for pause, standard in zip(found["true"], found["false"], strict=True):
    assert pause["total_tokens"] == standard["total_tokens"]
    assert standard["pause_fraction"] == 0 < pause["pause_fraction"]
    assert standard["real_tokens"] == standard["total_tokens"]
  # 6 of 70 slots are pauses: 8.6% of the 64 that stay, give or take.
  assert 0.05 < found["true"][0]["pause_fraction"] < 0.13


def test_settings_that_a_resume_may_not_change_are_named(corpus, tmp_path):
  workdir = tmp_path / "run"
  toys.finish(toys.command(corpus, workdir, "--config.num_steps=2"))
  before = contents(workdir)
  for change, words in (
    ("--config.seed=7", "seed 0 -> 7"),
    ("--config.data.pause_fraction=0.2", "data.pause_fraction 0.1 -> 0.2"),
    ("--config.model.d_ff=32", "model.d_ff 128 -> 32"),
    ("--config.model.rope_theta=500", "model.rope_theta 10000.0 -> 500.0"),
  ):
    more = ("--config.num_steps=4", change)
    process = toys.start(toys.command(corpus, workdir, *more))
    output, _ = process.communicate()
    # Columns are as wide as their longest field.
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert process.returncode == 2 and words in lines, output
    assert "Traceback" not in output
  assert toys.last_meta(workdir)["step"] == 2
  assert contents(workdir) == before


def contents(folder):
  """Every file below a folder with its bytes; the lock names its process."""
  files = (p for p in folder.rglob("*") if p.is_file() and p.name != "lock")
  return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_complete_run_is_not_modified(corpus, tmp_path):
  workdir = tmp_path / "run"
  toys.finish(toys.command(corpus, workdir, "--config.num_steps=4"))
  before = contents(workdir)
  for change, words in (
    ("--config.num_steps=4", "the run is complete: step 4 of 4"),
    ("--config.num_steps=3", "beyond num_steps 3"),
    ("--config.stop_at_step=2", "stop_at_step is 2"),
  ):
    output = toys.finish(toys.command(corpus, workdir, change))
    assert words in output and "nothing to do" in output
    assert contents(workdir) == before


@pytest.mark.parametrize("pipeline", ["segments", "seqio"])
def test_a_diverging_run_stops_each_time_and_resumes_from_a_good_step(
  corpus, tmp_path, pipeline
):
  workdir = tmp_path / "run"
  # The learning rate makes parameters that are finite and losses that are not.
  small = (f"--config.data.pipeline={pipeline}", "--config.optim.clip_norm=0")
  good = toys.command(corpus, workdir, *small, "--config.num_steps=4")
  toys.finish(good)
  bad = [*good, "--config.num_steps=99", "--config.optim.learning_rate=1e9"]
  bad += ["--config.checkpoint.keep=1", "--config.checkpoint.every=3"]
  bad += ["--config.optim.max_skipped_in_a_row=6"]
  for _ in range(2):
    process = toys.start([a for a in bad if a != "--config.num_steps=4"])
    output, _ = process.communicate()
    assert process.returncode == 4, output
    assert "training diverged" in output and "Traceback" not in output
    assert "the same command with a lower optim.learning_rate" in output
    kept = toys.last_meta(workdir)["step"]
    assert f"to resume from step {kept}" in output
    assert not toys.last_meta(workdir)["counters"]["skipped_in_a_row"]
  more = [a for a in good if a != "--config.num_steps=4"]
  output = toys.finish([*more, f"--config.num_steps={kept + 1}"])
  assert f"resuming from step {kept}" in output
  history = (workdir / "config_history.jsonl").read_text().splitlines()
  steps = [json.loads(line)["step"] for line in history]
  assert steps[0] == 0 and steps[-1] == kept


def test_two_runs_cannot_share_a_workdir(corpus, tmp_path):
  workdir = tmp_path / "run"
  args = toys.command(corpus, workdir, "--config.num_steps=100000")
  first = toys.start(args)
  while not toys.rows(workdir) and first.poll() is None:
    time.sleep(0.01)
  second = toys.start(args)
  output, _ = second.communicate()
  first.kill()
  first.communicate()
  assert second.returncode == 1 and "another run is using" in output


def test_the_core_trains_with_tensorflow_blocked(corpus, tmp_path):
  toys.finish(toys.command(corpus, tmp_path / "made", "--config.num_steps=1"))
  args = toys.command(
    corpus,
    tmp_path / "run",
    "--config.num_steps=3",
    f"--config.data.segments_dir={tmp_path / 'made' / 'segments'}",
  )
  blocked = ("tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio")
  code = (
    f"import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
    f"from pausejax import cli; sys.exit(cli.main({args[3:]!r}))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=toys.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert len(toys.rows(tmp_path / "run")) == 3


def test_config_metrics_and_checkpoint_record_the_run(corpus, tmp_path):
  workdir = tmp_path / "run"
  toys.finish(toys.command(corpus, workdir, "--config.num_steps=2"))
  config = json.loads((workdir / "config.json").read_text())
  meta = toys.last_meta(workdir)
  assert config["num_steps"] == 2 and meta["config"] == config
  assert meta["pause_id"] == 259 and meta["versions"]["jax"]
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  last = json.loads(lines[-1])
  assert last["step"] == 2 and last["eval_loss"] > 0
  again = toys.command(corpus, workdir)
  again = [a for a in again if not a.startswith("--config")]
  output = toys.finish([*again, f"--config={workdir / 'config.json'}"])
  assert "resuming from step 2" in output
