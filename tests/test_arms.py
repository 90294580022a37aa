"""The texts of a study are parsed once, and saved as they were written."""

import json

import pytest

from pausejax import errors
from pausejax.config import load_config
from pausejax.study import plan as plans
from pausejax.study import saved_plan
from pausejax.study.arms import Arm, Variant, Words
from pausejax.study.report import runs
from tests.studies import fields, plan


@pytest.mark.parametrize("spec", ["study", "study_laptop", "study_smoke"])
def test_a_saved_plan_holds_the_texts_of_its_config(tmp_path, spec):
  tree = load_config(spec).to_dict()
  planned = plans.make_plan(tmp_path, tree)
  kept = planned.as_json()
  assert {n: kept[n] for n in tree} == {
    **tree,
    "prepare": [*map(tuple, tree["prepare"])],
    "variants": tuple(map(tuple, tree["variants"])),
  }
  planned.save()
  assert plans.read_plan(tmp_path) == planned


@pytest.mark.parametrize(
  ("words", "finetunings", "filler"),
  [
    (("A", "std", "m0"), ("m0",), ""),
    (("A", "std", "m0", "m1", "filler=."), ("m0", "m1"), "."),
    (("A", "std", "m0", "filler=filler= x"), ("m0",), "filler= x"),
  ],
)
def test_a_variant_is_read_back_as_it_was_written(words, finetunings, filler):
  variant = Variant.parse(words)
  assert (variant.finetunings, variant.filler) == (finetunings, filler)
  assert variant.texts() == words


def test_words_are_quoted_as_in_a_shell():
  text = "--text='a b' {task} --out={workdir}/x"
  words = Words.parse(text, "words")
  assert words.text == text
  filled = words.filled("/my run", "squad")
  assert filled == ("--text=a b", "squad", "--out=/my run/x")


@pytest.mark.parametrize(
  ("texts", "has_pauses"),
  [
    (("finetune:task={task},pauses=0",), False),
    (("my/ft.py:pauses=0,task=squad",), False),
    (("finetune:task={task},pauses=05",), True),
    (("finetune:pauses=10", "--config.finetune.num_pauses=0"), False),
    (("finetune:pauses=0", "--config.finetune.num_pauses=5"), True),
    (("finetune:task=pauses=0",), True),
    (("finetune",), True),
  ],
)
def test_a_finetuning_says_whether_it_has_pauses(texts, has_pauses):
  arm = Arm.parse(texts, "finetunings.x")
  assert arm.has_pauses == has_pauses
  assert arm.texts() == texts


@pytest.mark.parametrize(
  ("words", "split"),
  [
    ("", "test"),
    ("--split=validation", "validation"),
    ("--limit=3 --split validation", "validation"),
    ("--split=test --split='validation'", "validation"),
    ("--out=--split=x", "test"),
  ],
)
def test_the_table_reports_the_split_that_is_evaluated(tmp_path, words, split):
  planned = plan(tmp_path, tasks=("gsm8k",), evaluate_words=words)
  assert planned.split_of("gsm8k") == split


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"finetune_words": "--a='b"}, 'finetune_words: "--a=\'b": No closing'),
    ({"task_words": {"stdlib_cloze": ("'",)}}, "task_words.stdlib_cloze: "),
    ({"prepare": (("one", '"'),)}, "prepare.one: "),
    ({"prepare": (("one", "a"), ("one", "b"))}, "prepare: 'one' is given twic"),
    ({"finetunings": {"m0": ()}}, "finetunings.m0: no config is named"),
    ({"variants": (("A", "std"),)}, "is not a name, a pretraining and finet"),
    ({"variants": (("A", "std", "filler=."),)}, "is not a name, a pretraining"),
    (
      {"variants": (("A", "std", "filler=.", "m0"),)},
      "filler=TEXT as the las",
    ),
    ({"variants": ((),)}, "variants: "),
  ],
)
def test_a_text_of_another_form_is_refused_before_any_cell(
  tmp_path, change, message
):
  with pytest.raises(errors.UsageError) as raised:
    plans.make_plan(tmp_path, fields(**change))
  assert message in str(raised.value)
  assert len(str(raised.value).splitlines()) == 1


def test_an_older_plan_is_upgraded_in_one_place():
  line = "pausejax train --config=configs/smoke.py:pause=false"
  older = {"cells": {"a": [line + " --config.data.door=seqio"]}}
  now = "pausejax train --config=smoke:pause=false --config.data.pipeline=seqio"
  seeds = {"pretrain_seeds": []}
  assert saved_plan.upgrade(older, 1) == {"cells": {"a": [now]}} | seeds
  assert saved_plan.upgrade(json.loads(json.dumps(older)), 2) == older | seeds
  assert saved_plan.upgrade(json.loads(json.dumps(older)), 3) == older


@pytest.mark.parametrize(
  ("name", "seed", "arm"),
  [
    ("squad-s3", 3, "squad"),
    ("deep/squad_seed=3", 3, "deep/squad"),
    ("squad.s03", 3, "squad"),
    ("squad-s3", 4, "squad-s3"),  # Its config says which seed it has.
    ("gpus8", 0, "gpus8"),
    ("s3", 3, "s3"),
  ],
)
def test_an_arm_of_separate_runs_is_the_name_without_the_seed(name, seed, arm):
  assert runs._without_seed(name, seed) == arm
