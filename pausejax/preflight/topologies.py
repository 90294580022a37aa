"""Describes TPU slices and GPU hosts by their usual names, without hardware.

  v5e-256, v6e-8       chips
  v4-128, v5p-128      TensorCores, as Google counts: two per chip, so 64 chips
  2xv5e-128            two such slices, connected by the data-center network
  h100-8, h200-16      GPUs, eight per host

The name becomes the arguments of `jax.experimental.topologies`, whose devices
can be compiled for. Shapes: TPU documentation of each generation; for v4 and
v5p, the most compact arrangement of cubes of 4 x 4 x 4 chips.
"""

import dataclasses
import difflib
import math
import re
from typing import Any

from pausejax import errors
from pausejax.runtime import chips

GPUS_PER_HOST = 8

_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8)}
_FLAT |= {64: (8, 8), 128: (8, 16), 256: (16, 16)}
_PART_OF_A_CUBE = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4)}

# TPU -> cubes of the largest slice; None: a plane of at most 16 x 16 chips.
_MOST_CUBES = {"v4": 64, "v5e": None, "v5p": 96, "v6e": None, "tpu7x": 144}
_GPUS = ("a100", "h100", "h200", "b200")
_KINDS = (*_MOST_CUBES, *_GPUS)
_ALIASES = {"v5litepod": "v5e"}

_NAME = re.compile(r"(?:([1-9][0-9]?)x)?([a-z0-9]+)-([1-9][0-9]{0,5})")

# The GPU properties that XLA needs, from its own specifications:
# multiprocessors, their FP32 units and shared memory in bytes, L2 cache in
# bytes, bytes a second, clock in GHz, compute capability.
_GPU_SPECS = {
  "a100": (108, 64, 167_936, 41_943_040, 2_039_040_000_000, 1.41, 8),
  "h100": (132, 128, 233_472, 52_428_800, 3_352_320_000_000, 1.98, 9),
  "h200": (132, 128, 233_472, 52_428_800, 4_800_000_000_000, 1.98, 9),
  "b200": (148, 128, 233_472, 132_644_864, 7_672_320_000_000, 1.965, 10),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Devices to compile for, which need not exist.

  Attributes:
    name: the name that the user gave.
    chip: peak rates and memory of each device.
    num_devices: number of JAX devices over all slices.
    num_slices: number of slices, connected by the data-center network.
    arguments: arguments of `jax.experimental.topologies.get_topology_desc`.
  """

  name: str
  chip: chips.Chip
  num_devices: int
  num_slices: int
  arguments: dict[str, Any]

  @property
  def is_tpu(self) -> bool:
    """Whether libtpu compiles for it, else the CUDA plugin."""
    return self.arguments["platform"] == "tpu"


def parse_topology(name: str) -> Topology:
  """Returns the topology of a name such as "2xv5e-128".

  Raises:
    UsageError: unknown kind, or a size that does not exist; the message
      suggests the nearest name.
  """
  match = _NAME.fullmatch(name)
  kind = _ALIASES.get(match[2], match[2]) if match else ""
  if not match or kind not in _KINDS or int(match[3]) not in _sizes(kind):
    raise errors.UsageError(f"--topology: no {name!r}{_hint(name)}")
  size = int(match[3])
  if kind not in _GPUS:
    return _tpu(name, kind, size, int(match[1] or 1))
  errors.require(
    match[1] is None,
    f"--topology: {name!r}: GPUs are counted over all hosts; did you mean "
    f"'{kind}-{int(match[1] or 1) * size}'?",
  )
  return _gpu(name, kind, size)


def _hint(name: str) -> str:
  """Returns the nearest name, and the sizes of its kind."""
  match = re.match(r"(?:(\d*)x)?(.*?)[-_ ]?(\d*)$", name.lower(), re.ASCII)
  slices, kind, size = match.groups(default="") if match else ("", "", "")
  close = difflib.get_close_matches(kind, _KINDS, n=1, cutoff=0.5)
  if not close:
    return f"; known, with a size as in v5e-256: {', '.join(_KINDS)}"
  (kind,) = close
  sizes = _sizes(kind)
  nearest = min(sizes, key=lambda s: abs(s - int(size[:6] or 0)))
  prefix = f"{slices}x" if slices.strip("0") and kind not in _GPUS else ""
  return (
    f"; did you mean '{prefix}{kind}-{nearest}'? ({kind} comes in "
    f"{', '.join(map(str, sizes[:8]))}{', ...' * (len(sizes) > 8)} "
    f"{_unit(kind)})"
  )


def described_devices(topology: Topology) -> list[Any]:
  """Returns its devices, which can be compiled for but not run on."""
  from jax.experimental import topologies

  return list(topologies.get_topology_desc(**topology.arguments).devices)


def _sizes(kind: str) -> list[int]:
  """Returns the sizes of a kind, ascending, in the unit of its names."""
  if kind in _GPUS:
    hosts = range(2 * GPUS_PER_HOST, 4096 + 1, GPUS_PER_HOST)
    return [*range(1, GPUS_PER_HOST + 1), *hosts]
  most = _MOST_CUBES[kind]
  if most is None:
    return list(_FLAT)
  return [2 * n for n in (*_PART_OF_A_CUBE, *range(64, 64 * most + 1, 64))]


def _unit(kind: str) -> str:
  if kind in _GPUS:
    return "GPUs, above 8 in hosts of 8"
  return "chips" if _MOST_CUBES[kind] is None else "TensorCores, two per chip"


def _tpu(name: str, kind: str, size: int, num_slices: int) -> Topology:
  is_flat = _MOST_CUBES[kind] is None
  num_chips = size if is_flat else size // 2
  shape = _FLAT[num_chips] if is_flat else _solid(num_chips)
  # Full pods of a plane and full cubes have wraparound links.
  wrap = [d == 16 if is_flat else num_chips >= 64 for d in shape]
  arguments = {
    "platform": "tpu",
    "topology_name": f"{kind}:{'x'.join(map(str, shape))}",
    "chips_per_host_bounds": (1, 1, 1) if num_chips == 1 else (2, 2, 1),
    "wrap": (*wrap, False)[:3],
  }
  if kind == "v4":  # Without it, each chip would be two devices.
    arguments["chip_config_name"] = "megacore"
  if num_slices > 1:
    arguments["num_slices"] = num_slices
  return Topology(
    name=name,
    chip=chips.CHIPS[kind],
    num_devices=num_slices * (size if kind == "tpu7x" else num_chips),
    num_slices=num_slices,
    arguments=arguments,
  )


def _solid(num_chips: int) -> tuple[int, ...]:
  """Returns the most compact shape of chips, shortest side first."""
  if num_chips in _PART_OF_A_CUBE:
    return _PART_OF_A_CUBE[num_chips]
  cubes = num_chips // 64
  shapes = [
    (a, b, cubes // (a * b))
    for a in range(1, math.isqrt(cubes) + 1)
    for b in range(a, cubes // a + 1)
    if cubes % (a * b) == 0 and cubes // (a * b) >= b
  ]
  return tuple(4 * side for side in min(shapes, key=sum))


def _gpu(name: str, kind: str, size: int) -> Topology:
  hosts = -(-size // GPUS_PER_HOST)
  return Topology(
    name=name,
    chip=chips.CHIPS[kind],
    num_devices=size,
    num_slices=1,
    arguments={
      "platform": "cuda",
      "topology_name": "",
      "topology": f"1x{hosts}x{size // hosts}",
      "target_config": _target_config(kind),
    },
  )


def _target_config(kind: str) -> str:
  """Returns XLA's description of a GPU, in the text form of its protobuf."""
  cores, units, shared, l2, bandwidth, clock, major = _GPU_SPECS[kind]
  chip = chips.CHIPS[kind]
  return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32
      threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {units}
      shared_memory_per_block: 49152 shared_memory_per_core: {shared}
      shared_memory_per_block_optin: {shared - 1024}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
      block_dim_limit_z: 65535 l2_cache_size: {l2} clock_rate_ghz: {clock}
      memory_bandwidth: {bandwidth} device_memory_size: {chip.memory_bytes}
      cuda_compute_capability {{ major: {major} minor: 0 }}
    }}
    platform_name: "CUDA" device_description_str: "{chip.kind}"
    dnn_version_info {{ major: 9 minor: 8 }}
    runtime_version {{ major: 12 minor: 9 }}"""
