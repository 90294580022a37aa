"""Optimizers by name, their schedules, and what weight decay touches."""

import jax
import numpy as np
import optax
import pytest

from configs import base
from pausejax import errors, optimizer, settings
from tests import models


def config(**changes) -> settings.OptimConfig:
  fields = {**base.get_config().optim.to_dict(), "warmup_steps": 0, **changes}
  return settings.OptimConfig(**fields)


@pytest.mark.parametrize(
  ("name", "kwargs"),
  [
    ("adamw", {"b1": 0.9, "weight_decay": 0.1}),
    ("lion", {"weight_decay": 0.1}),
    ("adafactor", {}),
    ("sgd", {"momentum": 0.9}),
    ("muon", {}),
  ],
)
def test_any_optax_optimizer_moves_the_parameters(name, kwargs):
  made, _ = optimizer.make(config(name=name, kwargs=kwargs), 10)
  model = models.model()

  @jax.jit
  def step(model):
    grads = jax.tree.map(lambda x: x + 0.01, model)
    updates, _ = made.update(grads, made.init(model), model)
    return optax.apply_updates(model, updates)

  moved = step(model)
  assert all(
    np.isfinite(a).all() and (a != b).any()
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(model), strict=True)
  )


def test_weight_decay_touches_matrices_only():
  model = models.model()
  decayed = optimizer.decay_mask(("heads", "kv_heads", "mlp", "vocab"))(model)
  is_decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/"): flag
    for path, flag in jax.tree_util.tree_flatten_with_path(decayed)[0]
  }
  for name, flag in is_decayed.items():
    is_matrix = "kernel" in name or "head" in name or name.startswith("embed")
    assert flag == is_matrix, name


def test_only_decayed_parameters_shrink_under_zero_gradients():
  kwargs = {"weight_decay": 0.5}
  made, _ = optimizer.make(config(name="adamw", kwargs=kwargs), 10)
  model = models.model()
  zeros = jax.tree.map(lambda x: 0 * x, model)
  updates, _ = jax.jit(made.update)(zeros, made.init(model), model)
  assert (updates.blocks.query.kernel[...] != 0).all()
  assert (updates.blocks.query.bias[...] == 0).all()
  assert (updates.final_norm.scale[...] == 0).all()


@pytest.mark.parametrize("schedule", ["cosine", "rsqrt", "wsd", "constant"])
def test_schedules_warm_up_to_the_peak_and_never_exceed_it(schedule):
  made = optimizer.make_schedule(
    config(
      schedule=schedule,
      learning_rate=0.5,
      warmup_steps=5,
      decay_steps=10,
      final_fraction=0.2,
    ),
    50,
  )
  rates = np.asarray(jax.jit(jax.vmap(made))(np.arange(51)))
  assert rates[0] > 0
  assert rates[4] == pytest.approx(0.5) and rates.max() <= 0.5 + 1e-7
  assert (np.diff(rates[:5]) > 0).all() and (np.diff(rates[5:]) <= 1e-8).all()


def test_schedules_end_where_they_say():
  def last(schedule):
    fields = dict(schedule=schedule, learning_rate=1.0, warmup_steps=4)
    fields |= dict(decay_steps=10, final_fraction=0.1)
    return optimizer.make_schedule(config(**fields), 100)

  assert float(last("cosine")(100)) == pytest.approx(0.1)
  assert float(last("wsd")(89)) == pytest.approx(1.0)
  assert float(last("wsd")(100)) == pytest.approx(0.1)
  # Four times the warm-up: half the peak.
  assert float(last("rsqrt")(16)) == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    ({"name": "adamm"}, "did you mean 'adam"),
    ({"kwargs": {"b3": 0.5}}, "optim.kwargs: optax.adamw takes no 'b3'"),
    ({"kwargs": {"learning_rate": 0.5}}, "takes no 'learning_rate'"),
    ({"schedule": "wsd", "decay_steps": 11}, "decay_steps 11"),
  ],
)
def test_user_errors_are_one_line(changes, fragment):
  with pytest.raises(errors.UsageError) as caught:
    optimizer.make(config(**changes), 10)
  assert fragment in str(caught.value) and "\n" not in str(caught.value)
