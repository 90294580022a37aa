"""How a train step on a CPU reuses the memory of the step before.

XLA allocates the temporary memory of each step anew. By default, glibc returns
large allocations to the kernel when they are freed, which clears every page
again for the next step (figures: docs/tuning.md).
"""

import ctypes
import os
import platform
from collections.abc import Mapping

from pausejax.runtime import accelerators

# (parameter of mallopt, value), from malloc.h of glibc.
_OPTIONS = (
  (-4, 0),  # M_MMAP_MAX: no allocation is mapped on its own.
  (-1, -1),  # M_TRIM_THRESHOLD: the end of the heap is never returned.
)
_ASYNC = "jax_cpu_enable_async_dispatch"


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> str:
  """Keeps memory that the main thread frees for its later allocations.

  Steps then run in the main thread, since only its heap can grow to any size.
  Call it before JAX starts. Nothing changes where JAX uses an accelerator, in a
  C library other than glibc, and if the environment sets `MALLOC_` variables,
  GLIBC_TUNABLES or JAX_CPU_ENABLE_ASYNC_DISPATCH.

  Returns:
    A line for the user; "" if nothing changed.
  """
  is_chosen = any(
    name in ("GLIBC_TUNABLES", _ASYNC.upper()) or name.startswith("MALLOC_")
    for name in environment
  )
  is_glibc = platform.libc_ver()[0] == "glibc"
  if is_chosen or not is_glibc or not accelerators.is_cpu_used():
    return ""
  import jax

  mallopt = ctypes.CDLL(None).mallopt
  for parameter, value in _OPTIONS:
    mallopt(parameter, value)
  jax.config.update(_ASYNC, False)
  return "memory that a step frees is kept for the next step (docs/tuning.md)"
