"""TensorBoard and W&B receive the rows of the files, and stop nothing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import pausejax
from pausejax import cli
from pausejax.config import LogConfig, default, train_config
from pausejax.data.tokenizers import load_tokenizer
from pausejax.errors import UsageError
from pausejax.evaluation import results, samples
from pausejax.runtime import metric_rows, metric_writer, trackers
from tests import event_files, toys
from tests.test_sharding import one_device_mesh

SMOKE = pathlib.Path(__file__).parent.parent / "configs" / "smoke.py"


def write(workdir, steps, resumed_from=0, due=False, **log):
  """Runs a writer: a row per step, held-out loss and samples at even ones."""
  writer = metric_writer.open_writer(
    workdir,
    resumed_from,
    LogConfig(**{**default().log.to_dict(), **log}),
    default().to_dict(),
    evaluation_due=due,
    every=1,
  )
  for step in steps:
    writer.write(step, {"loss": 1 / step, "step_seconds": float(len(log))})
    if step % 2 == 0:
      evaluate(writer, step)
  writer.close()
  writer.end(0)


def evaluate(writer, step):
  writer.write(step, {"eval_loss": 2 / step, "eval_worst": float("inf")})
  sample = {"prompt": "# a\nb", "num_pauses": 3, "text": f"*{step}*"}
  writer.write_samples(step, [sample])


def tensorboard_rows(workdir):
  """Returns metrics.jsonl as TensorBoard's points: tag -> (step, float32)."""
  points = {}
  for row in metric_rows.read_rows(workdir / "metrics.jsonl"):
    for name, value in row.items():
      if name != "step":
        point = row["step"], float(np.float32(float(value)))
        points.setdefault(name, []).append(point)
  return points


@pytest.fixture
def tensorboard():
  pytest.importorskip("tensorboardX")


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("resumed_from", [0, 2, 4, 6])
def test_tensorboard_shows_each_row_of_the_file_once(
  tmp_path, tensorboard, resumed_from, due
):
  write(tmp_path, range(1, 7), tensorboard=True)
  steps = range(resumed_from + 1, 10)
  write(
    tmp_path, steps, resumed_from, due and resumed_from > 0, tensorboard=True
  )
  shown = event_files.tensorboard_scalars(tmp_path / "tensorboard")
  samples = shown.pop("samples/0/text_summary")
  assert shown == tensorboard_rows(tmp_path)
  pending = {resumed_from} if due and resumed_from else set()
  assert {s for s, _ in samples} == {2, 4, 6, 8} - pending
  assert samples[-1] == (8, "    # a\n    b [3 pauses] *8*")


def test_a_tracker_that_is_turned_on_later_receives_all_rows(
  tmp_path, tensorboard
):
  write(tmp_path, range(1, 5))
  write(tmp_path, [5], 4, tensorboard=True)
  shown = event_files.tensorboard_scalars(tmp_path / "tensorboard")
  assert [s for s, _ in shown["loss"]] == [1, 2, 3, 4, 5]
  assert [s for s, _ in shown["samples/0/text_summary"]] == [2, 4]


def test_samples_of_repeated_steps_are_replaced(tmp_path):
  write(tmp_path, range(1, 7))
  before = (tmp_path / "samples.jsonl").read_bytes()
  path = tmp_path / "samples.jsonl"
  path.write_bytes(before + b'{"step": 7, "prompt": "cut')
  write(tmp_path, range(4, 7), 3)
  assert path.read_bytes() == before
  assert (tmp_path / "samples.jsonl.unreadable").exists()


@pytest.mark.parametrize(
  ("prompts", "num_new", "words"),
  [
    (("a", "b\ud800"), 4, "half of a surrogate pair"),
    (("abc",), 1 << 20, "new tokens 1048576 make 1048580 positions"),
  ],
)
def test_prompts_that_cannot_be_continued_are_refused(prompts, num_new, words):
  tree = default()
  tree.eval.sample_prompts, tree.eval.sample_tokens = prompts, num_new
  with jax.set_mesh(one_device_mesh()), pytest.raises(UsageError, match=words):
    samples.sampler(train_config(tree.to_dict()), load_tokenizer("bytes"))


class Failing:
  """A tracker that works for two rows."""

  next_step = 0

  def __init__(self):
    self.rows, self.codes = [], []

  def scalars(self, step, metrics):
    if len(self.rows) == 2:
      raise OSError("No space left\non the device")
    self.rows.append(step)

  def close(self, exit_code):
    self.codes.append(exit_code)


def test_a_failing_tracker_is_reported_once_and_what_it_lacks_is_counted(
  tmp_path, capsys
):
  writer, failing = metric_writer.MetricWriter(tmp_path, 0), Failing()
  writer.trackers = [trackers.Guarded("some", lambda: failing)]
  for step in range(1, 6):
    writer.write(step, {"loss": 1.0})
  writer.close()
  writer.end(143)
  out, err = capsys.readouterr()
  assert err == (
    "pausejax: warning: some: No space left; the run continues without it\n"
  )
  assert "some: 3 rows were not sent" in out
  assert failing.rows == [1, 2] and failing.codes == [143]
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_tracker_that_cannot_be_opened_stops_nothing(
  tmp_path, tensorboard, capsys
):
  (tmp_path / "tensorboard").write_text("a file")
  write(tmp_path, range(1, 4), tensorboard=True)
  out, err = capsys.readouterr()
  assert err.count("warning: tensorboard") == 1 == len(err.splitlines())
  assert "tensorboard: 5 rows were not sent" in out


def test_a_sweep_is_shown_over_the_number_of_pauses(tmp_path, tensorboard):
  condition = {"filler": "<pause>", "position": "append", "finetuned": None}
  for count, filler in (
    (10, "<pause>"),
    (0, "<pause>"),
    (2, "."),
    (2, "<pause>"),
  ):
    result = {"task": "squad", "split": "validation", "step": 5, "n": 1}
    result |= {"examples_sha256": "", "pausejax": "0.2", **condition}
    result |= {"num_pauses": count, "filler": filler}
    result |= {"metrics": {"f1": count + 0.5}}
    stem = f"{count}{len(filler)}"
    results.write_result(tmp_path / "evaluations", stem, result, [])
  points = results.sweep_points(tmp_path / "evaluations")
  for _ in range(2):  # The second replaces the first.
    trackers.send_sweep(
      ("tensorboard",), tmp_path, LogConfig(**default().log.to_dict()), points
    )
  folder = tmp_path / "tensorboard" / "evaluate"
  assert event_files.tensorboard_scalars(folder) == {
    "squad-validation-append-step5/f1": [(0, 0.5), (2, 2.5), (10, 10.5)],
    "squad-validation-append-u002e-step5/f1": [(2, 2.5)],
  }


@pytest.mark.parametrize(
  ("field", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_first(
  field, module, tmp_path, capsys, monkeypatch
):
  monkeypatch.setitem(sys.modules, module, None)
  argv = ["train", f"--config={SMOKE}", f"--workdir={tmp_path / 'run'}"]
  assert cli.main([*argv, f"--config.log.{field}=true"]) == 1
  out, err = capsys.readouterr()
  assert f"log.{field} needs the extra: make env EXTRA={field}" in err
  assert len(err.splitlines()) == 1 and not out
  assert not (tmp_path / "run").exists()


@pytest.fixture
def offline(tmp_path, monkeypatch):
  """Returns variables of a process without a W&B account and a network."""
  pytest.importorskip("wandb")
  for name in os.environ:
    if name.startswith("WANDB_"):
      monkeypatch.delenv(name)
  home = tmp_path / "home"
  home.mkdir()
  nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
  return {**nowhere, "HOME": str(home), "WANDB_MODE": "offline"}


RUN = """
import os, pathlib, sys
from tests.test_trackers import write
steps, resumed_from, killed = map(int, sys.argv[2:])
workdir = pathlib.Path(sys.argv[1])
if killed:
  from pausejax.runtime import trackers
  trackers.Guarded.close = lambda *_: os._exit(9)
write(workdir, range(resumed_from + 1, steps + 1), resumed_from, wandb=True)
"""


@pytest.mark.slow
def test_wandb_has_each_row_once_after_a_repeated_step_and_a_kill(
  tmp_path, offline
):
  workdir = tmp_path / "run"
  workdir.mkdir()
  # Steps 5 and 6 run twice. The second start is killed after step 8.
  for steps, resumed_from, killed in ((6, 0, 0), (8, 4, 1), (9, 6, 0)):
    numbers = [str(n) for n in (steps, resumed_from, killed)]
    done = subprocess.run(
      [sys.executable, "-c", RUN, str(workdir), *numbers],
      cwd=toys.ROOT,
      env={**os.environ, **offline},
      check=False,
      capture_output=True,
      text=True,
    )
    assert done.returncode == (9 if killed else 0), done.stderr
    assert not done.stderr
  folders = sorted((workdir / "wandb").glob("offline-run-*"))
  assert len(folders) == 2 and len([*folders[0].parent.glob("replaced-*")]) == 1
  rows = [row for folder in folders for row in event_files.wandb_rows(folder)]
  losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
  assert losses == [(s, 1 / s) for s in range(1, 10)]
  assert [r["step"] for r in rows if "eval_loss" in r] == [2, 4, 6, 8]
  assert [r["step"] for r in rows if "samples.path" in r] == [2, 4, 6, 8]
  assert not (toys.ROOT / "wandb").exists()


TRACKED = (
  "--config.log.tensorboard=true",
  "--config.log.wandb=true",
  '--config.eval.sample_prompts=["call me, some"]',
  "--config.eval.sample_pauses=2",
  "--config.eval.sample_tokens=4",
)


@pytest.mark.slow
def test_a_run_sends_what_its_files_hold_until_a_signal_and_computes_the_same(
  tmp_path, offline, tensorboard
):
  toys.write_corpus(tmp_path / "corpus")
  runs = [tmp_path / "tracked", tmp_path / "plain"]
  same = ("--config.num_steps=100000", "--config.eval.every=4")
  tracked, plain = (toys.command(tmp_path / "corpus", r, *same) for r in runs)
  process = toys.start([*tracked, *TRACKED], **offline)
  while process.poll() is None and not (runs[0] / "samples.jsonl").is_file():
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 143, output
  assert "wandb: offline; to upload it: wandb sync" in output
  toys.finish([*plain, "--config.stop_at_step=6"])
  losses = [[r["loss"] for r in toys.rows(run)] for run in runs]
  assert losses[0][:6] == losses[1][: len(losses[0])]

  shown = event_files.tensorboard_scalars(runs[0] / "tensorboard")
  ((step, text),) = shown.pop("samples/0/text_summary")
  assert step == 4 and text.startswith("    call me, some [2 pauses]")
  assert shown == tensorboard_rows(runs[0])

  (folder,) = (runs[0] / "wandb").glob("offline-run-*")
  sent = event_files.wandb_rows(folder)
  assert [r["loss"] for r in sent if "loss" in r] == losses[0]
  (table,) = (json.loads(p.read_text()) for p in folder.rglob("*.table.json"))
  (sample,) = metric_writer.read_samples(runs[0])
  assert table["data"] == [[*sample.values()]]
  saved = pausejax.load(runs[0], step=4)
  same = saved.generate("call me, some", num_pauses=2, max_new_tokens=4)
  assert same == [sample["text"]]
  config = json.loads((runs[0] / "config.json").read_text())
  sent_config = event_files.wandb_config(folder)
  assert {k: sent_config[k] for k in config} == config
  codes = [r.exit.exit_code for r in event_files.wandb_records(folder)]
  assert codes[-1] == 143
  state = json.loads((runs[0] / "wandb_run.json").read_text())
  assert state["open"] == "" and state["sent"] == len(losses[0])
