"""The study: its plan, what runs when, and the numbers of its table."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pausejax import errors
from pausejax.config import default, load_config, loader, train_config
from pausejax.evaluation import results
from pausejax.programs import study as program
from pausejax.study import plan as plans
from pausejax.study import table
from pausejax.study.config import StudyConfig
from tests import processes

ROOT = pathlib.Path(__file__).parent.parent


def fields(**changes) -> dict:
  """A study of one task with two pretrainings and three finetunings."""
  return {
    **default(StudyConfig).to_dict(),
    "title": "test",
    "prepare": (("one", "segments --out={workdir}/prepare/one/store"),),
    "pretrain_words": "--config.data.segments_dir={workdir}/prepare/one/store",
    "finetune_words": "--config.num_steps=2",
    "evaluate_words": "--limit=4",
    "pretrainings": {"std": ("a.py:pause=false",), "pause": ("a.py",)},
    "tasks": ("stdlib_cloze",),
    "finetunings": {
      "m0": ("b.py:task={task},pauses=0",),
      "m2": ("b.py:task={task},pauses=2",),
      "m4": ("b.py:task={task},pauses=4",),
    },
    "evaluations": {"m2": ("--pauses=0,1",)},
    "seeds": (0, 1),
    "variants": (
      ("StdPT_StdFT", "std", "m0"),
      ("PausePT_PauseFT", "pause", "m2", "m4"),
    ),
    **changes,
  }


def plan(workdir: pathlib.Path, **changes) -> plans.Study:
  return plans.make_plan(workdir, fields(**changes))


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


def test_every_combination_that_a_variant_names_is_a_cell(tmp_path):
  cells = plan(tmp_path).finetuning_cells()
  found = {(c.pretraining, c.finetuning, c.seed) for c in cells}
  arms = [("std", "m0"), ("pause", "m2"), ("pause", "m4")]
  assert found == {(*arm, seed) for arm in arms for seed in (0, 1)}
  assert len({c.id for c in cells}) == len(cells) == 6


def test_arms_differ_only_in_the_fields_they_name(tmp_path):
  by_id = {c.id.split("/")[1]: c for c in plan(tmp_path).finetuning_cells()}
  one = by_id["pause-stdlib_cloze-m2-s0"].commands[0]
  other = by_id["pause-stdlib_cloze-m2-s1"].commands[0]
  differ = {a for a, b in zip(one, other, strict=True) if a != b}
  assert differ == {
    "--config.seed=0",
    f"--workdir={tmp_path}/finetune/pause-stdlib_cloze-m2-s0",
  }
  assert f"--init_from={tmp_path}/pretrain/pause" in one


def test_a_pretraining_may_be_an_existing_run(tmp_path):
  elsewhere = plan(
    tmp_path, pretrainings={"std": ("/runs/std",), "pause": ("/runs/pause",)}
  )
  assert not elsewhere.pretraining_cells()
  words = elsewhere.finetuning_cells()[0].commands[0]
  assert "--init_from=/runs/std" in words


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


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seeds": (0, 1, 0)}, "seeds: \\(0, 1, 0\\) names a seed twice"),
    ({"pretrain_seeds": (1, 1)}, "pretrain_seeds: .* names a seed twice"),
    (
      {"pretrain_seeds": (0, 1), "pretrainings": {"std": ("/runs/a",)}}
      | {"variants": (("A", "std", "m0"),)},
      "'std' is the folder of one run",
    ),
    ({"tasks": ("stdlib_clozes",)}, "did you mean 'stdlib_cloze'?"),
    ({"task_words": {"stdlib_clozes": ()}}, "did you mean 'stdlib_cloze'?"),
    ({"variants": (("A", "stdd", "m0"),)}, "did you mean 'std'?"),
    ({"variants": (("A", "std", "m00"),)}, "did you mean 'm0'?"),
    ({"seeds": ()}, "at least one"),
    ({"evaluations": {"m9": ()}}, "evaluations: unknown value 'm9'"),
  ],
)
def test_a_wrong_name_is_refused_with_the_nearest(tmp_path, change, message):
  with pytest.raises(errors.UsageError, match=message):
    plan(tmp_path, **change)


def test_a_study_of_fewer_tasks_keeps_the_words_of_the_others(tmp_path):
  words = {"stdlib_choice": ("--config.num_steps=9",)}
  assert plan(tmp_path, task_words=words).cells() == plan(tmp_path).cells()


def test_a_plan_is_read_back_as_it_was_saved(tmp_path):
  before = plan(tmp_path)
  before.save()
  assert plans.read_plan(tmp_path) == before
  plan(tmp_path, seeds=(0, 1, 2)).save()  # More cells are welcome.


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--a=1 --b=3", "with --b=2, now with --b=3"),
    ("--a=1", "with --b=2, now with nothing"),
    ("--b=2 --a=1", "--a=1 --b=2"),
  ],
)
def test_another_config_in_the_same_folder_is_refused(tmp_path, words, said):
  three = plan(tmp_path, finetune_words="--a=1 --b=2")
  three.save()
  with pytest.raises(errors.UserError) as caught:
    plan(tmp_path, finetune_words=words).save()
  message = caught.value.message
  first, *others = three.finetuning_cells()
  assert f"another config: {first.id} with" in message and said in message
  assert f"(cells that differ: {1 + len(others)})" in message
  assert plans.read_plan(tmp_path) == three


def test_a_plan_that_names_shipped_configs_by_path_resumes(tmp_path):
  names = {"std": ("smoke:pause=false",), "pause": ("smoke",)}
  paths = {
    "std": ("configs/smoke.py:pause=false",),
    "pause": ("configs/smoke.py",),
  }
  plan(tmp_path, pretrainings=paths).save()
  plan(tmp_path, pretrainings=names).save()
  plan(tmp_path, pretrainings=paths).save()
  with pytest.raises(errors.UserError, match="another config"):
    plan(tmp_path, pretrainings=names | {"std": ("smoke",)}).save()


@pytest.mark.parametrize("arg", ["", "size=130m", "only=table"])
def test_the_paper_study_covers_the_paper(tmp_path, arg):
  built = plans.make_plan(tmp_path, load_config(f"study:{arg}").to_dict())
  assert len(built.tasks) == 9 and len(built.seeds) == 5
  assert [v.name for v in built.variants[:4]] == [
    "StdPT_StdFT",
    "StdPT_PauseFT",
    "PausePT_StdFT",
    "PausePT_PauseFT",
  ]
  assert set(table.PAPER) == set(built.tasks)
  ids = [cell.id for cell in built.cells()]
  assert len(ids) == len(set(ids))


def test_the_study_of_a_curriculum_has_every_control(tmp_path):
  values = load_config("study_curriculum").to_dict()
  assert len([*plans.make_plan(tmp_path, values).cells()]) == 1 + 5 * 5
  found = {}
  for name, (config, *changes) in values["finetunings"].items():
    tree = load_config(config.format(task="gsm8k"))
    for change in changes:
      for word in change.split():
        loader.apply_override(tree, word)
    curriculum = train_config(tree.to_dict()).finetune.curriculum(10)
    if curriculum is not None:
      stages = curriculum.stages(np.arange(15), num_examples=1)
      pauses = curriculum.stage_pauses(stages)
      found[name] = [*dict.fromkeys(zip(stages, pauses, strict=True))]
  assert found == {
    "direct": [(4, 0)],
    "pause": [(4, 6)],
    "removed": [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)],
    "curriculum": [(0, 0), (1, 2), (2, 4), (3, 6), (4, 6)],
  }


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


def write_result(
  cell, num_pauses, values, filler="<pause>", finetuned=None, **other
):
  """Writes a result of metric "em" as an evaluation does."""
  was = {"num_pauses": num_pauses, "position": "append", "filler": ""}
  rows = [
    {"id": str(i), "prediction": "", "values": {"em": v}}
    for i, v in enumerate(values)
  ]
  result = {
    "task": "stdlib_cloze",
    "split": "validation",
    "examples_sha256": "",
    "pausejax": "0",
    "step": 900,
    "num_pauses": num_pauses,
    "position": "append",
    "filler": filler,
    "finetuned": finetuned or was,
    "n": len(values),
    "metrics": {"em": 100 * float(np.mean(values))},
    **other,
  }
  stem = (
    f"x-{filler.strip('<>.')}{num_pauses}-{'-'.join(map(str, other.values()))}"
  )
  results.write_result(cell.workdir / "evaluations", stem, result, rows)


def read_all(built) -> dict[str, list[dict]]:
  return {
    c.id: results.read_results(c.workdir / "evaluations")
    for c in built.finetuning_cells()
  }


def test_the_table_shows_the_values_of_the_results(tmp_path):
  built = plan(tmp_path)
  values = {  # By finetuning and seed; m4 is better than m2.
    ("m0", 0): [1, 0, 0, 0],
    ("m0", 1): [1, 1, 0, 0],
    ("m2", 0): [1, 0, 0, 0],
    ("m2", 1): [1, 0, 0, 0],
    ("m4", 0): [1, 1, 1, 0],
    ("m4", 1): [1, 1, 1, 1],
  }
  for cell in built.finetuning_cells():
    m = int(cell.finetuning[1:])
    write_result(cell, m, values[cell.finetuning, cell.seed])
    if m:  # Other pauses at inference do not enter the table.
      was = {"num_pauses": m, "position": "append", "filler": ""}
      write_result(cell, m + 1, [1, 1, 1, 1], finetuned=was)
    # Nor do other tasks, other splits and earlier checkpoints.
    for other in ({"task": "x"}, {"split": "test"}, {"step": 500}):
      write_result(cell, m, [1, 1, 1, 1], **other)
  first, second = table.build(built, read_all(built))
  assert (first.variant, first.mean, first.n) == ("StdPT_StdFT", 37.5, 4)
  # 25 and 50: the sample deviation is 25 / sqrt(2).
  assert first.std == pytest.approx(25 / np.sqrt(2))
  assert first.difference is None
  assert (second.finetuning, second.num_pauses) == ("m4", 4)
  assert second.mean == pytest.approx(87.5)
  assert second.difference == pytest.approx(50.0)
  assert second.interval is not None
  low, high = second.interval
  assert -100 <= low < 50 < high <= 100


def test_a_filler_variant_shows_its_own_results(tmp_path):
  built = plan(
    tmp_path,
    variants=(("Std", "std", "m0"), ("Dots", "std", "m0", "filler=.")),
  )
  for cell in built.finetuning_cells():
    write_result(cell, 0, [1, 0])
    was = {"num_pauses": 0, "position": "append", "filler": ""}
    write_result(cell, 10, [1, 1], filler=".", finetuned=was)
  std, dots = table.build(built, read_all(built))
  assert (std.mean, dots.mean, dots.num_pauses) == (50.0, 100.0, 10)


def test_a_missing_result_is_a_row_without_a_number(tmp_path):
  row, _ = table.build(plan(tmp_path), {})
  assert np.isnan(row.mean) and row.seeds == () and row.num_seeds_planned == 2


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


def test_a_seed_of_finetuning_starts_from_every_pretraining_before_the_next(
  tmp_path,
):
  cells = plan(tmp_path, pretrain_seeds=(3, 4)).finetuning_cells()
  seeds = list(dict.fromkeys(cell.seeds for cell in cells))
  assert seeds == [(3, 0), (4, 0), (3, 1), (4, 1)]
