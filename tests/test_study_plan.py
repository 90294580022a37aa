"""The plan of a study: its cells, their commands, and the plan as saved."""

import numpy as np
import pytest

from pausejax import errors
from pausejax.config import load_config, loader, train_config
from pausejax.study import plan as plans
from pausejax.study import table
from tests.studies import plan


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


def test_a_seed_of_finetuning_starts_from_every_pretraining_before_the_next(
  tmp_path,
):
  cells = plan(tmp_path, pretrain_seeds=(3, 4)).finetuning_cells()
  seeds = list(dict.fromkeys(cell.seeds for cell in cells))
  assert seeds == [(3, 0), (4, 0), (3, 1), (4, 1)]
