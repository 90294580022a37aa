"""Starting from another run's parameters, and a row for a new `<pause>`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pausejax import errors, optimizer
from pausejax.checkpoints import folders, leaves
from pausejax.checkpoints.store import Store
from pausejax.config import FinetuneConfig, OptimConfig, default
from pausejax.config.model import VOCAB_MULTIPLE
from pausejax.data import tokenizers
from pausejax.model.pause_row import with_pause_row
from pausejax.train_state import TrainState
from pausejax.training import initial, inputs
from tests import models
from tests.test_sharding import mesh_of_8, one_device_mesh
from tests.test_store import KEEP

PAUSE_ID = models.VOCAB_SIZE - 1


@pytest.fixture(scope="module")
def made():
  fields = default().optim.to_dict()
  return optimizer.make_optimizer(OptimConfig(**fields), 2000)[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, made):
  """A folder of checkpoints, and the state that was saved there."""
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  train_state = models.train_state(made)
  store = Store(epath.Path(folder), KEEP)
  model = {"vocab_size": models.VOCAB_SIZE}
  store.save(train_state, data={"x": b""}, meta={"model": model})
  store.close()
  return folder, train_state


def start(
  folder,
  made,
  *,
  mesh=None,
  seen=False,
  row="mean",
  vocab_size=None,
  num_pause_ids=1,
  **model,
):
  meta = {
    **folders.require_step(epath.Path(folder), 0).meta,
    "pauses_seen": seen,
  }
  if vocab_size:
    meta["model"] = {"vocab_size": vocab_size}
  with jax.set_mesh(mesh or one_device_mesh()):
    return initial.from_checkpoint(
      folder,
      meta,
      models.model_config(**model),
      made,
      pause_init=row,
      seed=0,
      num_pause_ids=num_pause_ids,
    )


@pytest.mark.slow
def test_parameters_are_loaded_and_all_other_state_is_new(saved, made):
  folder, before = saved
  after = start(folder, made, seen=True)
  assert int(after.step) == 0
  was, now = leaves.flatten(before.model), leaves.flatten(after.model)
  for name in was:
    np.testing.assert_array_equal(was[name], now[name], err_msg=name)
  moments = leaves.flatten(after.opt_state)
  assert moments and all(not np.any(x) for x in moments.values())


@pytest.mark.slow
def test_an_untrained_pause_row_is_initialized_and_no_other_changes(
  saved, made
):
  folder, before = saved
  was = np.asarray(before.model.embedding[...])
  for row in ("mean", "normal", "covariance", "zeros", 7, "keep"):
    now = np.asarray(start(folder, made, row=row).model.embedding[...])
    others = np.arange(len(was)) != PAUSE_ID
    np.testing.assert_array_equal(now[others], was[others])
    if row == "mean":
      mean = was[:PAUSE_ID].mean(axis=0)
      # float32 sums in another order.
      np.testing.assert_allclose(now[PAUSE_ID], mean, atol=1e-6)
    elif row == 7:
      np.testing.assert_array_equal(now[PAUSE_ID], was[7])
    elif row == "zeros":
      assert not now[PAUSE_ID].any()
    else:
      assert (now[PAUSE_ID] == was[PAUSE_ID]).all() == (row == "keep")


def test_a_trained_pause_row_is_kept(saved, made):
  folder, before = saved
  now = start(folder, made, seen=True, row="mean").model.embedding[...]
  np.testing.assert_array_equal(now, before.model.embedding[...])


def test_a_vocabulary_without_pause_grows_by_one(saved, made):
  folder, _ = saved
  more = start(folder, made, vocab_size=models.VOCAB_SIZE - 1, seen=True)
  assert np.any(more.model.embedding[...][PAUSE_ID])
  # In the softmax a row of zeros would be the largest of negative logits.
  head_DV = np.asarray(more.model.head_DV())
  mean_D = head_DV[:, :PAUSE_ID].mean(axis=1)
  np.testing.assert_allclose(head_DV[:, PAUSE_ID], mean_D, atol=1e-6)
  with pytest.raises(errors.UsageError, match="has no <pause> to keep"):
    start(folder, made, vocab_size=models.VOCAB_SIZE - 1, row="keep")


def test_a_row_of_covariance_has_the_moments_of_the_other_rows():
  rng = np.random.default_rng(0)
  mix_DD = rng.normal(size=(4, 4))
  table_VD = jnp.asarray(rng.normal(3.0, 1.0, (50, 4)) @ mix_DD, jnp.float32)
  draw = lambda seed: with_pause_row(table_VD, 49, "covariance", seed)[49]
  rows_SD = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(4000)))
  text_VD = np.asarray(table_VD[:49])
  spread = text_VD.std(axis=0)
  # Four standard errors of the sample of 4,000.
  distance_D = np.abs(rows_SD.mean(axis=0) - text_VD.mean(axis=0))
  assert (distance_D < 4 * spread / np.sqrt(4000)).all()
  wanted_DD = np.cov(text_VD.T, bias=True) / np.outer(spread, spread)
  found_DD = np.cov(rows_SD.T) / np.outer(spread, spread)
  np.testing.assert_allclose(found_DD, wanted_DD, atol=0.1)


def test_logits_of_text_keep_their_bits_whatever_the_row_of_pause():
  for variant in ("paper", "llama"):
    model = models.model(**models.VARIANTS[variant])
    batch = models.batch(pause_fraction=0.0)
    before_BTV = np.asarray(_logits(model, batch))
    for row in ("mean", "covariance", "normal", "zeros", 7):
      moved = jax.tree.map(lambda x: x, model)
      moved.embedding[...] = with_pause_row(model.embedding[...], PAUSE_ID, row)
      after_BTV = np.asarray(_logits(moved, batch))
      np.testing.assert_array_equal(
        after_BTV[..., :PAUSE_ID], before_BTV[..., :PAUSE_ID]
      )


@jax.jit
def _logits(model, batch):
  return model.logits(models.apply(model, batch))


def test_a_named_token_is_one_token_of_the_tokenizer():
  tokenizer = tokenizers.load_tokenizer("bytes")
  init = lambda text: inputs.pause_row_init(
    FinetuneConfig(pause_init=text), tokenizer
  )
  assert init("token:.") == ord(".") + 3
  assert init("eos") == tokenizer.eos_id
  assert init("covariance") == "covariance"
  with pytest.raises(errors.UsageError, match="'ab' is 2 tokens"):
    init("token:ab")
  for text in ("covarianc", "token", "token:"):
    with pytest.raises(errors.UsageError, match=r"finetune\.pause_init"):
      init(text)


def test_the_bias_of_the_head_grows_with_the_vocabulary(tmp_path, made):
  config = models.model_config(head_bias=True, tied_embeddings=True)
  small, large = (
    dataclasses.replace(config, vocab_size=n)
    for n in (VOCAB_MULTIPLE, VOCAB_MULTIPLE + 1)
  )
  model = models.random_model(small, 0)
  zero = jnp.zeros((), jnp.int32)
  before = TrainState(
    step=zero, num_skipped=zero, model=model, opt_state=made.init(model)
  )
  store = Store(epath.Path(tmp_path / "checkpoints"), KEEP)
  store.save(before, data={"x": b""}, meta={"model": {"vocab_size": 128}})
  store.close()
  folder = tmp_path / "checkpoints"
  saved = folders.require_step(folder, 0).meta
  meta = {**saved, "pauses_seen": False}
  with jax.set_mesh(one_device_mesh()):
    after = initial.from_checkpoint(
      folder, meta, large, made, pause_init="mean", seed=0
    )
  was, now = before.model.head_bias[...], after.model.head_bias[...]
  np.testing.assert_array_equal(now[: len(was)], was)
  assert len(now) == 2 * VOCAB_MULTIPLE
  # float32 sums in another order.
  assert now[len(was)] == pytest.approx(float(was.mean()), abs=1e-6)


def test_another_shape_is_refused_with_a_table(saved, made):
  with pytest.raises(errors.UserError, match="model/blocks/expand"):
    start(saved[0], made, d_ff=64)


@pytest.mark.slow
def test_eight_devices_start_from_the_same_parameters_as_one(saved, made):
  folder, _ = saved
  one = leaves.flatten(start(folder, made).model)
  eight = leaves.flatten(start(folder, made, mesh=mesh_of_8(2, 2, 2)).model)
  for name in one:
    # The mean is summed in another order over shards.
    np.testing.assert_allclose(one[name], eight[name], atol=1e-6, err_msg=name)
