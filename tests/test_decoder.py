"""The decoder: shapes of the paper, causality, and decoding with a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from pausejax import settings
from pausejax.inference import decode
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
  config = base.get_config()
  config.model.update(base.SIZES[size])
  # 32,128 rows and `<pause>`, padded to 32,256: 0.1% above the paper's count.
  model = settings.ModelConfig(vocab_size=32_129, **config.model.to_dict())
  assert decoder.num_parameters(model) == ours
  assert ours == pytest.approx(papers, rel=2e-3)


@variants
def test_no_vector_depends_on_later_tokens(changes):
  model = models.model(**changes)
  # Every token another id: a row's gradient tells which token was read.
  tokens_BT = np.arange(64, dtype=np.int32).reshape(2, 32)
  batch = {**models.batch(batch_size=2), "tokens": tokens_BT}

  @jax.jit
  def rows_read(t):
    loss = lambda m: jnp.sum(models.apply(m, batch)[0, t] ** 2)
    grad_VD = jax.grad(loss)(model).embedding[...]
    return (grad_VD != 0).any(axis=-1)[tokens_BT]

  for t in (0, 7, 30):
    read_BT = rows_read(t)
    assert read_BT[0, : t + 1].all()
    assert not read_BT[0, t + 1 :].any()
    assert not read_BT[1].any()


def test_segments_do_not_see_each_other():
  model = models.model(segment_attention=True)
  batch = models.batch(batch_size=1)
  batch["segment_ids"] = np.where(np.arange(32) < 20, 1, 2)[None]
  other = {**batch, "tokens": batch["tokens"].copy()}
  other["tokens"][:, :20] = 5
  x_BTD, y_BTD = models.apply(model, batch), models.apply(model, other)
  assert (x_BTD[:, 20:] == y_BTD[:, 20:]).all()
  assert (x_BTD[:, :20] != y_BTD[:, :20]).any()


@pytest.mark.parametrize("remat", ["names", "full"])
def test_rematerialisation_changes_no_gradient(remat):
  batch = models.batch(batch_size=2)
  loss = lambda m: jnp.sum(models.apply(m, batch) ** 2)
  plain = jax.jit(jax.grad(loss))(models.model())
  again = jax.jit(jax.grad(loss))(models.model(remat=remat))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    # The same products, fused otherwise; gradients are of order 1 to 100.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_initialisation_is_as_documented():
  config = models.model_config(d_model=64, d_ff=256)
  model = jax.jit(lambda: decoder.init(config, 0))()
  into_stream = 0.02 / np.sqrt(2 * config.num_layers)
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


@variants
def test_cached_decoding_equals_the_full_forward_token_for_token(changes):
  model = models.model(**changes)
  prompts = [[0, 5, 9, 11, 30], [0, 7], [0, 40, 41, 42, 8, 9, 10, 3]]
  num_pauses, num_new = 3, 8
  tokens_BT, is_real_BT = decode.left_pad(
    prompts, num_pauses=num_pauses, pause_id=models.PAUSE_ID
  )
  ids_BN = decode.generate(
    model,
    tokens_BT,
    is_real_BT,
    jax.random.key(0),
    num_new=num_new,
    temperature=0.0,
    eos_id=1,
    pause_id=models.PAUSE_ID,
  )
  for prompt, ids in zip(prompts, ids_BN.tolist(), strict=True):
    row = [*prompt, *[models.PAUSE_ID] * num_pauses]
    for expected in _greedy(model, row, num_new):
      assert ids.pop(0) == expected
      if expected == 1:
        break


def _greedy(model, row, num_new):
  """The most likely next ids, each by one whole pass without a cache."""
  for _ in range(num_new):
    tokens_BT = np.zeros((1, 32), np.int32)
    tokens_BT[0, : len(row)] = row  # What follows cannot be seen.
    batch = {**models.batch(batch_size=1), "tokens": tokens_BT}
    logits_V = _logits(model, batch)[0, len(row) - 1]
    row.append(int(jnp.argmax(logits_V.at[models.PAUSE_ID].set(-jnp.inf))))
    yield row[-1]


@jax.jit
def _logits(model, batch):
  return model.logits(models.apply(model, batch))


def test_a_pause_is_never_emitted():
  model = models.model()
  # A head that loves the pause above all.
  model.untied_head[...] = model.untied_head[...].at[:, models.PAUSE_ID].set(9)
  tokens_BT, is_real_BT = decode.left_pad(
    [[0, 5]] * 16, num_pauses=2, pause_id=models.PAUSE_ID
  )
  for temperature in (0.0, 5.0):
    ids_BN = decode.generate(
      model,
      tokens_BT,
      is_real_BT,
      jax.random.key(1),
      num_new=20,
      temperature=temperature,
      eos_id=1,
      pause_id=models.PAUSE_ID,
    )
    assert (ids_BN != models.PAUSE_ID).all()
    assert (ids_BN < models.VOCAB_SIZE).all()
