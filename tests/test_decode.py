"""Generation: cached decoding equals the full forward; what may be sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import sharding
from pausejax.config import MeshConfig
from pausejax.inference import cached, decode
from tests import models

variants = pytest.mark.parametrize(
  "changes", models.VARIANTS.values(), ids=models.VARIANTS.keys()
)
both_attentions = pytest.mark.parametrize(
  "prefix_attention", ["causal", "bidirectional"]
)
PAUSES = [models.PAUSE_ID] * 3
PROMPTS = [
  [0, 5, 9, 11, 30, *PAUSES],
  [0, 7, *PAUSES],
  [0, 40, 41, 42, 8, 9, 10, 3, *PAUSES],
]


def _generate(model, rows, *, width, **options):
  defaults = dict(num_new=8, temperature=0.0, top_k=0, top_p=1.0, eos_id=1)
  tokens_BT, is_real_BT = decode.left_pad(rows, width=width, pad_id=2)
  ids_BN = decode.generate(
    model,
    tokens_BT,
    is_real_BT,
    is_real_BT,
    jax.random.key(0),
    pause_id=models.PAUSE_ID,
    **{**defaults, **options},
  )
  return np.asarray(ids_BN)


@pytest.mark.slow
@both_attentions
@variants
def test_cached_decoding_equals_the_full_forward(changes, prefix_attention):
  model = models.model(**changes, prefix_attention=prefix_attention)
  ids_BN = _generate(model, PROMPTS, width=16, eos_id=-1)
  whole = [[*p, *ids] for p, ids in zip(PROMPTS, ids_BN.tolist(), strict=True)]
  batch = models.rows(whole, [len(p) for p in PROMPTS])
  logits_BTV = models.logits(model, batch).at[..., models.PAUSE_ID].set(-np.inf)
  best_BT = jnp.argmax(logits_BTV, axis=-1)
  for prompt, ids_N, best_T in zip(PROMPTS, ids_BN, best_BT, strict=True):
    start = len(prompt) - 1
    np.testing.assert_array_equal(ids_N, best_T[start : start + len(ids_N)])


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_other_rows_and_padding_change_nothing(temperature):
  model = models.model(prefix_attention="bidirectional")
  options = dict(temperature=temperature, top_k=50)
  together_BN = _generate(model, PROMPTS, width=20, **options)
  alone_BN = _generate(model, PROMPTS[:1], width=8, **options)
  np.testing.assert_array_equal(together_BN[:1], alone_BN)


@pytest.mark.slow
def test_eight_devices_equal_one():
  model = models.model(prefix_attention="bidirectional", num_kv_heads=2)
  rows = [PROMPTS[i % 3] for i in range(8)]
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  with jax.set_mesh(mesh):
    placed = jax.device_put(model, sharding.shardings(model))
    ids_BN = _generate(placed, rows, width=16)
  np.testing.assert_array_equal(ids_BN, _generate(model, rows, width=16))


def test_a_row_ends_with_eos_and_the_others_continue():
  model = models.model()
  free_BN = _generate(model, PROMPTS, width=16, eos_id=-1)
  eos_id = int(free_BN[0, 2])
  for free_N, ids_N in zip(
    free_BN, _generate(model, PROMPTS, width=16, eos_id=eos_id), strict=True
  ):
    has_ended_N = np.cumsum(free_N == eos_id) > 0
    expected_N = np.where(has_ended_N, eos_id, free_N)
    np.testing.assert_array_equal(ids_N, expected_N)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_neither_a_pause_nor_a_padded_row_is_ever_chosen(temperature):
  model = models.model()
  # A head that loves the pause, and what is no id, above all.
  model.untied_head[...] = (
    model.untied_head[...].at[:, models.PAUSE_ID :].set(9)
  )
  ids_BN = _generate(
    model, [[0, 5]] * 16, width=8, num_new=20, temperature=temperature
  )
  assert (ids_BN < models.PAUSE_ID).all()


def _draw(logits_V, num_draws, **options):
  logits_BV = jnp.broadcast_to(logits_V, (num_draws, len(logits_V)))
  defaults = dict(temperature=1.0, top_k=0, top_p=1.0)
  key = jax.random.key(0)
  return np.asarray(
    decode.choose_ids(logits_BV, key, **{**defaults, **options})
  )


@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"),
  [(1, 0, 1), (2, 0, 1), (1, 3, 1), (1, 0, 0.6), (0.5, 5, 0.8), (1, 99, 0.0)],
)
def test_draws_follow_the_truncated_distribution(temperature, top_k, top_p):
  logits_V = np.random.default_rng(0).normal(size=12)
  logits_V[4] = -np.inf
  p_V = _truncated(logits_V / temperature, top_k, top_p)
  ids_B = _draw(
    logits_V, 4096, temperature=temperature, top_k=top_k, top_p=top_p
  )
  counts_V = np.bincount(ids_B, minlength=12)
  assert (counts_V[p_V == 0] == 0).all()
  # Five standard deviations of a binomial count.
  np.testing.assert_array_less(
    np.abs(counts_V - 4096 * p_V), 5 * np.sqrt(4096 * p_V * (1 - p_V)) + 1e-3
  )


def _truncated(logits_V, top_k, top_p):
  """The definition: top k, renormalized, then the shortest head of mass p."""
  p_V = np.exp(logits_V)
  order = np.argsort(-p_V)
  p_V[order[top_k or len(p_V) :]] = 0
  mass = np.cumsum(p_V[order]) / p_V.sum()
  p_V[order[np.argmax(mass >= top_p - 1e-9) + 1 :]] = 0
  return p_V / p_V.sum()


def test_a_top_k_of_one_is_greedy():
  logits_BV = np.random.default_rng(0).normal(size=(50, 30))
  ids_B = decode.choose_ids(
    jnp.asarray(logits_BV), jax.random.key(0), temperature=3, top_k=1, top_p=1
  )
  np.testing.assert_array_equal(ids_B, logits_BV.argmax(axis=1))


def test_unstacking_changes_no_bit():
  model, batch = models.model(dtype="bfloat16"), models.batch(batch_size=2)
  unstacked = jax.jit(cached.unstack)(model).model
  np.testing.assert_array_equal(
    models.logits(model, batch), models.logits(unstacked, batch)
  )


def test_buckets_are_few_and_waste_little_padding():
  widths = [decode.bucket_length(n) for n in range(1, 2049)]
  assert len(set(widths)) == 13 and widths[-1] == 2048
  for n, width in enumerate(widths, start=1):
    assert n <= width and (width == 32 or width * 2 < n * 3)


def test_a_row_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="row 1 has 4 ids, more than width 3"):
    decode.left_pad([[1], [1, 2, 3, 4]], width=3, pad_id=0)
