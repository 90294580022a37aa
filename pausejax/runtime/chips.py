"""Peak FLOP/s and memory of the known accelerators, one row per kind."""

import dataclasses

_GIB = 2**30


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
  """

  kind: str
  peak_flops: float
  memory_bytes: int


CHIPS = {
  "v4": Chip("TPU v4", 275e12, int(30.75 * _GIB)),
  "v5e": Chip("TPU v5 lite", 197e12, int(15.75 * _GIB)),
  "v5p": Chip("TPU v5", 459e12, int(95.74 * _GIB)),
  "v6e": Chip("TPU v6 lite", 918e12, int(31.25 * _GIB)),
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
