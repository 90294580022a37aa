"""Products with weights: plain gradients, summed in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import sharding
from pausejax.config import MeshConfig
from pausejax.model import decoder, products
from pausejax.preflight import collectives
from tests import models


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
  ("x_shape", "kernel_shape"),
  [((2, 3, 4), (4, 5)), ((2, 3, 6), (6, 2)), ((7, 3), (3, 5))],
)
def test_dense_has_the_plain_gradients(x_shape, kernel_shape, has_bias):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], x_shape)
  kernel = jax.random.normal(keys[1], kernel_shape)
  bias = jax.random.normal(keys[2], kernel_shape[1:]) if has_bias else None

  def plain(x, kernel, bias):
    y = x @ kernel
    return jnp.sum(jnp.sin(y if bias is None else y + bias))

  ours = lambda *args: jnp.sum(jnp.sin(products.dense(*args)))
  found = jax.value_and_grad(ours, (0, 1, 2))(x, kernel, bias)
  wanted = jax.value_and_grad(plain, (0, 1, 2))(x, kernel, bias)
  # The same float32 sums, perhaps in another order.
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", [None, "TPU v5 lite"])
def test_small_terms_of_a_bfloat16_gradient_are_not_lost(device, monkeypatch):
  monkeypatch.setattr(sharding, "device_kind", lambda: device)
  count = 1_000  # In bfloat16, 256 + 1 is 256.
  x = jnp.ones((count, 4), jnp.bfloat16)
  total = functools.partial(jnp.sum, dtype=jnp.float32)
  dense = lambda w, b: total(products.dense(x, w, b))
  for grad in jax.grad(dense, (0, 1))(jnp.ones((4, 2)), jnp.ones((1, 2))):
    assert grad.dtype == jnp.float32 and (grad == count).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_tpu_the_bias_of_heads_has_the_same_gradient(dtype, monkeypatch):
  rng = np.random.default_rng(0)
  x, dy = (jnp.asarray(rng.normal(size=(2, 64, n)), dtype) for n in (4, 6))

  def gradient():
    dense = lambda b: products.dense(x, jnp.ones((4, 6)), b)
    return jax.vjp(dense, jnp.zeros((3, 2)))[1](dy)[0]

  plain = gradient()
  monkeypatch.setattr(sharding, "device_kind", lambda: "TPU v5 lite")
  # Float32 sums of 128 terms in another order.
  np.testing.assert_allclose(gradient(), plain, rtol=1e-5, atol=1e-5)


def test_fsdp_gathers_bfloat16_and_reduces_float32(tmp_path):
  config = models.model_config(
    d_model=128, d_ff=256, dtype="bfloat16", remat="names"
  )
  mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8, sequence=1, tensor=1))
  model = jax.eval_shape(functools.partial(decoder.init, config, 0))
  with jax.set_mesh(mesh):
    model = sharding.placed(model)
    batch = sharding.put_batch(models.batch())

    def gradient(model, batch):
      loss = lambda model: jnp.sum(models.apply(model, batch) ** 2)
      return jax.grad(loss)(model)

    # The CPU's own passes turn bfloat16 into float32 later.
    jax.jit(gradient).lower(model, batch).compile(
      {
        "xla_dump_to": str(tmp_path),
        "xla_dump_hlo_pass_re": "spmd-partitioning",
      }
    )
  (dump,) = tmp_path.glob("*gradient*after_spmd-partitioning*")
  sent = {
    (dtype, found.kind)
    for found in collectives.collectives(dump.read_text())
    for dtype, _ in found.arrays
    if found.kind in ("all-gather", "all-reduce") and dtype != "s32"
    # A sum over an axis of one device sends nothing.
    if len(found.groups) < 8
  }
  assert sent == {("bf16", "all-gather"), ("f32", "all-reduce")}
