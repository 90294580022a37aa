"""Norms and activations equal their definitions, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax.model import layers

SHAPE = (2, 5, 3, 8)  # As of heads; the last axis is normalized.


def _rms_norm(x, scale, bias):
  del bias
  return layers.rms_norm(x, scale, 1e-3)


def _layer_norm(x, scale, bias):
  return layers.layer_norm(x, scale, bias, 1e-3)


def _no_bias(x, scale, bias):
  del bias
  return layers.layer_norm(x, scale, None, 1e-3)


def _defined(x, scale, bias, *, is_centered, has_bias):
  """Returns the norm by its formula, which JAX differentiates."""
  if is_centered:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
  x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)
  return x * scale + (bias if has_bias else 0.0)


NORMS = {
  "rms": (_rms_norm, dict(is_centered=False, has_bias=False)),
  "layer": (_layer_norm, dict(is_centered=True, has_bias=True)),
  "layer without bias": (_no_bias, dict(is_centered=True, has_bias=False)),
}


def _arrays(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(2.0, 3.0, SHAPE), dtype)
  scale, bias = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in "ab")
  return x, scale, bias, jnp.asarray(rng.normal(size=SHAPE), dtype)


def _value_and_grads(function, *args, weights):
  """Returns the function's value and the gradients of a weighted sum of it."""

  def total(*args):
    y = function(*args)
    return jnp.sum(y.astype(jnp.float32) * weights), y

  every = tuple(range(len(args)))
  grads, y = jax.jit(jax.grad(total, every, has_aux=True))(*args)
  return y, *grads


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_and_its_gradients_equal_the_formula(name):
  norm, form = NORMS[name]
  *args, weights = _arrays()
  found = _value_and_grads(norm, *args, weights=weights)
  formula = functools.partial(_defined, **form)
  wanted = _value_and_grads(formula, *args, weights=weights)
  for x, y in zip(found, wanted, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_bfloat16_computes_in_float32(name):
  norm, form = NORMS[name]
  x, *parameters, weights = _arrays(jnp.bfloat16)
  found = _value_and_grads(norm, x, *parameters, weights=weights)
  assert found[0].dtype == found[1].dtype == jnp.bfloat16
  formula = functools.partial(_defined, **form)
  exact = (x.astype(jnp.float32), *parameters)
  wanted = _value_and_grads(formula, *exact, weights=weights)
  # Rounded once, to 8 bits: the output, and the gradient that comes into it.
  for x, y in zip(found, wanted, strict=True):
    assert jnp.linalg.norm(x - y) <= 2**-7 * jnp.linalg.norm(y)


def test_a_constant_vector_has_a_finite_gradient():
  _, scale, bias, weights = _arrays()
  grads = _value_and_grads(
    _layer_norm, jnp.full(SHAPE, 7.0), scale, bias, weights=weights
  )
  assert all(jnp.isfinite(x).all() for x in grads)


def _swiglu(gate, expanded):
  return jax.nn.silu(gate) * expanded


FUNCTIONS = {
  "gelu": (jax.nn.gelu, 1),
  "exact gelu": (functools.partial(jax.nn.gelu, approximate=False), 1),
  "swiglu": (_swiglu, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_and_its_gradients_equal_the_function(name):
  function, num_args = FUNCTIONS[name]
  x, _, _, y = _arrays()
  args = (x, y)[:num_args]
  applied = functools.partial(layers.pointwise, function)
  found = _value_and_grads(applied, *args, weights=x)
  wanted = _value_and_grads(function, *args, weights=x)
  for x, y in zip(found, wanted, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_of_bfloat16_computes_in_float32(name):
  function, num_args = FUNCTIONS[name]
  x, _, _, y = _arrays(jnp.bfloat16)
  args = (x, y)[:num_args]
  applied = functools.partial(layers.pointwise, function)
  found = _value_and_grads(applied, *args, weights=x)
  exact = [x.astype(jnp.float32) for x in args]
  wanted = _value_and_grads(function, *exact, weights=x)
  # The slope and its product with the weight are rounded; tanh has an error.
  for x, y in zip(found, wanted, strict=True):
    np.testing.assert_allclose(x.astype(jnp.float32), y, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_keeps_its_arguments_alone(name):
  function, num_args = FUNCTIONS[name]
  args = _arrays(jnp.bfloat16)[0:4:3][:num_args]
  _, pull_back = jax.vjp(functools.partial(layers.pointwise, function), *args)
  kept = [x for x in jax.tree.leaves(pull_back) if x.shape == SHAPE]
  assert len(kept) == num_args
