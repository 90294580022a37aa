"""Rates and memory of the known accelerators, one row per kind.

Peak rates and bandwidths are Google's and NVIDIA's published figures
(docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e). Google states the
bidirectional bandwidth of all links of a chip between chips; half of it is the
rate of sending. Bandwidths of the data-center network are those of a pod
divided by its chips.
"""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostModel:
  """What turns the cycles and bytes of libtpu's programs into times.

  Attributes:
    clock: cycles per second in libtpu's cost model, from the peak FLOP/s and
      the FLOPs that the matrix units compute per cycle.
    product_share: share of the peak that a plain bfloat16 product of 8192 x
      8192 matrices gets in the same cost model (`benchmarks/estimate.py`).
    matrix_unit: rows and columns of a matrix unit.
    hbm_bandwidth: bytes per second of the memory of a device.
    ici_bandwidth: bytes per second that a device sends over all its links
      to other chips of a slice.
    dcn_bandwidth: bytes per second that a device sends to other slices; None
      if Google has not published it.
  """

  clock: float
  product_share: float
  matrix_unit: int
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float | None


@dataclasses.dataclass(frozen=True)
class Chip:
  """An accelerator as JAX sees it: one device.

  Attributes:
    kind: prefix of its `device_kind`.
    peak_flops: dense bfloat16 FLOP/s of one device, from the vendors' data
      sheets. A TPU v4 or v5p device is a chip of two cores; a TPU7x device is
      half a chip.
    memory_bytes: memory of one device. TPU: what the compiler allows a program
      to use; GPU: the memory of the card, of which JAX reserves a part.
    cost_model: for estimates of step time; None where there is none.
  """

  kind: str
  peak_flops: float
  memory_bytes: int
  cost_model: CostModel | None = None


_V4 = CostModel(
  clock=275e12 / 2**18,  # 2 cores of 4 matrix units, 2 * 128 * 128 each.
  product_share=0.927,
  matrix_unit=128,
  hbm_bandwidth=1200e9,
  ici_bandwidth=300e9,
  dcn_bandwidth=None,
)
_V5E = CostModel(
  clock=197e12 / 2**17,  # 4 matrix units.
  product_share=0.878,
  matrix_unit=128,
  hbm_bandwidth=819e9,
  ici_bandwidth=200e9,
  dcn_bandwidth=3.125e9,
)
_V5P = CostModel(
  clock=459e12 / 2**18,  # As v4.
  product_share=0.902,
  matrix_unit=128,
  hbm_bandwidth=2765e9,
  ici_bandwidth=600e9,
  dcn_bandwidth=6.25e9,
)
_V6E = CostModel(
  clock=918e12 / 2**19,  # A product computes 369,231 FLOPs per cycle there.
  product_share=0.704,
  matrix_unit=256,
  hbm_bandwidth=1638e9,
  ici_bandwidth=400e9,
  dcn_bandwidth=12.5e9,
)


CHIPS = {
  "v4": Chip("TPU v4", 275e12, int(30.75 * _GIB), _V4),
  "v5e": Chip("TPU v5 lite", 197e12, int(15.75 * _GIB), _V5E),
  "v5p": Chip("TPU v5", 459e12, int(95.74 * _GIB), _V5P),
  "v6e": Chip("TPU v6 lite", 918e12, int(31.25 * _GIB), _V6E),
  "tpu7x": Chip("TPU7x", 1153.5e12, int(94.75 * _GIB)),
  "a100": Chip("NVIDIA A100", 312e12, 85_100_068_864),
  "h100": Chip("NVIDIA H100", 989e12, 84_942_979_072),
  "h200": Chip("NVIDIA H200", 989e12, 151_397_597_184),
  "b200": Chip("NVIDIA B200", 2250e12, 191_514_411_008),
}


def of_kind(device_kind: str) -> Chip | None:
  """Returns the chip of `jax.Device.device_kind`; None if it is not known."""
  matches = [c for c in CHIPS.values() if device_kind.startswith(c.kind)]
  return max(matches, key=lambda c: len(c.kind), default=None)
