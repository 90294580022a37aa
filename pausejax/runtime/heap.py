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
# Variables that choose another allocator, other settings of glibc's, or devices
# whose steps run in threads of their own.
_CHOICES = (
  "GLIBC_TUNABLES",
  "LD_PRELOAD",
  "JAX_NUM_CPU_DEVICES",
  _ASYNC.upper(),
)
_DEVICES = "xla_force_host_platform_device_count"


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> str:
  """Keeps memory that the main thread frees for its later allocations.

  Steps then run in the main thread, since only its heap can grow to any size.
  Call it before JAX starts. Nothing changes where JAX uses an accelerator, in a
  C library other than glibc, with several devices, and if the environment sets
  `MALLOC_` variables, GLIBC_TUNABLES, LD_PRELOAD or
  JAX_CPU_ENABLE_ASYNC_DISPATCH.

  Returns:
    A line for the user; "" if nothing changed.
  """
  is_possible = _is_glibc() and accelerators.is_cpu_used()
  if _is_chosen(environment) or not is_possible:
    return ""
  import jax

  mallopt = ctypes.CDLL(None).mallopt
  for parameter, value in _OPTIONS:
    mallopt(parameter, value)
  jax.config.update(_ASYNC, False)
  return "memory that a step frees is kept for the next step (docs/tuning.md)"


def _is_chosen(environment: Mapping[str, str]) -> bool:
  """Returns whether the user has chosen an allocator, or several devices."""
  has_devices = _DEVICES in environment.get("XLA_FLAGS", "")
  return has_devices or any(
    name in _CHOICES or name.startswith("MALLOC_") for name in environment
  )


def is_step_synchronous() -> bool:
  """Returns whether a step is over when its dispatch returns."""
  import jax

  return jax.default_backend() == "cpu" and not jax.config.read(_ASYNC)


def return_freed_memory() -> None:
  """Returns kept memory to the kernel, so that saves leave no gaps behind."""
  if _is_glibc() and is_step_synchronous():
    ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
  return platform.libc_ver()[0] == "glibc"
