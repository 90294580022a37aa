"""Checkpoints: exact, strict, and never fooled by what lies around."""

import dataclasses
import json
import random
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath

from pausejax import errors, optimizer
from pausejax.checkpoints import folders, leaves, restoring
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, OptimConfig, default
from tests import models, toys
from tests.test_sharding import abstract_on, mesh_of_8, one_device_mesh

KEEP = CheckpointConfig(every=1, keep=2, keep_period=10, keep_best=0)


@pytest.fixture(scope="module")
def made():
  fields = default().optim.to_dict()
  return optimizer.make_optimizer(OptimConfig(**fields), 2000)[0]


@pytest.fixture(scope="module")
def fresh(made):
  layout = abstract_on(one_device_mesh(), models.model_config(), made)
  sharding = jax.tree.map(lambda x: x.sharding, layout)
  return jax.device_put(models.train_state(made), sharding)


@pytest.fixture(scope="module")
def abstract(made):
  return abstract_on(one_device_mesh(), models.model_config(), made)


def at_step(train_state, step):
  return dataclasses.replace(
    train_state, step=jax.numpy.asarray(step, jax.numpy.int32)
  )


def save(folder, train_state, *steps):
  store = Store(epath.Path(folder), KEEP)
  for step in steps:
    store.save(
      at_step(train_state, step),
      data={"position.json": b'{"step": %d}' % step},
      meta={"hello": "world"},
    )
  store.close()


def restore(folder, abstract):
  return Store(epath.Path(folder), KEEP).restore(abstract)


def assert_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def test_a_state_is_restored_bit_for_bit_with_data_and_meta(
  tmp_path, fresh, abstract
):
  save(tmp_path / "c", fresh, 3)
  restored = restore(tmp_path / "c", abstract)
  assert_equal(restored.state, at_step(fresh, 3))
  assert restored.data == {"position.json": b'{"step": 3}'}
  assert restored.meta["hello"] == "world" and restored.meta["step"] == 3
  assert "newest" in restored.reason


def test_a_clock_that_jumps_does_not_stop_a_save(tmp_path, fresh, monkeypatch):
  rng, real = random.Random(0), time.time

  def jumping() -> float:
    return real() + (rng.uniform(-86_400, 86_400) if rng.random() < 0.3 else 0)

  with monkeypatch.context() as patch:
    patch.setattr(time, "time", jumping)
    saving = threading.Thread(
      target=save, args=(tmp_path / "c", fresh, *range(1, 9)), daemon=True
    )
    saving.start()
    saving.join(60)
  assert not saving.is_alive()
  assert (tmp_path / "c" / "8").is_dir()


def test_an_empty_folder_restores_nothing(tmp_path, abstract):
  assert restore(tmp_path / "c", abstract) is None


def test_the_newest_and_every_tenth_are_kept(tmp_path, fresh):
  save(tmp_path / "c", fresh, 9, 10, 11, 12, 13)
  steps = {p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()}
  assert steps == {"10", "12", "13"}


def test_another_mesh_reads_the_same_bits(tmp_path, fresh, made):
  save(tmp_path / "c", fresh, 1)
  wide = abstract_on(mesh_of_8(2, 2, 2), models.model_config(), made)
  restored = restore(tmp_path / "c", wide).state
  assert_equal(restored, at_step(fresh, 1))
  for x, y in zip(*map(jax.tree.leaves, (restored, wide)), strict=True):
    assert x.sharding == y.sharding


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    ({"d_ff": 64}, "model/blocks/expand/kernel: checkpoint float32[2, 16, 32]"),
    ({"bias": False}, "this run has none"),
    ({"qk_norm": True}, "checkpoint has none"),
  ],
)
def test_other_leaves_are_refused_with_a_table(
  tmp_path, fresh, made, changes, fragment
):
  save(tmp_path / "c", fresh, 1)
  other = abstract_on(one_device_mesh(), models.model_config(**changes), made)
  with pytest.raises(errors.UserError) as caught:
    restore(tmp_path / "c", other)
  assert fragment in str(caught.value)
  assert (tmp_path / "c" / "1").exists()


def test_another_dtype_is_refused(tmp_path, fresh, abstract):
  save(tmp_path / "c", fresh, 1)
  half = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=x.sharding),
    abstract.model,
  )
  with pytest.raises(errors.UserError, match="bfloat16"):
    restore(tmp_path / "c", dataclasses.replace(abstract, model=half))


@pytest.mark.slow
def test_invalid_steps_are_set_aside_and_other_files_are_kept(
  tmp_path, fresh, abstract
):
  save(tmp_path / "c", fresh, 1, 2)
  (tmp_path / "c" / "999").mkdir()
  (tmp_path / "c" / "notes.txt").write_text("mine")
  (tmp_path / "c" / "12abc").mkdir()
  restored = restore(tmp_path / "c", abstract)
  assert (
    int(restored.state.step) == 2 and "999 was set aside" in restored.reason
  )
  assert (tmp_path / "c" / "notes.txt").read_text() == "mine"
  assert (tmp_path / "c" / "12abc").exists()
  assert (tmp_path / "set_aside" / "999-0").exists()
  save(tmp_path / "c", fresh, 3)
  assert int(restore(tmp_path / "c", abstract).state.step) == 3


def test_a_flipped_bit_is_detected_and_the_older_step_restored(
  tmp_path, fresh, abstract
):
  save(tmp_path / "c", fresh, 1, 2)
  path = toys.array_file(tmp_path / "c" / "2" / "params")
  damaged = bytearray(path.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  path.write_bytes(damaged)
  restored = restore(tmp_path / "c", abstract)
  assert int(restored.state.step) == 1
  assert "2 was set aside" in restored.reason


def test_damage_of_all_steps_stops_the_run(tmp_path, fresh, abstract):
  save(tmp_path / "c", fresh, 1)
  for path in (tmp_path / "c" / "1" / "opt_state").rglob("d/*"):
    path.write_bytes(b"")
  with pytest.raises(errors.UserError, match="no checkpoint is intact"):
    restore(tmp_path / "c", abstract)


def test_meta_names_every_leaf_with_its_digest(tmp_path, fresh):
  save(tmp_path / "c", fresh, 1)
  meta = json.loads((tmp_path / "c/1/meta/meta.json").read_text())
  assert meta["leaves"]["model/embedding"] == [[128, 16], "float32"]
  assert meta["leaves"].keys() == meta["digests"].keys()
  assert "opt_state/1/0/mu/embedding" in meta["leaves"]


@pytest.mark.slow
def test_digests_depend_on_every_bit_and_not_on_the_mesh(fresh, made):
  named = leaves.flatten(fresh.model)
  there = leaves.digests(named)
  layout = abstract_on(mesh_of_8(1, 4, 2), models.model_config(), made)
  moved = jax.device_put(
    named, jax.tree.map(lambda x: x.sharding, leaves.flatten(layout.model))
  )
  elsewhere = leaves.digests(moved)
  for name in named:
    assert (np.asarray(there[name]) == np.asarray(elsewhere[name])).all()
  values = np.asarray(named["embedding"]).copy()
  rng = np.random.default_rng(0)
  for _ in range(50):
    flipped = values.copy().view(np.uint32)
    flipped.flat[rng.integers(flipped.size)] ^= np.uint32(1 << rng.integers(32))
    digest = leaves.digests({"x": flipped.view(np.float32)})["x"]
    assert (digest != there["embedding"]).any()


def test_a_reader_does_not_disturb_a_save_in_progress(
  tmp_path, fresh, abstract
):
  save(tmp_path / "c", fresh, 1)
  in_flight = tmp_path / "c" / "2.orbax-checkpoint-tmp"
  in_flight.mkdir()
  newest = folders.numbered(tmp_path / "c")[-1]
  model = restoring.restore_params(tmp_path / "c", newest, abstract.model)
  assert_equal(model, fresh.model)
  assert in_flight.exists()


def test_parameters_that_are_not_finite_are_refused(tmp_path, fresh, abstract):
  whole = jax.tree.map(lambda x: x, fresh.model)
  wrong = whole.embedding[...].at[3, 0].set(jax.numpy.nan)
  whole.embedding[...] = wrong
  save(tmp_path / "c", dataclasses.replace(fresh, model=whole), 1)
  with pytest.raises(errors.UserError, match="values of embedding are NaN"):
    restoring.restore_params(tmp_path / "c", 1, abstract.model)


def save_scored(folder, train_state, scores, **config):
  """Saves a step for each score; `absent` is none; returns the steps kept."""
  config = dataclasses.replace(KEEP, keep=1, keep_period=0, **config)
  for step, (score, num_skipped) in enumerate(scores, start=1):
    # A manager of its own each time, as after a restart, reads scores back.
    store = Store(epath.Path(folder), config)
    answers = {} if score is None else {"score": score, "squad_em": score}
    store.save(
      at_step(train_state, step),
      data={"position.json": b'{"step": %d}' % step},
      meta={"answers": answers},
      num_skipped=num_skipped,
    )
    store.close()
  return {int(p.name) for p in folder.iterdir() if p.name.isdigit()}


NAN = float("nan")


@pytest.mark.parametrize(
  ("scores", "keep_best", "kept"),
  [
    ([50.0, NAN, NAN], 1, {1, 3}),
    ([NAN, 50.0, float("inf"), -float("inf"), 10.0], 1, {2, 5}),
    ([NAN, NAN, 20.0], 1, {3}),
    ([NAN, NAN], 1, {2}),
    ([50.0, None, 40.0, None], 1, {1, 4}),
    ([50.0, 50.0, NAN], 1, {2, 3}),
    ([50.0, 60.0, NAN, 55.0, NAN], 2, {2, 4, 5}),
    ([50.0, NAN, NAN], 2, {1, 3}),
    ([0.0, NAN], 1, {1, 2}),
  ],
)
def test_a_score_that_is_not_finite_is_never_the_best(
  tmp_path, fresh, scores, keep_best, kept
):
  scores = [(score, 0) for score in scores]
  found = save_scored(tmp_path / "c", fresh, scores, keep_best=keep_best)
  assert found == kept


@pytest.mark.parametrize("keep_best", [0, 1])
def test_the_checkpoint_before_a_series_of_skipped_steps_is_kept(
  tmp_path, fresh, keep_best
):
  folder = tmp_path / "c"
  series = [(90.0, 0), (50.0, 0), (60.0, 1), (60.0, 2), (60.0, 3)]
  best = {1} if keep_best else set()
  found = save_scored(folder, fresh, series, keep_best=keep_best)
  assert found == {2, 5} | best
  store = Store(epath.Path(folder), KEEP)
  assert store.set_aside_after(2) == (2, [5])
  assert folders.numbered(folder)[-1] == 2
  assert [p.name for p in (tmp_path / "set_aside").iterdir()] == ["5-0"]


def test_the_checkpoint_before_a_finished_series_may_be_deleted(
  tmp_path, fresh
):
  series = [(None, 0), (None, 1), (None, 2), (None, 0), (None, 0)]
  assert save_scored(tmp_path / "c", fresh, series, keep_best=0) == {5}


def test_no_checkpoint_is_set_aside_without_an_older_one(tmp_path, fresh):
  save(tmp_path / "c", fresh, 3, 4)
  store = Store(epath.Path(tmp_path / "c"), KEEP)
  assert store.set_aside_after(2) == (None, [])
  assert folders.numbered(tmp_path / "c")[-1] == 4
