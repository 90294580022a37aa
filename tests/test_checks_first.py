"""What costs nothing is checked before data is prepared or a folder is made."""

import pathlib

import pytest

from pausejax import cli
from pausejax.config import loader
from pausejax.data import pipeline
from pausejax.programs import check_study
from pausejax.study import plan

SMOKE = pathlib.Path(__file__).parent.parent / "configs" / "smoke.py"


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (["mesh.fsdp=3"], "mesh: data -1 x fsdp 3"),
    (["batch_size=12"], "batch_size / optim.num_microbatches 12"),
    (["optim.num_microbatches=4"], "batch_size / optim.num_microbatches 4"),
    (["mesh.tensor=8", "mesh.data=1"], "model.num_heads 4 is not divisible"),
    (["optim.name=adamx"], "did you mean 'adamax'?"),
    (["optim.kwargs.b3=1"], "optax.adamw takes no 'b3'"),
    (["optim.kwargs.weight_decay=-1"], "weight_decay: must be a finite number"),
    (["optim.schedule=wsd", "optim.decay_steps=500"], "optim.decay_steps 500"),
    (["model.attention=splash"], "it needs a TPU"),
    (["model.attention=cudnn"], "model.attention 'cudnn'"),
    (["data.tokenizer=none.model"], "data.tokenizer: no file"),
    (["tasks_module=no_such_module"], "importing 'no_such_module' failed"),
    (["eval.batch_size=12", "eval.num_examples=4"], "eval.batch_size 12"),
  ],
)
def test_training_refuses_before_it_prepares(changes, words, tmp_path, capfd):
  argv = ["train", f"--config={SMOKE}", f"--workdir={tmp_path / 'run'}"]
  assert cli.main([*argv, *(f"--config.{c}" for c in changes)]) in (1, 2)
  out, err = capfd.readouterr()
  assert words in err and len(err.splitlines()) == 1
  assert "preparing" not in out
  assert not (tmp_path / "run").exists()


def test_training_refuses_a_workdir_that_is_a_file(tmp_path, capfd):
  (tmp_path / "run").touch()
  argv = ["train", f"--config={SMOKE}", f"--workdir={tmp_path / 'run'}"]
  assert cli.main(argv) == 1
  out, err = capfd.readouterr()
  assert "--workdir: cannot write" in err and "preparing" not in out


def study_of(tmp_path, **changes) -> str:
  """Writes a config: the smoke study with some fields changed."""
  path = tmp_path / "mine.py"
  lines = "".join(
    f"  c.{name} = {value!r}\n" for name, value in changes.items()
  )
  path.write_text(
    "from ml_collections import ConfigDict\n"
    "from pausejax import config\n"
    "def get_config(arg=''):\n"
    "  c = ConfigDict(config.load_config('study_smoke').to_dict())\n"
    f"{lines}  return c.lock()\n"
  )
  return str(path)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"pretrain_words": "--config.num_step=5"}, "did you mean 'num_steps'?"),
    ({"finetune_words": "--config.num_steps=x"}, "expected int, got 'x'"),
    ({"finetune_words": "--config.learning_rate=1"}, "optim.learning_rate"),
    ({"finetune_words": "--config.batch_size=0"}, "batch_size: must be"),
    (
      {"tasks": ("squad",), "local_dir": "no/such"},
      "s0: train: data.local_dir: no folder 'no/such/squad'",
    ),
    (
      {"finetune_words": "--config.data.pause_mode=random_runs"},
      "'random_runs' is for pretraining text; a finetuning has",
    ),
    ({"evaluate_words": "--pause=3"}, "did you mean '--pauses'?"),
    ({"evaluate_words": "--split=tests"}, "--split: unknown value 'tests'"),
    ({"evaluate_words": "--batch_size=many"}, "--batch_size"),
    ({"evaluations": {"m10": ("--pauses=0,x",)}}, "numbers such as 0,10,50"),
    ({"prepare": (("s", "segments --out=x --shard=3/2"),)}, "1 <= i <= n"),
    (
      {"task_words": {"stdlib_choice": ("--config.data.pipeline=x",)}},
      "-stdlib_choice-m0-s0: train: data.pipeline: unknown value 'x'",
    ),
    (
      {"finetunings.m10": ("configs/finetune_smoke.py:task={task},m=1",)},
      "config argument: unknown name 'm'",
    ),
    ({"pretrainings.std": ("configs/smok.py",)}, "smoke.py'?"),
    ({"pretrainings.std": ("no/such/run",)}, "no folder 'no/such/run'"),
    ({"prepare": (("tok", "tokenizer train --vocab=5"),)}, "'--vocab_size'?"),
    ({"prepare": (("tok", "tokeniser train"),)}, "did you mean 'tokenizer'?"),
    (
      {"pretrain_words": "--config.data.tokenizer=none.model"},
      "data.tokenizer: no file 'none.model'",
    ),
  ],
)
def test_a_study_checks_every_command_before_the_first_runs(
  changes, words, tmp_path, monkeypatch, capfd
):
  monkeypatch.chdir(SMOKE.parent.parent)
  config = study_of(tmp_path, **changes)
  workdir = tmp_path / "study"
  assert cli.main(["study", f"--config={config}", f"--workdir={workdir}"]) == 2
  out, err = capfd.readouterr()
  assert words in err and len(err.splitlines()) == 1 and out == ""
  assert not workdir.exists()


@pytest.mark.parametrize("name", ["study", "study_laptop", "study_smoke"])
def test_the_commands_of_our_own_studies_pass(name, tmp_path, monkeypatch):
  monkeypatch.chdir(SMOKE.parent.parent)
  config = loader.load_config(f"configs/{name}.py")
  check_study.check_cells(plan.make_plan(tmp_path, config.to_dict()))


@pytest.mark.slow
def test_a_finetuning_that_ignored_its_pause_mode_resumes(
  tmp_path, monkeypatch, capfd
):
  """Earlier versions began finetunings with a mode that they did not use."""
  argv = ["train", "--config=finetune_smoke:task=stdlib_choice,pauses=2"]
  argv += [f"--workdir={tmp_path / 'run'}", "--config.num_steps=1"]
  argv += ["--config.data.pause_mode=random_runs"]
  argv += [f"--config.model.{c}" for c in ("num_layers=1", "d_model=16")]
  argv += ["--config.model.num_heads=2", "--config.eval.num_examples=8"]
  assert cli.main(argv) == 2
  assert "'random_runs' is for pretraining" in capfd.readouterr().err
  with monkeypatch.context() as patch:
    patch.setattr(pipeline, "require_used_pauses", lambda data: None)
    assert cli.main(argv) == 0
  assert cli.main(argv) == 0
  assert "nothing to do" in capfd.readouterr().out


def test_a_study_that_trains_from_a_store_needs_no_published_files(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(SMOKE.parent.parent)
  store = "--config.data.segments_dir={workdir}/prepare/store"
  config = study_of(
    tmp_path, tasks=("squad",), local_dir="no/such", finetune_words=store
  )
  made = plan.make_plan(
    tmp_path / "study", loader.load_config(config).to_dict()
  )
  check_study.check_cells(made)
