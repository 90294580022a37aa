"""What a resumed run may change, what it refuses, and what it remembers."""

import json
import pathlib
import types

import pytest

from pausejax import errors
from pausejax.config import (
  ModelConfig,
  architecture_fields,
  default,
  train_config,
)
from pausejax.config.saved import config_to_json
from pausejax.runtime import run_folder
from pausejax.training import resume

WORKDIR = pathlib.Path("run")


def saved():
  """The config as a checkpoint keeps it."""
  return json.loads(json.dumps(default().to_dict()))


def changed(field, value):
  tree = default().to_dict()
  *parents, last = field.split(".")
  node = tree
  for name in parents:
    node = node[name]
  node[last] = value
  return tree


def test_the_same_settings_do_not_differ():
  assert resume.differences(saved(), default().to_dict()) == []


REFUSED = {
  "seed": 1,
  "batch_size": 8,
  "data.task": "text",
  "data.pipeline": "seqio",
  "data.seq_len": 64,
  "data.pause_fraction": 0.0,
  "data.pause_mode": "exact",
  "data.holdout_every": 5,
  "finetune.num_pauses": 10,
  "finetune.packing": False,
  "model.num_heads": 6,
  "model.rope_theta": 500.0,
  "model.norm": "rmsnorm",
  "model.segment_attention": True,
  "model.prefix_attention": "bidirectional",
  "optim.name": "lion",
  "optim.kwargs.b1": 0.5,
  "optim.kwargs.eps": 1e-3,
}


@pytest.mark.parametrize("field", REFUSED)
def test_changes_to_the_computation_are_refused_with_a_table(field):
  new = changed(field, REFUSED[field])
  (row,) = resume.differences(saved(), new)
  with pytest.raises(errors.UsageError) as e:
    resume.require_resumable(WORKDIR, saved(), new)
  assert field in e.value.message and len(e.value.message.splitlines()) == 1
  assert e.value.details == f"  {field}  {row[1]!r} -> {REFUSED[field]!r}"


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("num_steps", 5),
    ("optim.learning_rate", 3e-3),
    ("optim.kwargs.weight_decay", 0.0),
    ("checkpoint.keep_best", 3),
    ("eval.every", 7),
    ("log.every", 10),
    ("mesh.fsdp", 8),
    ("model.dtype", "float32"),
    ("model.remat", "full"),
    ("data.files", "moved/*.txt"),
    ("init_from", "elsewhere"),
  ],
)
def test_all_other_changes_are_printed(field, value):
  new, before = changed(field, value), saved()
  resume.require_resumable(WORKDIR, before, new)
  config = train_config(new)
  _, line = resume.resume_notes(config, new, {"config": before})
  node = before
  for name in field.split("."):
    node = node[name]
  assert line == f"  {field}  {node!r} -> {value!r}"


def test_the_shape_of_a_model_never_changes():
  fields = [f"model.{name}" for name in architecture_fields(ModelConfig)]
  assert not any(map(resume.may_change, fields))


def test_a_field_of_another_version_is_not_compared():
  old = saved()
  del old["optim"]["max_skipped_in_a_row"]
  old["model"]["gone"] = 3
  assert resume.differences(old, default().to_dict()) == []


def test_an_added_or_removed_optimizer_argument_is_named():
  old = saved()
  old["optim"]["kwargs"] = {"b1": 0.9, "nesterov": True}
  found = resume.differences(old, default().to_dict())
  assert ("optim.kwargs.nesterov", True, None) in found
  assert ("optim.kwargs.b2", None, 0.95) in found


@pytest.mark.parametrize(
  ("num_steps", "stop_at_step", "step", "words"),
  [
    (10, 0, 10, "complete: step 10 of 10 is saved"),
    (10, 10, 10, "complete"),
    (10, 99, 10, "complete"),
    (5, 0, 10, "step 10 is saved in c, which is beyond num_steps 5"),
    (10, 4, 4, "stop_at_step is 4"),
    (10, 4, 6, "stop_at_step is 4"),
    (10, 0, 9, ""),
    (10, 6, 4, ""),
  ],
)
def test_a_run_without_steps_left_says_so(num_steps, stop_at_step, step, words):
  tree = default()
  tree.num_steps, tree.stop_at_step = num_steps, stop_at_step
  config = train_config(tree.to_dict())
  assert resume.is_over(config, step) == bool(words)
  if words:
    line = resume.nothing_to_do(config, step, pathlib.Path("c"))
    assert words in line and "nothing to do" in line


def test_skipped_steps_are_counted_at_the_end():
  config = train_config(default().to_dict())
  for skipped, words in (
    (0, "(num_steps 100000)"),
    (3, "3 steps were skipped"),
  ):
    state = types.SimpleNamespace(step=7, num_skipped=skipped)
    line = resume.ending(config, state, pathlib.Path("c"))
    assert line.startswith("step 7 is saved in c") and words in line


def test_settings_are_never_overwritten(tmp_path):
  first, second = saved(), changed("optim.learning_rate", 1.0)
  for step, config in ((0, first), (4, first), (6, second), (8, first)):
    run_folder.History(tmp_path).add(step, config, 0.0)
  lines = (tmp_path / run_folder.HISTORY).read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [x["step"] for x in found] == [0, 6, 8]
  assert [x["config"] for x in found] == [
    json.loads(json.dumps(config_to_json(c))) for c in (first, second, first)
  ]


def test_a_damaged_history_can_be_appended_to(tmp_path):
  path = tmp_path / run_folder.HISTORY
  path.write_bytes(b'{"step": 0, "con\xff')
  history = run_folder.History(tmp_path)
  history.begin(saved(), 0.0)
  history.add(3, changed("log.every", 10), 0.0)
  damaged, *lines = path.read_bytes().split(b"\n")[:-1]
  assert damaged == b'{"step": 0, "con\xff'
  assert [json.loads(line)["step"] for line in lines] == [0, 3]
  assert run_folder.History(tmp_path).largest_interval() == 11


@pytest.mark.parametrize("there", [True, False])
def test_other_first_parameters_are_announced(tmp_path, there):
  folder = tmp_path / "initial"
  if there:
    for part in ("commit_success.txt", "params", "opt_state", "data"):
      (folder / "checkpoints" / "9" / part).mkdir(parents=True)
    (folder / "checkpoints" / "9" / "meta").mkdir()
    (folder / "checkpoints" / "9" / "meta" / "meta.json").write_text("{}")
  new = changed("init_from", str(folder))
  began = {"workdir": str(folder), "step": 7}
  config = train_config(new)
  (line,) = resume.resume_notes(config, new, {"config": new, "initial": began})
  now = f"step 9 of {folder}" if there else "without a checkpoint"
  assert f"is now {now}" in line and f"started from step 7 of {folder}" in line
  same = {"workdir": str(folder), "step": 9}
  found = resume.resume_notes(config, new, {"config": new, "initial": same})
  assert len(found) == (0 if there else 1)
