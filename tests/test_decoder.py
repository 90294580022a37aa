"""The decoder: shapes of the paper, and which token may see which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import errors
from pausejax.config import SIZES, ModelConfig, default
from pausejax.model import decoder
from tests import models

variants = pytest.mark.parametrize(
  "changes", models.VARIANTS.values(), ids=models.VARIANTS.keys()
)


@pytest.mark.parametrize(
  ("size", "papers", "ours"),
  [("130m", 136e6, 136_174_080), ("1b", 1.345e9, 1_344_917_504)],
)
def test_sizes_have_the_papers_parameter_counts(size, papers, ours):
  config = default()
  config.model.update(SIZES[size])
  # 32,128 rows and `<pause>`, padded to 32,256: 0.1% above the paper's count.
  model = ModelConfig(vocab_size=32_129, **config.model.to_dict())
  assert decoder.num_parameters(model) == ours
  assert ours == pytest.approx(papers, rel=2e-3)


@jax.jit
def _is_read(model, batch):
  """Bool [T, B, T]: whether vector t of row 0 depends on a token."""

  def gradient(t):
    loss = lambda m: jnp.sum(models.apply(m, batch)[0, t] ** 2)
    return jax.grad(loss)(model).embedding[...]

  grad_TVD = jax.vmap(gradient)(jnp.arange(32))
  return (grad_TVD != 0).any(axis=-1)[:, batch["tokens"]]


def _all_different(**arrays):
  """Two rows in which every token is another id, so that gradients tell."""
  tokens_BT = np.arange(64, dtype=np.int32).reshape(2, 32)
  return {**models.batch(batch_size=2), "tokens": tokens_BT, **arrays}


@pytest.mark.slow
@variants
def test_no_activation_depends_on_later_tokens(changes):
  read_TBT = _is_read(models.model(**changes), _all_different())
  np.testing.assert_array_equal(read_TBT[:, 0], np.tri(32, dtype=bool))
  assert not read_TBT[:, 1].any()


@pytest.mark.slow
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_prefix_attends_to_all_of_itself_and_nothing_after_it(position):
  model = models.model(prefix_attention="bidirectional", position=position)
  t = np.arange(32)
  batch = _all_different(in_prefix=np.stack([t < 12, t < 3]))
  expected_TT = np.tri(32, dtype=bool)
  expected_TT[:12, :12] = True
  read_TBT = _is_read(model, batch)
  np.testing.assert_array_equal(read_TBT[:, 0], expected_TT)
  assert not read_TBT[:, 1].any()


def test_packed_prefixes_attend_only_to_themselves():
  model = models.model(prefix_attention="bidirectional", segment_attention=True)
  t = np.arange(32)
  segments_T = np.where(t < 14, 1, 2)
  in_prefix_T = (t < 5) | ((t >= 14) & (t < 19))
  expected_TT = np.tri(32, dtype=bool)
  expected_TT[:5, :5] = True
  expected_TT[14:19, 14:19] = True
  expected_TT[14:, :14] = False
  batch = _all_different(
    segment_ids=np.stack([segments_T] * 2),
    in_prefix=np.stack([in_prefix_T] * 2),
  )
  np.testing.assert_array_equal(_is_read(model, batch)[:, 0], expected_TT)


def test_causal_attention_ignores_the_prefix_mask():
  model, batch = models.model(), models.batch(batch_size=1)
  with_prefix = {**batch, "in_prefix": np.ones((1, 32), bool)}
  x_BTD, y_BTD = models.apply(model, batch), models.apply(model, with_prefix)
  np.testing.assert_array_equal(x_BTD, y_BTD)


def test_segments_do_not_attend_to_each_other():
  model = models.model(segment_attention=True)
  batch = models.batch(batch_size=1)
  batch["segment_ids"] = np.where(np.arange(32) < 20, 1, 2)[None]
  other = {**batch, "tokens": batch["tokens"].copy()}
  other["tokens"][:, :20] = 5
  x_BTD, y_BTD = models.apply(model, batch), models.apply(model, other)
  assert (x_BTD[:, 20:] == y_BTD[:, 20:]).all()
  assert (x_BTD[:, :20] != y_BTD[:, :20]).any()


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["names", "full"])
def test_rematerialization_changes_no_gradient(remat):
  batch = models.batch(batch_size=2)
  loss = lambda m: jnp.sum(models.apply(m, batch) ** 2)
  plain = jax.jit(jax.grad(loss))(models.model())
  again = jax.jit(jax.grad(loss))(models.model(remat=remat))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    # The same products, fused otherwise; gradients are of order 1 to 100.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_initialization_is_as_documented():
  config = models.model_config(d_model=64, d_ff=256, num_loops=2)
  model = jax.jit(lambda: decoder.init(config, 0))()
  into_stream = 0.02 / np.sqrt(2 * config.num_layers * config.num_loops)
  for values, stddev in (
    (model.embedding, 0.02),
    (model.blocks.query.kernel, 0.02),
    (model.blocks.mix.kernel, into_stream),
    (model.blocks.contract.kernel, into_stream),
  ):
    # At least 8,192 draws: the sample deviation is within 5% of the true one.
    assert float(values[...].std()) == pytest.approx(stddev, rel=0.05)
  assert (model.blocks.query.bias[...] == 0).all()
  assert (model.final_norm.scale[...] == 1).all()
  layers = model.blocks.query.kernel[...]
  assert (layers[0] != layers[1]).any()


def test_a_looped_model_is_a_deep_one_whose_layers_repeat():
  changes = dict(position="rope", num_layers=2, remat="names")
  looped = models.model(num_loops=3, **changes)
  deep = models.model(**{**changes, "num_layers": 6})
  repeated = jax.tree.map(lambda x: jnp.concatenate([x] * 3), looped.blocks)
  for name in ("embedding", "final_norm", "untied_head"):
    setattr(deep, name, getattr(looped, name))
  shapes = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
  assert shapes(repeated) == shapes(deep.blocks)
  deep.blocks = repeated
  batch = models.batch(batch_size=2)
  loss = lambda m: jnp.sum(models.apply(m, batch) ** 2)
  (one, got), (other, all_layers) = (
    jax.jit(jax.value_and_grad(loss))(m) for m in (looped, deep)
  )
  np.testing.assert_allclose(one, other, rtol=1e-6)
  pairs = zip(
    jax.tree.leaves(got.blocks), jax.tree.leaves(all_layers.blocks), strict=True
  )
  for x, y in pairs:  # The gradient of shared parameters is the sum.
    total = y.reshape(3, *x.shape).sum(axis=0)
    np.testing.assert_allclose(x, total, rtol=1e-4, atol=1e-3)


def test_a_checkpoint_of_a_looped_model_is_that_of_its_layers():
  counts = [
    decoder.num_parameters(models.model_config(num_loops=n)) for n in (1, 4)
  ]
  assert counts[0] == counts[1]


def test_sizes_that_do_not_fit_are_refused():
  for changes, words in (
    (dict(d_model=30), "model.d_model 30 is not divisible by model.num_heads"),
    (dict(num_kv_heads=3), "model.num_heads 4 is not divisible by"),
    (
      dict(position="rope", rope_fraction=0.25, head_dim=12),
      "needs an even number of rotating dimensions, got 3",
    ),
    (dict(rope_low_frequency_factor=4.0), "must be below"),
  ):
    with pytest.raises(errors.UsageError, match=words):
      models.model_config(**changes)
  assert models.model_config(d_model=30, head_dim=6).head_dim == 6
