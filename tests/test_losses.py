"""The chunked loss against the naive one, exact zeros, and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import losses, sharding
from pausejax.config import MeshConfig, default

B, T, D, VOCAB, ROWS = 2, 16, 8, 50, 64


@pytest.fixture
def inputs():
  keys = jax.random.split(jax.random.key(0), 4)
  x_BTD = jax.random.normal(keys[0], (B, T, D))
  head_DV = jax.random.normal(keys[1], (D, ROWS))
  targets_BT = jax.random.randint(keys[2], (B, T), 0, VOCAB)
  mask_BT = jax.random.bernoulli(keys[3], 0.7, (B, T))
  return x_BTD, head_DV, targets_BT, mask_BT


def padded(products):
  """Only `VOCAB` of the rows are ids."""
  return jnp.where(jnp.arange(ROWS) < VOCAB, products, -jnp.inf)


def capped(products):
  """A soft cap, as another model may have (Gemma Team, 2024)."""
  return padded(3.0 * jnp.tanh(products / 3.0))


def naive(
  x_BTD, head_DV, targets_BT, mask_BT, z_loss=0.0, finish=padded, bias=0.0
):
  """The definition: softmax over the ids that exist, summed over the mask."""
  logits_BTV = finish(x_BTD.astype(jnp.float32) @ head_DV + bias)[..., :VOCAB]
  log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  right_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
  objective_BT = log_z_BT - right_BT + z_loss * log_z_BT**2
  return jnp.sum(jnp.where(mask_BT, objective_BT, 0.0))


def chunked(*args, finish=padded, num_chunks=4, z_loss=0.0, bias=None):
  return losses.cross_entropy(
    *args,
    head_bias_V=bias,
    finish=finish,
    num_chunks=num_chunks,
    z_loss=z_loss,
  )


@pytest.mark.parametrize("num_chunks", [1, 4, 16])
@pytest.mark.parametrize("options", [{}, {"z_loss": 1e-2}, {"finish": capped}])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_value_and_gradients_equal_the_naive_loss(
  inputs, num_chunks, options, platform, monkeypatch
):
  monkeypatch.setattr(sharding, "platform", lambda: platform)
  ours = lambda x, w: chunked(
    x, w, *inputs[2:], num_chunks=num_chunks, **options
  )[0]
  theirs = lambda x, w: naive(x, w, *inputs[2:], **options)
  value, grads = jax.value_and_grad(ours, (0, 1))(*inputs[:2])
  wanted, wanted_grads = jax.value_and_grad(theirs, (0, 1))(*inputs[:2])
  # float32 sums in another order.
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  for a, b in zip(grads, wanted_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_bias_of_the_head(inputs):
  bias_V = jax.random.normal(jax.random.key(1), (ROWS,))
  x_BTD, head_DV, targets_BT, mask_BT = inputs
  of = lambda loss: jax.value_and_grad(
    lambda x, w, b: jnp.sum(
      loss(x, w, targets_BT, mask_BT, z_loss=1e-2, finish=capped, bias=b)
    ),
    (0, 1, 2),
  )(x_BTD, head_DV, bias_V)
  value, grads = of(lambda *args, **kwargs: chunked(*args, **kwargs)[0])
  wanted, wanted_grads = of(naive)
  # float32 sums in another order.
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  for a, b in zip(grads, wanted_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  assert grads[2][:VOCAB].all() and not grads[2][VOCAB:].any()


def test_value_without_gradient_is_the_same(inputs):
  value = chunked(*inputs)[0]
  under_grad = jax.value_and_grad(
    lambda x: chunked(x, *inputs[1:]), has_aux=True
  )(inputs[0])[0][0]
  assert value == under_grad


def test_token_losses_add_up_and_are_zero_where_ignored(inputs):
  objective, nll_BT = chunked(*inputs)
  # The same terms added in another order.
  np.testing.assert_allclose(nll_BT.sum(), objective, rtol=1e-6)
  assert (nll_BT[~inputs[3]] == 0).all()


def test_ignored_targets_contribute_exactly_zero(inputs):
  x_BTD, head_DV, targets_BT, mask_BT = inputs
  loss = lambda x, w, t: chunked(x, w, t, mask_BT)[0]
  dx_BTD, dhead_DV = jax.grad(loss, (0, 1))(x_BTD, head_DV, targets_BT)
  assert (dx_BTD[~mask_BT] == 0).all()
  assert (dx_BTD[mask_BT] != 0).any(axis=-1).all()
  other_BT = jnp.where(mask_BT, targets_BT, (targets_BT + 1) % VOCAB)
  again = jax.grad(loss, (0, 1))(x_BTD, head_DV, other_BT)
  assert (again[0] == dx_BTD).all() and (again[1] == dhead_DV).all()


def test_no_counted_targets_give_zero_loss_and_gradient(inputs):
  mask_BT = jnp.zeros((B, T), bool)
  loss = lambda x, w: chunked(x, w, inputs[2], mask_BT)[0]
  value, grads = jax.value_and_grad(loss, (0, 1))(*inputs[:2])
  assert value == 0 and all((g == 0).all() for g in grads)


def test_padded_rows_get_no_probability_and_no_gradient(inputs):
  x_BTD, head_DV, targets_BT, mask_BT = inputs
  loss = lambda w: chunked(x_BTD, w, targets_BT, mask_BT)[0]
  assert (jax.grad(loss)(head_DV)[:, VOCAB:] == 0).all()
  assert loss(head_DV) == loss(head_DV.at[:, VOCAB:].set(100.0))


def test_peak_memory_at_a_real_vocabulary_is_a_quarter_of_naive():
  batch, seq_len, d_model, vocab = 4, 512, 64, 32_000
  shape = jax.ShapeDtypeStruct
  args = (
    shape((batch, seq_len, d_model), jnp.float32),
    shape((d_model, vocab), jnp.float32),
    shape((batch, seq_len), jnp.int32),
    shape((batch, seq_len), jnp.bool_),
  )
  ours = functools.partial(
    losses.cross_entropy, finish=lambda x: x, num_chunks=16, z_loss=0.0
  )

  def plain(x, w, targets, mask):
    log_p_BTV = jax.nn.log_softmax(x @ w)
    nll_BT = -jnp.take_along_axis(log_p_BTV, targets[..., None], -1)[..., 0]
    return jnp.sum(jnp.where(mask, nll_BT, 0.0))

  def temporary_bytes(loss):
    step = jax.jit(jax.grad(loss, (0, 1)))
    return step.lower(*args).compile().memory_analysis().temp_size_in_bytes

  full_logits = batch * seq_len * vocab * 4
  small = temporary_bytes(lambda *a: ours(*a)[0])
  assert small < 0.25 * temporary_bytes(plain)
  assert small < 0.25 * full_logits


def test_one_pass_over_the_logits_gives_the_same_normalizer():
  rng = np.random.default_rng(0)
  logits_BCV = rng.normal(size=(2, 3, 1000)).astype(np.float32)
  logits_BCV[0] *= 1000
  logits_BCV[1, 0] = 3e38  # Its exponential overflows.
  logits_BCV[1, 1, 10:] = -np.inf
  found_BC = losses._log_sum_exp_in_one_pass(jnp.asarray(logits_BCV))
  wanted_BC = np.logaddexp.reduce(logits_BCV.astype(np.float64), axis=-1)
  np.testing.assert_allclose(found_BC, wanted_BC, rtol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_one_pass_does_not_hide_a_logit_that_is_not_finite(wrong):
  logits_BCV = np.zeros((1, 2, 9), np.float32)
  logits_BCV[0, 1, 4] = wrong
  found_BC = losses._log_sum_exp_in_one_pass(jnp.asarray(logits_BCV))
  assert np.isfinite(found_BC).tolist() == [[True, False]]


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_one_pass_on_a_mesh_equals_the_naive_loss(inputs, axis, monkeypatch):
  wanted = jax.grad(naive, (0, 1))(*inputs)
  config = MeshConfig(**default().mesh.to_dict() | {"data": 1, axis: 2})
  monkeypatch.setattr(sharding, "platform", lambda: "gpu")
  with jax.set_mesh(sharding.make_mesh(config, jax.devices()[:2])):
    x_BTD, head_DV, targets_BT, mask_BT = inputs
    x_BTD = jax.device_put(x_BTD, sharding.spec("batch"))
    head_DV = jax.device_put(head_DV, sharding.spec("embed", "vocab"))
    objective = lambda x, w: chunked(x, w, targets_BT, mask_BT)[0]
    found = jax.jit(jax.grad(objective, (0, 1)))(x_BTD, head_DV)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
