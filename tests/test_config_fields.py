"""A config field is declared once; all else follows from the declaration."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from pausejax import errors
from pausejax.config import (
  FinetuneConfig,
  Follows,
  ModelConfig,
  TrainConfig,
  architecture_fields,
  default,
  fields,
  reference,
  saved,
)
from pausejax.study.config import StudyConfig
from tests import processes

ROOT = pathlib.Path(__file__).parent.parent
SAVED = ROOT / "tests" / "saved" / "0.1.0-6f96c5c.tar.gz"
# Declared in a copy of the package, beside the fields that are there.
NEW_FIELD = """
  logit_cap: float = field(
    30.0,
    "Soft cap of the logits.",
    minimum=0.0,
    architecture=True,
    before=0.5,
  )
  tile: int = field(8, "Rows of a tile.", minimum=1, may_change=True)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  """A copy of the package in which one more field is declared."""
  folder = tmp_path_factory.mktemp("copy")
  skip = shutil.ignore_patterns("__pycache__")
  for name in ("pausejax", "configs"):
    shutil.copytree(ROOT / name, folder / name, ignore=skip)
  path = folder / "pausejax" / "config" / "model.py"
  before, first, after = path.read_text().partition("  num_layers: int")
  path.write_text(before + NEW_FIELD.lstrip("\n") + first + after)
  return folder


def run(copy, *words):
  """Runs the copy's `pausejax`; returns the finished process."""
  return subprocess.run(
    [sys.executable, *map(str, words)],
    cwd=copy,
    env={**processes.environment(0, 1, 0, devices=1), "PYTHONPATH": str(copy)},
    capture_output=True,
    text=True,
    check=False,
  )


def values(copy, spec) -> dict:
  """Returns the config that the copy makes of --config=spec."""
  code = (
    "import json, sys; from pausejax.config import load_config\n"
    "print(json.dumps(load_config(sys.argv[1]).to_dict()))"
  )
  done = run(copy, "-c", code, spec)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.slow
def test_one_declaration_reaches_every_place_without_a_checkpoint(copy):
  now = values(copy, "smoke")
  assert now["model"]["logit_cap"] == 30.0
  # A saved config has it, and one of an older version gets `before`.
  path = copy / "config.json"
  now["model"]["logit_cap"] = 7.0
  path.write_text(json.dumps(now))
  assert values(copy, path)["model"]["logit_cap"] == 7.0
  del now["model"]["logit_cap"]
  path.write_text(json.dumps(now))
  assert values(copy, path)["model"]["logit_cap"] == 0.5
  # --help, the reference page, and the checks of type, range and name.
  shown = run(copy, "-m", "pausejax", "train", "--help").stdout
  assert (
    "  model.logit_cap = 30.0\n      Soft cap of the logits. [at least 0.0]\n"
  ) in shown
  page = run(copy, "-m", "pausejax.config.reference").stdout
  assert "| `model.logit_cap` | `30.0` | at least 0.0 | Soft cap" in page
  row = "| `model.tile` | `8` | at least 1 | Rows of a tile. A resumed run may"
  assert row in page
  for change, message in (
    ("logit_cap=much", "expected float, got 'much'"),
    ("logit_cap=-1", "model.logit_cap: must be a finite number at least 0.0"),
    ("logitcap=1", "did you mean 'model.logit_cap'?"),
  ):
    words = ("train", "--config=smoke", "--workdir=run")
    done = run(copy, "-m", "pausejax", *words, f"--config.model.{change}")
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_resumed_run_may_change_what_is_declared_so_and_nothing_else(copy):
  code = (
    "from pausejax.training import resume\n"
    "print(*map(resume.may_change, ('model.tile', 'model.logit_cap')))"
  )
  assert run(copy, "-c", code).stdout == "True False\n"


@pytest.mark.slow
def test_a_new_field_is_inherited_by_finetuning_from_an_older_checkpoint(
  copy, tmp_path
):
  with tarfile.open(SAVED) as archive:
    archive.extractall(tmp_path, filter="data")
  train = [
    "train",
    "--config=configs/finetune_smoke.py:task=web_questions,pauses=2",
    f"--init_from={tmp_path / 'pretrained'}",
    f"--config.data.local_dir={tmp_path / 'web_questions'}",
    "--config.num_steps=1",
    f"--workdir={tmp_path / 'run'}",
  ]
  evaluate = [
    "evaluate",
    f"--checkpoint={tmp_path / 'finetuned'}",
    f"--local_dir={tmp_path / 'web_questions'}",
    "--pauses=2",
    f"--out={tmp_path / 'evaluations'}",
  ]
  generate = ["generate", f"--checkpoint={tmp_path / 'pretrained'}"]
  generate += ["--prompt=The model", "--max_new_tokens=2", "--pauses=1"]
  code = "from pausejax import cli\nfor words in "
  code += (
    f"{[train, evaluate, generate]}:\n  assert cli.main(words) == 0, words"
  )
  done = run(copy, "-c", code)
  assert done.returncode == 0, done.stderr
  saved = json.loads((tmp_path / "run" / "config.json").read_text())
  assert saved["model"]["logit_cap"] == 0.5


def test_finetuning_inherits_the_same_architecture_fields_as_before():
  assert {*architecture_fields(ModelConfig)} >= {
    "max_seq_len",
    "num_layers",
    "d_model",
    "num_heads",
    "num_kv_heads",
    "d_ff",
    "position",
    "rope_theta",
    "norm",
    "mlp",
    "qk_norm",
    "bias",
    "tied_embeddings",
  }


def test_a_resumed_run_may_change_what_it_always_could():
  names = {*fields.changeable(TrainConfig)}
  assert names >= {
    *("num_steps", "stop_at_step", "init_from", "tasks_module"),
    *("loss.z_loss", "loss.num_chunks", "optim.num_microbatches"),
    *("optim.learning_rate", "optim.schedule", "optim.warmup_steps"),
    *("optim.decay_steps", "optim.final_fraction", "optim.clip_norm"),
    *("optim.decay_axes", "optim.max_skipped_in_a_row"),
    *("optim.kwargs.weight_decay", "model.attention", "model.dtype"),
    *("model.remat", "model.scan_unroll", "data.prefetch", "data.tokenizer"),
    *("data.files", "data.validation_files", "data.segments_dir"),
    *("data.local_dir", "data.tfds_data_dir"),
  }
  for group in ("checkpoint", "eval", "log", "mesh"):
    for name, _ in fields.all_fields(fields.groups(TrainConfig)[group]):
      assert f"{group}.{name}" in names


@pytest.mark.parametrize("kind", [TrainConfig, StudyConfig])
def test_every_default_is_allowed_and_every_field_is_explained(kind):
  tree = default(kind)
  for name, declared in fields.all_fields(kind):
    value = tree
    for part in name.split("."):
      value = value[part]
    declared.check(name, value)
    assert len(declared.help) > 5, name
    assert f"| `{name}` |" in reference.reference_tables(kind)
    if declared.before is not None:
      declared.check(name, declared.before)
      assert type(declared.before) is type(value)


@pytest.mark.parametrize("kind", [TrainConfig, StudyConfig])
def test_every_attribute_of_a_config_class_is_declared(kind):
  for group in (kind, *fields.groups(kind).values()):
    known = {*fields.own_fields(group), *fields.groups(group)}
    names = {field.name for field in dataclasses.fields(group)}
    # The tokenizer decides it: no config has it.
    assert names - known == ({"vocab_size"} if group is ModelConfig else set())


def test_the_name_of_a_group_is_that_of_its_field():
  for name, group in fields.groups(TrainConfig).items():
    assert name == group.GROUP


def test_a_default_that_follows_another_field_is_named_in_the_reference():
  page = reference.reference_tables()
  for text in ("4 * model.d_model", "num_steps // 50", "data.seq_len"):
    assert f"| `{text}` |" in page
  assert str(Follows("a.b", times=3, divided_by=2)) == "3 * a.b // 2"


def test_the_classes_have_the_defaults_and_check_their_values():
  tree = default().finetune.to_dict()
  assert dataclasses.asdict(FinetuneConfig()) == tree
  with pytest.raises(errors.UsageError, match=r"finetune\.pause_position: unk"):
    FinetuneConfig(pause_position="append ")


@pytest.mark.parametrize(
  ("name", "value"),
  [("optim.max_skipped_in_a_row", 0), ("optim.head_lr_multiplier", 1.0)],
)
def test_a_field_missing_from_an_old_file_gets_its_old_behavior(name, value):
  group, field = name.split(".")
  tree = default().to_dict()
  del tree[group][field]
  assert saved.read_saved(tree)[group][field] == value
