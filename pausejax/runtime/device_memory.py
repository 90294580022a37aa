"""Memory of this process's devices, where their backend reports it."""

from collections.abc import Sequence
from typing import Any

import jax

_NAMES = {
  "device_memory_bytes": "bytes_in_use",
  "device_memory_peak_bytes": "peak_bytes_in_use",
}


def memory_row(devices: Sequence[Any] | None = None) -> dict[str, int]:
  """Returns the metrics of memory, of the device that uses the most.

  Args:
    devices: the devices; None: all of this process.

  Returns:
    `device_memory_bytes` now and `device_memory_peak_bytes` since the start of
    the process, in bytes; empty on CPUs, which report nothing.
  """
  stats = [d.memory_stats() or {} for d in devices or jax.local_devices()]
  found = {
    name: [s[key] for s in stats if key in s] for name, key in _NAMES.items()
  }
  return {name: max(sizes) for name, sizes in found.items() if sizes}
