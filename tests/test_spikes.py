"""Spikes are found as in numpy, skipped without a trace, and saved."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import optimizer, spikes, train_state
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, LossConfig, OptimConfig, default
from pausejax.training import step
from tests import models
from tests.test_sharding import one_device_mesh

LOSS = LossConfig(num_chunks=4, z_loss=0.0)
KEEP = CheckpointConfig(every=1, keep=2, keep_period=0, keep_best=0)


@functools.cache
def made():
  fields = default().optim.to_dict()
  return optimizer.make_optimizer(OptimConfig(**fields), 200)


@functools.cache
def make_step(sigma: float):
  return jax.jit(
    functools.partial(
      step.train_step,
      optimizer=made()[0],
      schedule=made()[1],
      loss=LOSS,
      num_microbatches=1,
      pause_id=models.PAUSE_ID,
      skip_spikes=sigma,
    )
  )


def start(*, finds_spikes: bool) -> train_state.TrainState:
  return train_state.fresh_state(
    models.model(), made()[0], finds_spikes=finds_spikes
  )


def filled(losses, grad_norms) -> spikes.SpikeWindow:
  window = spikes.empty_window()
  for loss, norm in zip(losses, grad_norms, strict=True):
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    window = window.added(jnp.float32(loss), jnp.float32(norm), finite)
  return window


@pytest.mark.parametrize("count", [63, 64, 100, 128, 200])
def test_a_spike_is_more_than_sigma_deviations_above_the_last_128(count):
  rng = np.random.default_rng(count)
  losses = rng.normal(3.0, 0.1, count).astype(np.float32)
  norms = rng.normal(1.0, 0.2, count).astype(np.float32)
  window = filled(losses, norms)
  usual = losses[-128:].mean(), norms[-128:].mean()
  for which, values in enumerate((losses[-128:], norms[-128:])):
    limit = values.mean() + 6 * values.std(ddof=1)
    for factor, is_above in ((0.999, False), (1.001, True)):
      loss, norm = (
        jnp.float32(limit * factor if i == which else usual[i]) for i in (0, 1)
      )
      expected = is_above and count >= 64
      assert bool(window.is_spike(loss, norm, 6.0)) == expected


def test_the_window_keeps_spikes_and_leaves_out_what_is_not_finite():
  window = filled([1.0, np.nan, 50.0, 2.0], [1.0, 1.0, 1.0, np.inf])
  assert int(window.count) == 2
  assert window.losses_N[:2].tolist() == [1.0, 50.0]
  assert not window.losses_N[2:].any() and not window.grad_norms_N[2:].any()


def parameters_and_moments(state):
  return jax.tree.leaves((state.model, state.opt_state))


def assert_same(a, b):
  for x, y in zip(
    parameters_and_moments(a), parameters_and_moments(b), strict=True
  ):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_run_that_skips_spikes_is_one_without_their_batches():
  batches = [models.batch(seed) for seed in range(90)]
  skipping, state = make_step(1.5), start(finds_spikes=True)
  used, window = [], None
  for number, batch in enumerate(batches):
    state, metrics = skipping(state, batch)
    assert metrics["spike"] == metrics["skipped"]
    if not metrics["spike"]:
      used.append(number)
    if number == 70:
      window = state.spikes
  assert window is not None and int(window.count) == 71
  assert 0 < int(state.num_skipped) == 90 - len(used) < 26
  plain, expected = make_step(0.0), start(finds_spikes=False)
  for number in used:
    expected, metrics = plain(expected, batches[number])
    assert "spike" not in metrics
  assert_same(state, expected)
  assert int(state.step) == 90 and int(expected.step) == len(used)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_no_spike():
  state = start(finds_spikes=True)
  state = dataclasses.replace(state, spikes=filled([1.0] * 64, [1.0] * 64))
  state.model.final_norm.scale[...] *= jnp.nan
  after, metrics = make_step(6.0)(state, models.batch())
  assert metrics["skipped"] == 1 and metrics["spike"] == 0
  assert int(after.spikes.count) == 64


def saved_and_restored(folder, state, abstract):
  with jax.set_mesh(one_device_mesh()):
    store = Store(folder, KEEP)
    number = int(state.step)
    position = {"position.json": b'{"step": %d}' % number}
    store.save(state, data=position, meta={})
    store.close()
    restored = Store(folder, KEEP).restore(abstract)
  assert restored is not None
  return restored.state


@pytest.mark.slow
@pytest.mark.parametrize(
  ("before", "after"), [(True, True), (True, False), (False, True)]
)
def test_a_resumed_run_may_begin_or_cease_to_skip_spikes(
  tmp_path, before, after
):
  with jax.set_mesh(one_device_mesh()):
    abstract = train_state.abstract(
      models.model_config(), made()[0], finds_spikes=after
    )
    layout = jax.tree.map(
      lambda x: x.sharding,
      train_state.abstract(
        models.model_config(), made()[0], finds_spikes=before
      ),
    )
    state = start(finds_spikes=before)
    if before:
      state = dataclasses.replace(state, spikes=filled([1.0, 2.0], [3.0, 4.0]))
    state = jax.device_put(state, layout)
  restored = saved_and_restored(tmp_path / "checkpoints", state, abstract)
  assert_same(restored, state)
  assert (restored.spikes is not None) == after
  if after:
    expected = state.spikes if before else spikes.empty_window()
    for x, y in zip(
      jax.tree.leaves(restored.spikes), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_array_equal(x, y)
