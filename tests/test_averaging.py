"""The average of the parameters: its formula, and where it is kept."""

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


def trained(decay: float, batches):
  """Returns the state before and after each step on these batches."""
  fields = default().optim.to_dict()
  fields |= dict(warmup_steps=2, learning_rate=1e-2, ema_decay=decay)
  made, schedule = optimizer.make_optimizer(OptimConfig(**fields), 10)
  train = jax.jit(
    functools.partial(
      step.train_step,
      optimizer=made,
      schedule=schedule,
      loss=LossConfig(num_chunks=4, z_loss=0.0),
      num_microbatches=1,
      pause_id=models.PAUSE_ID,
      ema_decay=decay,
    )
  )
  state = train_state.fresh_state(models.model(), made, has_average=decay > 0)
  states = [state]
  for batch in batches:
    state, _ = train(state, batch)
    states.append(state)
  return states


def test_the_average_is_the_closed_form_and_a_skipped_step_leaves_it():
  decay = 0.9
  batches = [models.batch(i) for i in range(5)]
  states = trained(decay, batches)
  number = len(batches)
  weights = decay ** np.arange(number - 1, -1, -1.0)
  for name, found in leaves.flatten(states[-1].average).items():
    each = [leaves.flatten(s.model)[name] for s in states[1:]]
    wanted = np.tensordot(weights, np.asarray(each, np.float64), 1)
    np.testing.assert_allclose(
      found, wanted / weights.sum(), rtol=1e-5, atol=1e-6
    )
  assert not same(states[-1].average, states[-1].model)
  # The first step's parameters have all the weight: the initial ones have none.
  first = states[1]
  pairs = map(jax.tree.leaves, (first.average, first.model))
  for a, b in zip(*pairs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_step_that_is_skipped_does_not_count_in_the_average():
  ones = jax.tree.map(jnp.ones_like, models.model())
  twos = jax.tree.map(lambda x: 2 * x, ones)
  one = train_state.updated_average(twos, ones, jnp.asarray(1), 0.99)
  assert max(float(jnp.abs(x - 1).max()) for x in jax.tree.leaves(one)) < 1e-6
  fields = default().optim.to_dict() | dict(ema_decay=0.5)
  made, schedule = optimizer.make_optimizer(OptimConfig(**fields), 10)
  start = train_state.fresh_state(models.model(), made, has_average=True)
  start.model.final_norm.scale[...] = (
    start.model.final_norm.scale[...].at[0].set(jnp.nan)
  )
  after, metrics = step.train_step(
    start,
    models.batch(),
    optimizer=made,
    schedule=schedule,
    loss=LossConfig(num_chunks=4, z_loss=0.0),
    num_microbatches=1,
    pause_id=models.PAUSE_ID,
    ema_decay=0.5,
  )
  assert metrics["skipped"] == 1
  assert same(after.average, start.average)


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
