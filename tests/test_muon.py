"""Muon in this decoder: which matrices, one per layer, on every mesh."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import optimizer, sharding, train_state
from pausejax.checkpoints import leaves
from pausejax.config import LossConfig, MeshConfig, OptimConfig, default
from pausejax.training import step
from tests import models

SHAPE = dict(d_model=64, num_heads=8, num_kv_heads=4, d_ff=128, norm="rmsnorm")
# Input dimensions of each matrix after the stacked axis; the rest are outputs.
NUM_INPUTS = {"mix": 2}


def make(num_steps: int = 10, **kwargs):
  """Muon at the rate 1, without clipping and decay."""
  fields = default().optim.to_dict()
  fields |= dict(name="muon", kwargs=kwargs, learning_rate=1.0, clip_norm=0.0)
  fields |= dict(warmup_steps=0, schedule="constant")
  return optimizer.make_optimizer(OptimConfig(**fields), num_steps)


@functools.cache
def start():
  """A model with fewer heads for keys than for queries, and its gradients."""
  model = models.model(**SHAPE)
  rng = np.random.default_rng(3)
  draw = lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype)
  return model, jax.tree.map(draw, model)


@functools.cache
def first_update(**kwargs):
  """Returns {name: update} of the first step, as float64 arrays."""
  model, grads = start()
  made, _ = make(**kwargs)
  update = jax.jit(lambda g, m: made.update(g, made.init(m), m)[0])
  found = leaves.flatten(update(grads, model))
  return {n: np.asarray(x, np.float64) for n, x in found.items()}


def matrices(updates):
  """Yields (name, layer, two-dimensional update) of every block matrix."""
  for name, stack in updates.items():
    if name.startswith("blocks/") and name.endswith("/kernel"):
      inputs = NUM_INPUTS.get(name.split("/")[1], 1)
      for layer, x in enumerate(stack):
        yield name, layer, x.reshape(math.prod(x.shape[:inputs]), -1)


def test_each_layer_of_each_matrix_is_orthogonalized_alone():
  shapes = {name: x.shape for name, _, x in matrices(first_update())}
  assert shapes["blocks/query/kernel"] == (64, 64)
  assert shapes["blocks/key/kernel"] == (64, 32)
  assert shapes["blocks/mix/kernel"] == (64, 64)
  gradients = dict(leaves.flatten(start()[1]))
  pairs = zip(matrices(first_update()), matrices(gradients), strict=True)
  for (name, _, x_IO), (_, _, gradient_IO) in pairs:
    scale = math.sqrt(max(1.0, x_IO.shape[1] / x_IO.shape[0]))
    wanted = -scale * newton_schulz(np.asarray(gradient_IO, np.float64))
    np.testing.assert_allclose(x_IO, wanted, atol=1e-4, err_msg=name)


def newton_schulz(x_IO: np.ndarray) -> np.ndarray:
  """Five iterations of Keller Jordan's polynomial on the singular values."""
  u, values, vt = np.linalg.svd(x_IO, full_matrices=False)
  values /= np.linalg.norm(values)
  for _ in range(5):
    values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
  return u * values @ vt


def test_a_layer_does_not_depend_on_the_gradients_of_others():
  model, grads = start()
  made, _ = make()
  other = jax.tree.map(lambda x: x, grads)
  kernel = other.blocks.query.kernel
  kernel[...] = kernel[...].at[1].multiply(-7.0).at[1, 0].set(3.0)
  update = jax.jit(lambda g: made.update(g, made.init(model), model)[0])
  found = update(other).blocks.query.kernel[...]
  wanted = first_update()["blocks/query/kernel"]
  np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
  assert np.abs(found[1] - wanted[1]).max() > 0.01


def test_consistent_rms_gives_every_matrix_the_same_size():
  for name, _, x_IO in matrices(first_update(consistent_rms=0.2)):
    # Singular values are 0.7 to 1.2 after five iterations.
    assert math.sqrt((x_IO**2).mean()) == pytest.approx(0.2, rel=0.25), name


@pytest.mark.parametrize("axes", [(8, 1), (2, 4)])
def test_eight_devices_give_the_update_of_one(axes):
  model, grads = start()
  made, _ = make()
  config = MeshConfig(data=1, fsdp=axes[0], sequence=1, tensor=axes[1])
  with jax.set_mesh(sharding.make_mesh(config)):
    layout = sharding.shardings(model)
    place = lambda tree: jax.tree.map(jax.device_put, tree, layout)
    update = jax.jit(
      lambda g, m: made.update(g, made.init(m), m)[0],
      in_shardings=(layout, layout),
      out_shardings=layout,
    )
    found = leaves.flatten(update(place(grads), place(model)))
  for name, wanted in first_update().items():
    np.testing.assert_allclose(found[name], wanted, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_microbatches_give_the_same_step():
  made, schedule = make()
  model, _ = start()
  after = []
  for parts in (1, 4):
    train = functools.partial(
      step.train_step,
      optimizer=made,
      schedule=schedule,
      loss=LossConfig(num_chunks=1, z_loss=0.0),
      num_microbatches=parts,
      pause_id=models.PAUSE_ID,
    )
    state = train_state.fresh_state(model, made)
    after.append(jax.jit(train)(state, models.batch())[0].model)
  one, four = (dict(leaves.flatten(m)) for m in after)
  for (name, layer, a), (_, _, b) in zip(
    matrices(one), matrices(four), strict=True
  ):
    # Entries of an update are about 1 / 8; small singular values are noisy.
    difference = np.asarray(a) - np.asarray(b)
    assert np.abs(difference).max() < 0.01, (name, layer)
