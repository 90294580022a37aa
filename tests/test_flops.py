"""Operations of a training step and of an answer, by the papers' formulas."""

import dataclasses

import pytest

from pausejax.config import load_config, train_config
from pausejax.runtime import flops


def test_the_step_of_the_paper_needs_the_flops_of_the_formula():
  model = train_config(
    load_config("pretrain_c4:size=1b").to_dict()
  ).model_config(32_129)
  # 24 layers of 12 D^2, a head of 32,256 rows, half the square of attention.
  d, layers = 2048, 24
  matrices = layers * 12 * d * d + d * 32_256
  assert flops.per_token(model, 2048) == 6 * matrices + 6 * layers * 2048 * d
  # nanochat and llm-foundry count the whole square.
  full = flops.per_token(model, 2048, full_attention=True)
  assert full == 6 * matrices + 12 * layers * 2048 * d
  windows = dataclasses.replace(model, window=512, global_every=6)
  full = flops.per_token(windows, 2048, full_attention=True)
  assert full == 6 * matrices + 12 * d * (4 * 2048 + 20 * 512)
  causal = flops.per_token(windows, 2048)
  assert causal == 6 * matrices + 12 * d * (4 * 1024 + 20 * 448)


def test_an_answer_needs_the_forward_pass_and_deeper_models_as_much():
  tree = load_config("pretrain_c4:size=1b").to_dict()
  model = train_config(tree).model_config(32_129)
  d, layers = 2048, 24
  found = flops.of_answer(model, 100, 4)
  matrices = 2 * (100 * layers * 12 * d * d + 4 * d * 32_256)
  assert found == matrices + 4 * 100 * layers * 50 * d
  assert 3 * flops.of_answer(model, 7, 7) == 7 * flops.per_token(model, 7)
  # Ten pauses cost about two layers of 24 (the paper, section 4).
  assert flops.equal_layers(model, 120, 10) == 26
  assert flops.equal_layers(model, 120, 0) == 24
  deeper = dataclasses.replace(
    model, num_layers=flops.equal_layers(model, 120, 50)
  )
  ratio = flops.of_answer(deeper, 120, 1) / flops.of_answer(model, 170, 1)
  assert ratio == pytest.approx(1, abs=0.5 / 24)
  # Two loops over half of the layers cost the same.
  looped = dataclasses.replace(
    model, num_layers=flops.equal_layers(model, 120, 50, 2), num_loops=2
  )
  assert (looped.num_layers, looped.depth) == (17, deeper.num_layers)
  assert flops.of_answer(looped, 120, 1) == flops.of_answer(deeper, 120, 1)


def test_a_looped_model_has_the_flops_of_its_layers_in_all_loops():
  tree = load_config("pretrain_c4:size=1b").to_dict()
  tree["model"] |= dict(window=512, global_every=4)
  model = train_config(tree).model_config(32_129)
  looped = dataclasses.replace(model, num_layers=8, num_loops=3)
  for full in (False, True):
    count = lambda m, full=full: flops.per_token(m, 2048, full_attention=full)
    assert count(looped) == count(model)
