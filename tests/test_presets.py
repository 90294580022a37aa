"""The recipes of configs/pretrain_c4.py: what they set, and that they learn."""

import functools

import jax
import numpy as np
import pytest

from pausejax import optimizer, schedules
from pausejax.config import LossConfig, default, load_config, train_config
from pausejax.training import step
from tests import models

RECIPES = [(o, s) for o in ("adamw", "muon") for s in ("130m", "1b", "tiny")]


def test_the_default_is_the_paper_and_sets_nothing_else():
  c = load_config("pretrain_c4")
  assert c.to_dict() == load_config("pretrain_c4:optimizer=paper").to_dict()
  plain = default().optim
  assert (c.optim.name, c.optim.schedule) == (plain.name, plain.schedule)
  assert c.optim.kwargs.to_dict() == plain.kwargs.to_dict()
  assert (c.batch_size, c.num_steps, c.optim.warmup_steps) == (
    1024,
    95_368,
    1_907,
  )


@pytest.mark.parametrize(("name", "size"), RECIPES)
def test_a_recipe_is_for_the_length_of_its_source(name, size):
  c = load_config(f"pretrain_c4:size={size},optimizer={name}")
  run = train_config(c.to_dict())
  # 8 times 20 tokens per parameter outside the embeddings.
  parameters = {"1b": 1_207_959_552}.get(size, 134_217_728)
  tokens = run.num_steps * run.batch_size * run.data.seq_len
  assert tokens == 160 * parameters
  assert run.optim.name == name and run.optim.final_fraction == 0.0
  paper = load_config(f"pretrain_c4:size={size}").model.to_dict()
  assert c.model.to_dict() == paper


@pytest.mark.parametrize(
  ("recipe", "rates"),
  [
    # levanter's schedules have the rates of the warm-up one step later, from 0.
    (
      "size=130m,optimizer=adamw",
      {0: 2e-6, 1: 4e-6, 199: 4e-4, 1999: 0.004, 11_240: 0.002, 20_480: 0.0},
    ),
    (
      "size=1b,optimizer=adamw",
      {0: 2e-6, 199: 4e-4, 999: 0.002, 92_660: 0.001, 184_320: 0.0},
    ),
    ("size=130m,optimizer=muon", {0: 0.008, 10_240: 0.004, 20_480: 0.0}),
    ("size=1b,optimizer=muon", {0: 0.004, 92_160: 0.002, 184_320: 0.0}),
  ],
)
def test_the_rates_of_a_recipe_are_those_of_its_source(recipe, rates):
  c = train_config(load_config(f"pretrain_c4:{recipe}").to_dict())
  schedule = schedules.make_schedule(c.optim, c.num_steps)
  for number, rate in rates.items():
    assert float(schedule(number)) == pytest.approx(rate, rel=1e-4, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), RECIPES[:-1])
def test_the_first_steps_of_a_recipe_learn_without_spikes(name, size):
  c = load_config(f"pretrain_c4:size={size},optimizer={name}")
  made, schedule = optimizer.make_optimizer(
    train_config(c.to_dict()).optim, c.num_steps
  )
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LossConfig(num_chunks=1, z_loss=0.0),
    num_microbatches=1,
    pause_id=models.PAUSE_ID,
  )
  train, losses = jax.jit(train), []
  state = models.train_state(made)
  for number in range(40):
    state, metrics = train(state, text_batch(number))
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and not int(state.num_skipped)
  assert losses[-1] < losses[0] - 0.02
  lowest = np.minimum.accumulate(losses)
  assert (losses - lowest).max() < 0.3


def text_batch(number: int):
  """A batch in which each token follows from the one before it."""
  batch = models.batch(number)
  starts = np.random.default_rng(number).integers(0, 50, len(batch["tokens"]))
  ids_BT = (starts[:, None] + np.arange(batch["tokens"].shape[1] + 1)) % 50
  batch["tokens"] = ids_BT[:, :-1].astype(np.int32)
  batch["targets"] = ids_BT[:, 1:].astype(np.int32)
  batch["loss_mask"] = np.ones_like(batch["loss_mask"])
  return batch
