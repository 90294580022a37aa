"""Meshes over slices and processes that exist in no machine, and bad ones."""

import dataclasses

import jax
import numpy as np
import pytest

from pausejax import errors, sharding
from pausejax.config import MeshConfig, default, train_config


def make(devices=None, **axes):
  sizes = dict(data=1, fsdp=1, sequence=1, tensor=1) | axes
  return sharding.make_mesh(MeshConfig(**sizes), devices)


@dataclasses.dataclass(frozen=True)
class StubDevice:
  id: int
  slice_index: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


def stub_mesh(num_slices, per_process=4, **axes):
  """A mesh of 16 devices."""
  devices = [
    StubDevice(i, i * num_slices // 16, i // per_process) for i in range(16)
  ]
  return make(devices, **axes)


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
def test_only_the_outermost_axis_spans_slices(axes, reach):
  mesh = stub_mesh(2, **axes)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  assert {d.id for d in mesh.devices.flat} == set(range(16))
  for dim, name in enumerate(sharding.MESH_AXES):
    crosses = (slices != slices.take([0], axis=dim)).any()
    assert crosses == (name in reach), name
  # Each slice is one run of the axis, so that a ring crosses over twice.
  assert (np.diff(slices, axis=0) >= 0).all()


def test_four_slices_are_divided_over_data_then_fsdp():
  mesh = stub_mesh(4, data=2, fsdp=8)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)[:, :, 0, 0]
  assert slices.tolist() == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4]


def test_slices_that_do_not_divide_are_one_line():
  with pytest.raises(errors.UsageError, match="multiple of 4"):
    stub_mesh(4, data=2, tensor=8)


def test_processes_that_hold_the_same_rows_read_the_same_part():
  def parts(mesh):
    with jax.set_mesh(mesh):
      return [sharding.host_part(i) for i in range(4)]

  assert parts(stub_mesh(1, data=16)) == [(i, 4) for i in range(4)]
  halves = [(0, 2), (0, 2), (1, 2), (1, 2)]
  assert parts(stub_mesh(1, fsdp=2, tensor=8)) == halves
  assert parts(stub_mesh(1, data=2, sequence=8)) == halves
  assert parts(stub_mesh(1, tensor=16)) == [(0, 1)] * 4
  with pytest.raises(errors.UsageError, match="evenly"):
    parts(stub_mesh(1, per_process=3, fsdp=8, tensor=2))


@pytest.mark.parametrize(
  "axes", [dict(data=3), dict(data=-1, fsdp=3), dict(data=2, fsdp=2)]
)
def test_a_mesh_that_does_not_fit_the_devices_is_one_line(axes):
  with pytest.raises(errors.UsageError, match="8 devices") as caught:
    make(**axes)
  assert "\n" not in str(caught.value)


def test_a_mesh_of_some_devices():
  assert make(jax.devices()[:2], data=-1).shape["data"] == 2
  assert sharding.data_mesh(jax.devices()[:3]).shape["data"] == 3


@pytest.mark.parametrize(
  "changes, axes, message",
  [
    ({"batch_size": 36}, dict(data=8), "num_microbatches 36 .*multiple of 8"),
    ({"data.seq_len": 1020, "loss.num_chunks": 1}, dict(sequence=8), "seq_len"),
    ({"model.num_heads": 4}, dict(tensor=8), "num_heads 4 .*of 8"),
    ({"model.d_model": 772, "model.num_heads": 4}, dict(fsdp=8), "d_model 772"),
    ({"data.seq_len": 1004, "loss.num_chunks": 1}, dict(tensor=8), "max_seq"),
  ],
)
def test_what_does_not_divide_names_the_axis(changes, axes, message):
  config = default()
  config.data.seq_len = 1024
  config.model.num_heads = 8
  config.update_from_flattened_dict(changes)
  config = train_config(config.to_dict())
  mesh = make(**{"data": 1, **axes})
  with (
    jax.set_mesh(mesh),
    pytest.raises(errors.UsageError, match=message),
  ):
    sharding.check_run(config, config.model_config(vocab_size=100))
