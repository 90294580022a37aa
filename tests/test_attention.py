"""Attention: every kernel that runs here equals plain softmax attention."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import errors
from pausejax.model import attention

# float32 sums of up to 256 terms in another order.
TOLERANCE = dict(rtol=2e-5, atol=2e-6)


def _inputs(num_tokens, num_heads=4, num_kv_heads=4, head_dim=16):
  rng = np.random.default_rng(0)
  draw = lambda n: jnp.asarray(
    rng.normal(size=(2, num_tokens, n, head_dim)), jnp.float32
  )
  return draw(num_heads), draw(num_kv_heads), draw(num_kv_heads)


def _reference(
  q_BTNH, k_BTKH, v_BTKH, segment_ids_BT=None, in_prefix_BT=None, window=None
):
  """Softmax over the whole square, from the mask's definition."""
  repeats = q_BTNH.shape[2] // k_BTKH.shape[2]
  k_BTNH, v_BTNH = (jnp.repeat(x, repeats, axis=2) for x in (k_BTKH, v_BTKH))
  scores = jnp.einsum("btnh,bsnh->bnts", q_BTNH, k_BTNH)
  mask = attention.attention_mask(
    q_BTNH.shape[1], segment_ids_BT, in_prefix_BT, window
  )
  scores = scores / np.sqrt(q_BTNH.shape[3])
  p = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf))
  return jnp.einsum("bnts,bsnh->btnh", p, v_BTNH)


def _segments(num_tokens):
  """One row of a single segment, one of three and padding."""
  ids = np.ones((2, num_tokens), np.int32)
  ids[1] = np.repeat([1, 2, 3, 0], num_tokens // 4)
  return ids


def _assert_same(one, other, inputs):
  """Asserts that values and all gradients agree."""

  def both(attend):
    objective = lambda *qkv: jnp.sum(jnp.sin(attend(*qkv)))
    return attend(*inputs), jax.grad(objective, argnums=(0, 1, 2))(*inputs)

  for found, wanted in zip(
    jax.tree.leaves(jax.jit(lambda: both(one))()),
    jax.tree.leaves(jax.jit(lambda: both(other))()),
    strict=True,
  ):
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
  "num_tokens", [32, 256], ids=["one block", "four blocks"]
)
def test_xla_equals_the_reference(num_tokens, packed, num_kv_heads):
  given = dict(
    segment_ids_BT=_segments(num_tokens) if packed else None, in_prefix_BT=None
  )
  _assert_same(
    functools.partial(attention.attend, kind="xla", **given),
    functools.partial(_reference, **given),
    _inputs(num_tokens, num_kv_heads=num_kv_heads),
  )


def test_xla_equals_the_reference_with_a_bidirectional_prefix():
  t = np.arange(256)
  given = dict(
    segment_ids_BT=_segments(256), in_prefix_BT=np.stack([t < 100, t % 64 < 9])
  )
  _assert_same(
    functools.partial(attention.attend, kind="xla", **given),
    functools.partial(_reference, **given),
    _inputs(256),
  )


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("window", [1, 70, 256])
def test_xla_with_a_window_equals_the_reference(window, prefix):
  in_prefix_BT = np.stack([np.arange(256) < 100] * 2) if prefix else None
  given = dict(segment_ids_BT=_segments(256), in_prefix_BT=in_prefix_BT)
  _assert_same(
    # Traced, as in a scan over layers that differ.
    lambda q, k, v: attention.attend(
      q, k, v, kind="xla", window=jnp.int32(window), **given
    ),
    functools.partial(_reference, window=window, **given),
    _inputs(256),
  )


def test_a_window_of_one_gives_each_position_its_own_value():
  q, k, v = _inputs(32)
  np.testing.assert_allclose(attention.attend(q, k, v, window=1), v, rtol=1e-6)


@pytest.mark.slow
def test_splash_with_a_window_equals_the_reference():
  _assert_same(
    lambda q, k, v: attention._splash(
      q, k, v, None, None, window=100, interpret=True
    ),
    functools.partial(_reference, window=100),
    _inputs(256, num_heads=2, num_kv_heads=2, head_dim=64),
  )


@pytest.mark.slow
@pytest.mark.parametrize("num_kv_heads", [2, 1])
def test_splash_equals_the_reference(num_kv_heads):
  # The Pallas kernel, interpreted: what a TPU would compute.
  ids = jnp.asarray(_segments(256))
  _assert_same(
    lambda q, k, v: attention._splash(q, k, v, ids, None, interpret=True),
    functools.partial(_reference, segment_ids_BT=ids, in_prefix_BT=None),
    _inputs(256, num_heads=2, num_kv_heads=num_kv_heads, head_dim=64),
  )


def test_no_product_of_bfloat16_inputs_multiplies_float32():
  q, k, v = (x.astype(jnp.bfloat16) for x in _inputs(64))
  total = lambda q, k, v: jnp.sum(attention.attend(q, k, v, kind="xla"))
  text = str(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(q, k, v))
  products = re.findall(r"dot_general\[.*?\] (\w+) (\w+)", text, re.DOTALL)
  kinds = dict(re.findall(r"\b(\w+):(\w+)\[", text))
  assert len(products) >= 6  # Two forward, four backward.
  assert {kinds[name] for pair in products for name in pair} == {"bf16"}


def test_auto_is_xla_on_a_cpu():
  q, k, v = _inputs(32)
  np.testing.assert_array_equal(
    attention.attend(q, k, v), attention.attend(q, k, v, kind="xla")
  )


@pytest.mark.parametrize(
  ("kind", "num_tokens", "prefix", "words"),
  [
    ("splash", 128, True, "it has no bidirectional prefix"),
    ("splash", 130, False, "130 tokens are no multiple of 128"),
    ("cudnn", 128, False, "computes in bfloat16, model.dtype is float32"),
  ],
)
def test_a_kernel_that_does_not_support_the_config_is_refused(
  kind, num_tokens, prefix, words
):
  in_prefix = np.ones((2, num_tokens), bool) if prefix else None
  with pytest.raises(errors.UsageError, match=words):
    attention.attend(*_inputs(num_tokens), kind=kind, in_prefix_BT=in_prefix)


def test_splash_refuses_layers_with_different_windows():
  with pytest.raises(errors.UsageError, match="share one window"):
    attention.attend(*_inputs(128), kind="splash", window=jnp.int32(8))
