"""A run with two intact steps, and what a test does with them."""

import contextlib
import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from pausejax import optimizer
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, OptimConfig, default
from tests import models
from tests.test_sharding import abstract_on, one_device_mesh

KEEP = CheckpointConfig(every=1, keep=9, keep_period=0, keep_best=0)


def make_abstract():
  """The state of a model with one layer and an optimizer without moments."""
  fields = {**default().optim.to_dict(), "name": "sgd", "kwargs": {}}
  made = optimizer.make_optimizer(OptimConfig(**fields), 2000)[0]
  config = models.model_config(num_layers=1)
  return abstract_on(one_device_mesh(), config, made)


@pytest.fixture(scope="module")
def abstract():
  return make_abstract()


def state_of(abstract, step):
  """A state in which every leaf depends on the step."""
  rng = np.random.default_rng(step)
  fresh = jax.tree.map(
    lambda x: jax.device_put(
      rng.standard_normal(x.shape).astype(x.dtype), x.sharding
    ),
    abstract,
  )
  return dataclasses.replace(fresh, step=jax.numpy.asarray(step, "int32"))


@pytest.fixture(scope="module")
def pristine(abstract, tmp_path_factory):
  """A workdir with the intact steps 4 and 8."""
  return save_steps(tmp_path_factory.mktemp("pristine"), abstract)


def save_steps(workdir, abstract):
  store = Store(workdir / "checkpoints", KEEP)
  for step in (4, 8):
    position = json.dumps({"step": step}).encode()
    store.save(
      state_of(abstract, step),
      data={"position.json": position},
      meta={"counters": {"total_tokens": 100 * step}, "answers": {}},
    )
  store.close()
  return workdir


@pytest.fixture
def workdir(pristine, tmp_path):
  return shutil.copytree(pristine, tmp_path / "run")


def same(a, b):
  return all(
    x.dtype == y.dtype and np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def listing(workdir):
  return sorted((p, p.lstat().st_size) for p in workdir.rglob("*"))


def ruin(step):
  (step / "meta" / "meta.json").write_text("{")


def refuses(workdir, abstract, kind, match):
  """Starts three times: the same error each time, and nothing is changed."""
  before = listing(workdir)
  for _ in range(3):
    with pytest.raises(kind, match=match) as caught:
      Store(workdir / "checkpoints", KEEP).restore(abstract)
    assert type(caught.value) is kind
    assert len(caught.value.message.splitlines()) == 1
    assert listing(workdir) == before


@contextlib.contextmanager
def without_rights():
  """Switches to another user inside, since root may read everything."""
  is_root = os.geteuid() == 0
  if is_root:
    os.seteuid(65534)
  try:
    yield
  finally:
    if is_root:
      os.seteuid(0)
