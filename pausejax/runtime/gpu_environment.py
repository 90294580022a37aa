"""Environment variables of XLA for runs on NVIDIA GPUs, one row per variable.

`pausejax train`, and so every launcher, sets them before JAX starts, and
preflight compiles and computes with them. What the environment sets already is
left as it is. Each change is printed. Options of TPUs are passed to the
compiler with each program.
"""

import dataclasses
import os
import pathlib
from collections.abc import MutableMapping

from pausejax.runtime import accelerators

_FRACTION = "XLA_CLIENT_MEM_FRACTION"
_OLD_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


@dataclasses.dataclass(frozen=True)
class Setting:
  """A setting of XLA.

  Attributes:
    variable: the environment variable.
    value: its value, or one flag of XLA_FLAGS.
    reason: why it is set, as printed.
    several: whether it is for several GPUs only.
  """

  variable: str
  value: str
  reason: str
  several: bool = False


SETTINGS = (
  Setting(
    _FRACTION,
    "0.9",
    "the run takes 90% of the memory of each GPU, not JAX's 75%",
  ),
  Setting(
    "XLA_FLAGS",
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "GPUs compute while they communicate",
    several=True,
  ),
)


def set_variables(
  num_gpus: int, environment: MutableMapping[str, str] = os.environ
) -> list[str]:
  """Sets the variables that are not set; returns a line for each.

  Args:
    num_gpus: GPUs of the run, as far as is known before JAX starts.
    environment: the variables; changed in place.
  """
  lines = []
  for one in SETTINGS:
    if num_gpus > int(one.several) and not _is_set(one, environment):
      before = environment.get(one.variable, "")
      flags = f"{before} {one.value}".strip()
      environment[one.variable] = flags if _is_flag(one) else one.value
      lines.append(f"set {one.variable}={one.value}: {one.reason}")
  return lines


def _is_set(one: Setting, environment: MutableMapping[str, str]) -> bool:
  """Returns whether the user has decided on a setting."""
  if _is_flag(one):
    name = one.value.partition("=")[0]
    words = environment.get(one.variable, "").split()
    return name in (word.partition("=")[0] for word in words)
  # JAX refuses both names together.
  return any(environment.get(name) for name in (one.variable, _OLD_FRACTION))


def _is_flag(one: Setting) -> bool:
  return one.variable == "XLA_FLAGS"


def count_gpus(num_processes: int) -> int:
  """Returns the NVIDIA GPUs of a run that JAX will use, 0 if it uses none.

  Args:
    num_processes: processes of the run, each with the GPUs of this machine.
  """
  found = accelerators.find_accelerator()
  if not found or "nvidia" not in found.name.lower():
    return 0
  if os.environ.get("JAX_PLATFORMS", "cuda").startswith("cpu"):
    return 0
  chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
  if chosen is not None:
    names = [name for name in chosen.split(",") if name.strip()]
    count = 0 if names[:1] in ([], ["-1"], ["NoDevFiles"]) else len(names)
  else:
    count = max(len([*pathlib.Path("/dev").glob("nvidia[0-9]*")]), 1)
  return count * num_processes


def memory_fraction() -> tuple[str, str]:
  """Returns (variable, value) of the part of a GPU's memory that JAX takes."""
  for name in (_FRACTION, _OLD_FRACTION):
    if text := os.environ.get(name):
      return name, text
  return _FRACTION, "0.75"
