"""Every mesh of 8 virtual devices trains alike, and nothing large is copied."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from configs import base
from pausejax import errors, optimizer, settings, sharding
from pausejax.training import state, step
from tests import models

LOSS = settings.LossConfig(num_chunks=4, z_loss=1e-4)


def one_device_mesh():
  return sharding.data_mesh(jax.devices()[:1])


def mesh_of_8(data, fsdp, tensor, sequence=1):
  return sharding.make_mesh(
    settings.MeshConfig(data=data, fsdp=fsdp, sequence=sequence, tensor=tensor)
  )


def compiled_step(mesh):
  """Returns (step jitted for the mesh, a fresh state on it)."""
  fields = {**base.get_config().optim.to_dict(), "warmup_steps": 2}
  made, schedule = optimizer.make(settings.OptimConfig(**fields), 10)
  shape = dict(d_model=32, num_kv_heads=2)
  config = models.model_config(**shape)
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LOSS,
    num_microbatches=2,
    pause_id=models.PAUSE_ID,
  )
  layout = jax.tree.map(
    lambda x: x.sharding, state.abstract(config, made, mesh)
  )
  fresh = jax.device_put(models.train_state(made, **shape), layout)
  return step.jit_train_step(train, layout, mesh), fresh


@functools.cache
def losses(mesh):
  with jax.set_mesh(mesh):
    train, train_state = compiled_step(mesh)
    found = []
    for i in range(3):
      batch = sharding.put_batch(models.batch(i, batch_size=16), mesh)
      train_state, metrics = train(train_state, batch)
      found.append(float(metrics["loss"]))
  return found


@pytest.mark.parametrize(
  "axes",
  [
    (8, 1, 1),
    (1, 8, 1),
    (2, 2, 2),
    (1, 4, 2),
    (4, 1, 2),
    (1, 1, 1, 8),
    (1, 2, 2, 2),
    (2, 1, 2, 2),
    (2, 2, 1, 2),
    (1, 4, 1, 2),
  ],
)
def test_every_mesh_gives_the_losses_of_one_device(axes, capfd):
  # float32 sums in another order; 1e-6 to 2e-6 was seen.
  np.testing.assert_allclose(
    losses(mesh_of_8(*axes)), losses(one_device_mesh()), atol=5e-6, rtol=0
  )
  assert "Involuntary full rematerialization" not in capfd.readouterr().err


def test_a_state_made_on_a_mesh_is_laid_out_there_and_the_same():
  made = optimizer.make(
    settings.OptimConfig(**base.get_config().optim.to_dict()), 2000
  )[0]
  config, mesh = models.model_config(), mesh_of_8(2, 2, 2)
  here = jax.jit(lambda: state.init(config, made, 3))()
  there = state.init_on_mesh(config, made, 3, mesh)
  layout = state.abstract(config, made, mesh)
  for a, b, c in zip(*map(jax.tree.leaves, (here, there, layout)), strict=True):
    # The same random bits; the normal's arithmetic may be fused otherwise.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert b.sharding == c.sharding


def test_the_old_state_is_given_up():
  mesh = one_device_mesh()
  with jax.set_mesh(mesh):
    train, train_state = compiled_step(mesh)
    batch = sharding.put_batch(models.batch(batch_size=16), mesh)
    memory = train.lower(train_state, batch).compile().memory_analysis()
  size = sum(x.nbytes for x in jax.tree.leaves(train_state))
  # Padding of small buffers aside, the whole state is reused.
  assert memory.alias_size_in_bytes >= 0.95 * size


def test_nothing_large_of_the_1b_state_is_replicated():
  config = base.get_config()
  config.model.update(base.SIZES["1b"])
  model = settings.ModelConfig(vocab_size=32_129, **config.model.to_dict())
  made, _ = optimizer.make(
    settings.OptimConfig(**config.optim.to_dict()), config.num_steps
  )
  mesh = mesh_of_8(1, 4, 2)
  abstract = state.abstract(model, made, mesh)
  large = [x for x in jax.tree.leaves(abstract) if math.prod(x.shape) > 2**20]
  assert len(large) > 20
  for x in large:
    shard = x.sharding.shard_shape(x.shape)
    assert math.prod(shard) * 8 == math.prod(x.shape), x


def test_moments_lie_where_their_parameters_lie():
  made = optimizer.make(
    settings.OptimConfig(**base.get_config().optim.to_dict()), 2000
  )[0]
  abstract = state.abstract(models.model_config(), made, mesh_of_8(2, 2, 2))
  adam = abstract.opt_state[1][0]
  for moments in (adam.mu, adam.nu):
    for a, b in zip(
      jax.tree.leaves(moments), jax.tree.leaves(abstract.model), strict=True
    ):
      assert a.sharding == b.sharding


@dataclasses.dataclass(frozen=True)
class StubDevice:
  id: int
  slice_index: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


def stub_mesh(num_slices, per_process=4, **axes):
  """A mesh of 16 devices that exist in no machine, shuffled."""
  found = [
    StubDevice(i, i * num_slices // 16, i // per_process) for i in range(16)
  ]
  sizes = dict(data=1, fsdp=1, sequence=1, tensor=1) | axes
  return sharding.make_mesh(settings.MeshConfig(**sizes), found)


@pytest.mark.parametrize(
  "axes, reach",
  [
    (dict(data=2, fsdp=8), {"data"}),
    (dict(data=4, fsdp=4), {"data"}),
    (dict(data=-1, fsdp=2, tensor=4), {"data"}),
    (dict(fsdp=8, tensor=2), {"fsdp"}),
    (dict(data=2, fsdp=2, sequence=2, tensor=2), {"data"}),
  ],
)
def test_only_the_outermost_axis_reaches_over_slices(axes, reach):
  mesh = stub_mesh(2, **axes)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  assert {d.id for d in mesh.devices.flat} == set(range(16))
  for dim, name in enumerate(sharding.MESH_AXES):
    crosses = (slices != slices.take([0], axis=dim)).any()
    assert crosses == (name in reach), name
  # Each slice is one run of the axis, so that a ring crosses over twice.
  assert (np.diff(slices, axis=0) >= 0).all()


def test_four_slices_go_over_data_then_fsdp():
  mesh = stub_mesh(4, data=2, fsdp=8)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)[:, :, 0, 0]
  assert slices.tolist() == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4]


def test_slices_that_do_not_divide_are_one_line():
  with pytest.raises(errors.UsageError, match="multiple of 4"):
    stub_mesh(4, data=2, tensor=8)


def test_processes_that_hold_the_same_rows_read_the_same_part():
  parts = lambda mesh: [sharding.host_part(mesh, i) for i in range(4)]
  assert parts(stub_mesh(1, data=16)) == [(i, 4) for i in range(4)]
  assert parts(stub_mesh(1, fsdp=2, tensor=8)) == [
    (0, 2),
    (0, 2),
    (1, 2),
    (1, 2),
  ]
  assert parts(stub_mesh(1, tensor=16)) == [(0, 1)] * 4
  with pytest.raises(errors.UsageError, match="evenly"):
    sharding.host_part(stub_mesh(1, per_process=3, fsdp=8, tensor=2), 0)


@pytest.mark.parametrize("axes", [(3, 1, 1), (-1, 3, 1), (2, 2, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_one_line(axes):
  with pytest.raises(errors.UsageError, match="8 devices") as caught:
    mesh_of_8(*axes)
  assert "\n" not in str(caught.value)


def test_sizes_that_do_not_divide_name_the_axis():
  with pytest.raises(errors.UsageError, match="use a multiple of 4"):
    sharding.check_divisible(mesh_of_8(2, 2, 2), {"batch_size": (6, "batch")})


def test_chunks_must_divide_over_the_sequence():
  tree = base.get_config().to_dict()
  tree["data"]["seq_len"] = tree["model"]["max_seq_len"] = 2040
  config = settings.train_config(tree)
  with pytest.raises(
    errors.UsageError, match=r"num_chunks 255 .*multiple of 2"
  ):
    sharding.check_run(
      mesh_of_8(2, 2, 1, 2), config, config.model_config(vocab_size=100)
    )
