"""Running a study: every cell once, in order, after failures and kills too."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from pausejax import errors
from pausejax.config import load_config
from pausejax.programs import study as program
from tests import processes
from tests.studies import plan

ROOT = pathlib.Path(__file__).parent.parent


class Recorder(program.Runner):
  """A runner that records its commands instead of running them."""

  def __init__(self, plan, index=1, count=1, fails=None):
    super().__init__(plan, index, count)
    self.commands = []
    self.fails = fails or {}

  def _process(self, commands, log, lock):
    log.touch()
    codes = (self._record(words) for words in commands)
    return next(filter(None, codes), 0)

  def _record(self, words):
    self.commands.append(words)
    for text, code in self.fails.items():
      if any(text in word for word in words):
        return code
    for word in words:
      if word.startswith("--workdir="):
        pathlib.Path(word.partition("=")[2]).mkdir(parents=True, exist_ok=True)
    if words[0] == "segments":
      pathlib.Path(words[1].partition("=")[2]).mkdir(parents=True)
    return 0


def test_every_finetuning_starts_from_each_seed_of_its_pretraining(tmp_path):
  built = plan(tmp_path, pretrain_seeds=(3, 4))
  assert len(built.pretraining_cells()) == 2 * 2
  assert len({c.id for c in built.cells()}) == len(built.cells())
  cells = {c.id: c for c in built.cells()}
  pretraining = cells["pretrain/std-p4"]
  assert pretraining.commands[0][-1] == "--config.seed=4"
  finetuning = cells["finetune/std-p4-stdlib_cloze-m0-s1"]
  words = finetuning.commands[0]
  assert f"--init_from={pretraining.workdir}" in words
  assert "--config.seed=1" in words and finetuning.label == "4/1"
  runner = Recorder(built, fails={"pretrain/std-p4": 1})
  assert runner.run() == 1
  failed = {c.id for c in built.cells() if not c.is_done()}
  assert failed == {c for c in cells if "/std-p4" in c}


def test_cells_run_once_and_after_their_dependencies(tmp_path):
  built = plan(tmp_path)
  runner = Recorder(built)
  assert runner.run() == 0
  verbs = [words[0] for words in runner.commands]
  assert verbs[:3] == ["segments", "train", "train"]
  assert all(cell.is_done() for cell in built.cells())
  again = Recorder(built)
  assert again.run() == 0 and not again.commands


def test_a_failed_cell_stops_only_the_cells_that_depend_on_it(tmp_path):
  built = plan(tmp_path)
  assert Recorder(built, fails={"pretrain/pause": 1}).run() == 1
  done = {cell.id: cell.is_done() for cell in built.cells()}
  for cell_id, is_done in done.items():
    assert is_done == ("pause" not in cell_id), cell_id
  # Once the cause is fixed, the rest runs and nothing else.
  again = Recorder(built)
  assert again.run() == 0
  assert len(again.commands) == 1 + 2 * 3 + 2 * 2


@pytest.mark.parametrize(
  ("codes", "expected"),
  [
    ({"pretrain/pause": 4}, 4),
    ({"pretrain/pause": 4, "std-stdlib_cloze-m0-s1": 3}, 4),
    ({"pretrain/pause": 4, "std-stdlib_cloze-m0-s1": 1}, 1),
    ({"pretrain/pause": 4, "std-stdlib_cloze-m0-s1": 143}, 143),
    ({"std-stdlib_cloze-m0-s1": -9}, 1),
  ],
)
def test_failures_are_named_and_never_repeated(
  tmp_path, capsys, codes, expected
):
  runner = Recorder(plan(tmp_path), fails=codes)
  assert runner.run() == expected
  assert len(runner.commands) == len(set(runner.commands))
  said = capsys.readouterr().err
  if "pretrain/pause" in codes:
    assert "failed: pretrain/pause: training diverged (exit code 4)" in said
    assert "not run: finetune/pause-stdlib_cloze-m2-s0 needs pretrain" in said
  if -9 in codes.values():
    assert "killed by SIGKILL (exit code -9)" in said


def test_a_cell_that_another_process_runs_is_waited_for(tmp_path, capsys):
  built = plan(tmp_path)
  runner = Recorder(built)
  first = built.cells()[0]
  path = tmp_path / "locks" / first.id.replace("/", "-")
  path.parent.mkdir()
  code = (
    "import pathlib, sys, time\nfrom pausejax import locks\n"
    "lock = locks.take(pathlib.Path(sys.argv[1]))\nlock.write('77')\n"
    "lock.flush()\nprint('held', flush=True)\ntime.sleep(1)"
  )
  holder = subprocess.Popen(
    [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
  )
  assert holder.stdout.readline() == "held\n"
  assert runner.run() == 0
  assert holder.wait() == 0
  assert "is still run by process 77; waiting" in capsys.readouterr().out


def test_a_cell_that_another_study_finished_meanwhile_is_not_run(tmp_path):
  built = plan(tmp_path)
  assert Recorder(built).run() == 0
  late = Recorder(built)
  late._run(built.cells()[0], "")
  assert not late.commands


def test_shards_run_every_cell_once(tmp_path):
  built = plan(tmp_path, pretrainings={"std": ("/s",), "pause": ("/p",)})
  Recorder(built, 1, 1)._run(built.preparing_cells()[0], "")
  ran = []
  for index in (1, 2, 3):
    runner = Recorder(built, index, 3)
    assert runner.run() == 0
    ran += [words for words in runner.commands if words[0] == "train"]
  assert len(ran) == len(set(ran)) == len(built.finetuning_cells())


def test_a_shard_does_not_wait_for_what_failed_in_another(tmp_path, capsys):
  """It waits for cells that failed earlier, which may be running again."""
  built = plan(tmp_path)
  assert Recorder(built, fails={"pretrain/pause": 1}).run() == 1
  late = Recorder(built, 6, 8)
  needed = [c for c in built.cells() if c.id == "pretrain/pause"]
  assert built.cells()[5].pretraining == "pause"
  early = Recorder(built, 6, 8)
  early._began = needed[0].workdir.joinpath("failed").stat().st_mtime - 1
  assert early.run() == 0 and not early.commands
  assert "needs pretrain/pause" in capsys.readouterr().err
  late._stop.exit_code = 143  # Or it would wait.
  assert late.run() == 143
  assert "needs pretrain/pause" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_a_wrong_shard_is_refused(text):
  words = [f"--config={ROOT}/configs/study.py", "--workdir=x"]
  with pytest.raises(errors.UsageError, match="--shard: expected i/n"):
    program.main([*words, f"--shard={text}"])


def smaller(config) -> dict:
  """The smoke study with one task, two variants, one seed, small batches."""
  tree = config.to_dict()
  train = " --config.num_steps=60 --config.checkpoint.every=30"
  train += " --config.batch_size=2 --config.eval.num_batches=1"
  tree["pretrain_words"] += train
  tree["finetune_words"] += train
  tree["evaluate_words"] = "--batch_size=8 --limit=8"
  tree["tasks"] = ("stdlib_cloze",)
  tree["evaluations"] = {}
  tree["seeds"] = (0,)
  tree["variants"] = tree["variants"][::3]
  return tree


@pytest.mark.slow
def test_a_killed_study_resumes_and_runs_every_cell_once(tmp_path, request):
  """Killed without or with its child, or asked to stop: nothing runs twice."""
  config = tmp_path / "small.py"
  tree = smaller(load_config("study_smoke"))
  config.write_text(
    "import json\nfrom ml_collections import ConfigDict\n"
    f"TREE = {json.dumps(tree)!r}\n"
    "def get_config(arg):\n  return ConfigDict(json.loads(TREE))\n"
  )
  workdir = tmp_path / "study"
  command = [sys.executable, "-m", "pausejax", "study"]
  command += [f"--config={config}", f"--workdir={workdir}"]

  def start() -> subprocess.Popen:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env=processes.environment(0, 1, 0, devices=1),
      start_new_session=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    request.addfinalizer(process.kill)
    return process

  def wait_for_steps(run: str) -> None:
    path = workdir / run / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (path.exists() and '"step": 3,' in path.read_text()):
      assert process.poll() is None, process.communicate()[0]
      assert time.monotonic() < until, f"{path} has no third step"
      time.sleep(0.05)

  process = start()
  wait_for_steps("pretrain/pause")
  process.kill()  # The study alone: its child saves and leaves.
  process.communicate()
  process = start()
  wait_for_steps("pretrain/std")
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  process = start()
  wait_for_steps("finetune/pause-stdlib_cloze-m10-s0")
  process.terminate()
  output = process.communicate()[0]
  assert process.returncode == 143, output
  stamps = {p: p.stat().st_mtime_ns for p in workdir.glob("*/*/done")}
  assert len(stamps) == 4, output
  process = start()
  output = process.communicate()[0]
  assert process.returncode == 0, output
  assert all(p.stat().st_mtime_ns == t for p, t in stamps.items())
  assert len(list(workdir.glob("*/*/done"))) == 2 + 2 + 2
  # The child of the study that was killed alone went on from what it saved.
  log = (workdir / "logs" / "pretrain-pause.log").read_text()
  assert log.count("starting at step 0") == log.count("resuming from step") == 1
  rows = json.loads((workdir / "table.json").read_text())
  assert [row["n"] for row in rows] == [8, 8]
  assert "StdPT_StdFT" in output


def test_commands_of_a_cell_share_a_process_and_stop_at_the_first_failure():
  commands = [["--version"], ["nonsense"], ["--version"]]
  done = subprocess.run(
    [sys.executable, "-m", "pausejax.programs.cell", json.dumps(commands)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and "unknown verb 'nonsense'" in done.stderr
  assert done.stdout.count("$ pausejax --version\n") == 1


def test_each_command_connects_anew_if_there_are_several_processes(
  tmp_path, monkeypatch
):
  cell = plan(tmp_path).finetuning_cells()[0]
  assert program._by_process(cell) == [cell.commands]
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1234")
  assert program._by_process(cell) == [[words] for words in cell.commands]
