"""Starting from another run's parameters, and a row for a new `<pause>`."""

import jax
import numpy as np
import pytest
from etils import epath

from pausejax import errors, optimizer
from pausejax.checkpoints import leaves
from pausejax.checkpoints.store import Store
from pausejax.config import OptimConfig, default
from pausejax.training import initial
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
  folder, made, *, mesh=None, seen=False, row="mean", vocab_size=None, **model
):
  store = Store(epath.Path(folder), None)
  meta = {**store.meta(0), "pauses_seen": seen}
  if vocab_size:
    meta["model"] = {"vocab_size": vocab_size}
  with jax.set_mesh(mesh or one_device_mesh()):
    return initial.from_checkpoint(
      store,
      meta,
      models.model_config(**model),
      made,
      pause_init=row,
      seed=0,
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
  for row in ("mean", "normal", "keep"):
    now = np.asarray(start(folder, made, row=row).model.embedding[...])
    others = np.arange(len(was)) != PAUSE_ID
    np.testing.assert_array_equal(now[others], was[others])
    if row == "mean":
      mean = was[:PAUSE_ID].mean(axis=0)
      # float32 sums in another order.
      np.testing.assert_allclose(now[PAUSE_ID], mean, atol=1e-6)
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
  with pytest.raises(errors.UsageError, match="has no <pause> to keep"):
    start(folder, made, vocab_size=models.VOCAB_SIZE - 1, row="keep")


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
