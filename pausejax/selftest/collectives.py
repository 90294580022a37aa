"""Sums over all devices, as a program that every process starts.

  python -m pausejax.selftest.collectives RESULT

Process 0 writes the result as JSON.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pausejax.runtime import accelerators, distributed

_LENGTH = 1024  # Elements of each device.
# Sums of so many ones are exact in bfloat16.
_MAX_ONES = 128


def sums() -> dict[str, Any]:
  """Returns the devices, and dtype -> whether their sum is exact."""
  count = jax.device_count()
  mesh = jax.make_mesh((count,), ("all",), (jax.sharding.AxisType.Auto,))
  layout = NamedSharding(mesh, PartitionSpec("all"))
  add = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.psum(x, "all"),
      mesh=mesh,
      in_specs=PartitionSpec("all"),
      out_specs=PartitionSpec(),
    )
  )
  rows = np.arange(count)[:, None]
  values = {
    "float32": (rows + 1) * np.arange(1, _LENGTH + 1),
    "bfloat16": np.broadcast_to(rows < _MAX_ONES, (count, _LENGTH)),
  }
  exact = {}
  for dtype, value in values.items():
    value = value.astype(jnp.dtype(dtype))
    x = jax.make_array_from_callback(
      value.shape, layout, lambda index, value=value: value[index]
    )
    total = np.asarray(add(x).addressable_data(0), np.float64)
    exact[dtype] = bool((total == value.astype(np.float64).sum(0)).all())
  return {
    "devices": count,
    "backend": jax.default_backend(),
    "kind": jax.devices()[0].device_kind,
    "processes": jax.process_count(),
    "exact_sums": exact,
  }


def main(path: str) -> None:
  """Connects as `train` does, sums, and writes the result."""
  distributed.connect()
  accelerators.require_used()
  result = sums()
  everywhere = distributed.all_gather(result["exact_sums"])
  result["exact_sums"] = {
    dtype: all(each[dtype] for each in everywhere) for dtype in everywhere[0]
  }
  if distributed.process_index() == 0:
    pathlib.Path(path).write_text(json.dumps(result))
  distributed.finish()


if __name__ == "__main__":
  main(sys.argv[1])
