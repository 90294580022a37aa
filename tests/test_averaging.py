"""The average of the parameters: its formula, and where it is kept."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import errors, optimizer, sharding, train_state
from pausejax.checkpoints import leaves, saved_run
from pausejax.config import LossConfig, OptimConfig, default
from pausejax.training import step
from tests import models, runs


def make_step(decay: float):
  """Returns the jitted step of a run with an average, and its first state."""
  fields = default().optim.to_dict()
  fields |= dict(warmup_steps=2, learning_rate=1e-2, ema_decay=decay)
  made, schedule = optimizer.make_optimizer(OptimConfig(**fields), 10)
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LossConfig(num_chunks=4, z_loss=0.0),
    num_microbatches=1,
    pause_id=models.PAUSE_ID,
    ema_decay=decay,
  )
  start = train_state.fresh_state(models.model(), made, has_average=True)
  return jax.jit(train), start


@pytest.mark.slow
def test_the_average_is_the_closed_form_without_skipped_steps():
  decay, trained = 0.9, []
  train, state = make_step(decay)
  for number in range(5):
    if number == 2:
      state = skipped(train, state)
    state, _ = train(state, models.batch(number))
    trained.append(leaves.flatten(state.model))
    if number == 0:  # The initial parameters have no weight.
      for name, found in leaves.flatten(state.average).items():
        np.testing.assert_allclose(found, trained[0][name], atol=1e-6)
  weights = decay ** np.arange(4, -1, -1.0)
  for name, found in leaves.flatten(state.average).items():
    each = np.asarray([named[name] for named in trained], np.float64)
    wanted = np.tensordot(weights, each, 1) / weights.sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  assert not same(state.average, state.model)


def skipped(train, state):
  """Returns the state after a step that is not finite, which is skipped."""
  poisoned = jax.tree.map(lambda x: x, state)
  poisoned.model.final_norm.scale[...] *= np.nan
  after, metrics = train(poisoned, models.batch())
  assert metrics["skipped"] == 1 and same(after.average, state.average)
  return dataclasses.replace(after, model=state.model)


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.9999999])
def test_parameters_that_do_not_change_are_their_own_average(decay):
  model = models.model()
  average = model
  for count in (1, 2, 1000, 10**6):
    average = train_state.updated_average(
      average, model, jnp.asarray(count), decay
    )
  assert same(average, model)
  weight = lambda n: float(
    jax.tree.leaves(
      train_state.updated_average(
        {"x": jnp.zeros(())}, {"x": jnp.ones(())}, jnp.asarray(n), decay
      )
    )[0]
  )
  # 1 - decay^n in float32 would be wrong by up to 100% here.
  exact = (1 - np.float64(decay)) / -np.expm1(10 * np.log(np.float64(decay)))
  assert weight(10) == pytest.approx(exact, rel=1e-5)


def same(a, b) -> bool:
  pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
  return all((np.asarray(x) == np.asarray(y)).all() for x, y in pairs)


def test_without_an_average_the_state_is_what_it_was():
  made, _ = optimizer.make_optimizer(OptimConfig(**default().optim), 10)
  names = leaves.flatten(models.train_state(made))
  assert not [n for n in names if n.startswith("average")]
  assert {n.partition("/")[0] for n in names} == {
    "step",
    "num_skipped",
    "model",
    "opt_state",
  }


def test_the_average_is_saved_and_read_in_place_of_the_parameters(tmp_path):
  workdir = runs.save_run(tmp_path / "run", has_average=True)
  with jax.set_mesh(sharding.data_mesh()):
    plain, average = (
      saved_run.find_run(workdir, average=flag) for flag in (False, True)
    )
    assert same(plain.load(), models.random_model(plain.model, 0))
    assert same(average.load(), models.random_model(plain.model, 1))
  assert plain.results_folder("x").name == "x"
  assert average.results_folder("x").name == "x_average"


def test_a_run_without_an_average_is_refused_in_one_line(tmp_path):
  workdir = runs.save_run(tmp_path / "run")
  with pytest.raises(errors.UsageError, match="--average: step 0 of") as e:
    saved_run.find_run(workdir, average=True)
  assert "\n" not in str(e.value) and "optim.ema_decay" in str(e.value)
