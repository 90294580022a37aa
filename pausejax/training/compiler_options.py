"""XLA options for the programs of a run, by target (docs/tuning.md).

`jax.jit` passes them to the compiler, so that training, evaluation and
preflight compile the same programs. An option that LIBTPU_INIT_ARGS names is
left as it is. Each run prints its options.
"""

import os

from pausejax import sharding

# Gather the weights of a product whole, not piece by piece in a loop.
_TPU = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def compiler_options() -> dict[str, str]:
  """Returns option -> value for the devices of the mesh in scope."""
  if not (sharding.device_kind() or "").startswith("TPU"):
    return {}
  given = os.environ.get("LIBTPU_INIT_ARGS", "")
  return {name: value for name, value in _TPU.items() if name not in given}


def options_line() -> str:
  """Returns a line that lists the options; "" if there are none."""
  options = compiler_options()
  if not options:
    return ""
  pairs = " ".join(f"{name}={value}" for name, value in options.items())
  return f"XLA options: {pairs} (docs/tuning.md)"
