"""Names of pods and boxes: what they stand for, and what a wrong one says."""

import math

import pytest

from pausejax import errors
from pausejax.preflight import topologies
from pausejax.runtime import chips


@pytest.mark.parametrize(
  "name,shape,num_devices",
  [
    # Chips for the small cores, TensorCores for the large.
    ("v5e-1", "v5e:1x1", 1),
    ("v5e-16", "v5e:4x4", 16),
    ("v5e-256", "v5e:16x16", 256),
    ("v5litepod-256", "v5e:16x16", 256),
    ("v6e-8", "v6e:2x4", 8),
    ("v4-8", "v4:2x2x1", 4),
    ("v4-128", "v4:4x4x4", 64),
    ("v4-512", "v4:4x8x8", 256),
    ("v4-2048", "v4:8x8x16", 1024),
    ("v5p-8", "v5p:2x2x1", 4),
    ("v5p-1536", "v5p:8x8x12", 768),
    ("v5p-12288", "v5p:16x16x24", 6144),
    ("tpu7x-8", "tpu7x:2x2x1", 8),
    ("2xv5e-128", "v5e:8x16", 256),
    ("4xv5p-128", "v5p:4x4x4", 256),
  ],
)
def test_names_of_tpus(name, shape, num_devices):
  found = topologies.parse_topology(name)
  assert found.is_tpu
  assert found.arguments["topology_name"] == shape
  assert found.num_devices == num_devices
  assert found.num_slices == found.arguments.get("num_slices", 1)
  sides = math.prod(map(int, shape.partition(":")[2].split("x")))
  devices_a_chip = 2 if "tpu7x" in name else 1
  assert sides * found.num_slices * devices_a_chip == num_devices


@pytest.mark.parametrize(
  "name,hosts", [("h100-8", "1x1x8"), ("h100-3", "1x1x3"), ("a100-16", "1x2x8")]
)
def test_names_of_gpus(name, hosts):
  found = topologies.parse_topology(name)
  assert not found.is_tpu
  assert found.arguments["topology"] == hosts
  size = str(found.chip.memory_bytes)
  assert f"device_memory_size: {size}" in found.arguments["target_config"]


@pytest.mark.parametrize(
  "name,nearest",
  [
    ("v5e256", "v5e-256"),
    ("V5E-256", "v5e-256"),
    ("v5e-250", "v5e-256"),
    ("v5e-512", "v5e-256"),
    ("v5-128", "v5p-128"),
    ("v4-4", "v4-8"),
    ("v4-130", "v4-128"),
    ("v5p-99999", "v5p-12288"),
    ("2xv5e_128", "2xv5e-128"),
    ("0xv5e-8", "v5e-8"),
    ("h100-12", "h100-8"),
    ("2xh100-8", "h100-16"),
    ("h1000-8", "h100-8"),
    ("tpu", "tpu7x-8"),
  ],
)
def test_the_error_for_a_wrong_name_names_the_nearest(name, nearest):
  with pytest.raises(errors.UsageError, match=f"did you mean '{nearest}'"):
    topologies.parse_topology(name)


@pytest.mark.parametrize("name", ["", "x", "8", "-1", "2x", "mi300-8"])
def test_the_error_for_an_unknown_name_lists_the_known_ones(name):
  with pytest.raises(errors.UsageError, match="v5e"):
    topologies.parse_topology(name)


def test_a_chip_is_recognized_by_its_device_kind():
  for name, chip in chips.CHIPS.items():
    assert chips.of_kind(f"{chip.kind} 80GB") == chips.CHIPS[name]
  assert chips.of_kind("TPU v5 lite") == chips.CHIPS["v5e"]
  assert chips.of_kind("TPU v5p") == chips.CHIPS["v5p"]
  assert chips.of_kind("cpu") is None
