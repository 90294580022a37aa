"""Refuses to run on the CPU of a machine that has a GPU or TPU.

JAX falls back to the CPU if the plugin for the accelerator is not installed,
and a run then takes a hundred times as long. JAX_PLATFORMS=cpu selects the CPU
explicitly.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re

from pausejax import errors

_GOOGLE, _NETWORK = "0x1ae0", "0x0042"  # PCI vendor; its network card.

_DETERMINISTIC = "--xla_gpu_deterministic_ops"


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A kind of device.

  Attributes:
    name: its name in messages.
    path: the file by which it was detected.
    modules: modules of which JAX needs one to use it.
    install: the command that installs one of them.
  """

  name: str
  path: pathlib.Path
  modules: tuple[str, ...]
  install: str

  def __str__(self) -> str:
    return f"this machine has {self.name} ({self.path}),"


def find_accelerator(
  root: pathlib.Path = pathlib.Path("/"),
) -> Accelerator | None:
  """Returns the accelerator of a machine, None if it has none.

  Args:
    root: the root folder of its file system.
  """
  for pattern in (
    "dev/nvidia[0-9]*",
    "proc/driver/nvidia/gpus/*",
    "usr/lib/wsl/lib/nvidia-smi",
  ):
    for path in sorted(root.glob(pattern)):
      return Accelerator(
        "an NVIDIA GPU",
        path,
        ("jax_cuda12_plugin", "jax_cuda13_plugin"),
        "make env EXTRA=cuda, or pip install 'jax[cuda12]'",
      )
  for path in tpu_paths(root):
    return Accelerator(
      "a TPU",
      path,
      ("libtpu",),
      "make env EXTRA=tpu, or pip install 'jax[tpu]'",
    )
  return None


def require_used(root: pathlib.Path = pathlib.Path("/")) -> None:
  """Initializes JAX's devices; raises if an accelerator is left unused.

  In a run of several processes, call it after `distributed.connect`.

  Args:
    root: the root folder of the machine's file system.

  Raises:
    UsageError: JAX computes on the CPU although the machine has an
      accelerator, and the environment does not select the CPU.
    UserError: JAX does not start.
  """
  require_installed(root)
  try:
    import jax

    backend = jax.default_backend()
  except (RuntimeError, ValueError) as e:
    raise errors.UserError(f"JAX does not start: {errors.first_line(e)}") from e
  accelerator = None if _is_device_chosen() else find_accelerator(root)
  if accelerator and backend == "cpu":
    raise errors.UsageError(
      f"{accelerator} but JAX cannot start it and uses the CPU; check that its "
      "driver is new enough and that no other process uses it; "
      "JAX_PLATFORMS=cpu selects the CPU"
    )


def require_installed(root: pathlib.Path = pathlib.Path("/")) -> None:
  """Raises UsageError if JAX's plugin for the accelerator is not installed."""
  accelerator = None if _is_device_chosen() else find_accelerator(root)
  if accelerator and not any(
    map(importlib.util.find_spec, accelerator.modules)
  ):
    raise errors.UsageError(
      f"{accelerator} but JAX is installed for the CPU only; install it with "
      f"{accelerator.install}; JAX_PLATFORMS=cpu selects the CPU"
    )


def rounding_note(backend: str, xla_flags: str) -> str:
  """Returns a line if two runs on this backend may round differently, or "".

  On GPUs, XLA chooses kernels by their measured time, and some of them add in a
  varying order.
  """
  is_set = re.search(rf"{_DETERMINISTIC}(=(true|1))?(\s|$)", xla_flags)
  if backend != "gpu" or is_set:
    return ""
  return (
    f"runs on GPUs differ in rounding, also after a resume; XLA_FLAGS="
    f"{_DETERMINISTIC}=true makes them bit-identical, but slower"
  )


def is_cpu_used(root: pathlib.Path = pathlib.Path("/")) -> bool:
  """Returns whether JAX computes on the CPU, before JAX starts."""
  if platforms := _chosen_platforms():
    return platforms.startswith("cpu")
  return _is_gpu_hidden() or not find_accelerator(root)


def _is_device_chosen() -> bool:
  """Returns whether the environment selects JAX's device."""
  return bool(_chosen_platforms()) or _is_gpu_hidden()


def _chosen_platforms() -> str:
  variables = "JAX_PLATFORMS", "JAX_PLATFORM_NAME"
  return next(filter(None, map(os.environ.get, variables)), "")


def _is_gpu_hidden() -> bool:
  return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")


def tpu_paths(root: pathlib.Path = pathlib.Path("/")) -> list[pathlib.Path]:
  """Returns the device files of TPUs; vfio also lists other devices."""
  paths = sorted(root.glob("dev/accel[0-9]*"))
  devices = root.glob("sys/bus/pci/devices/*")
  if any(_is_tpu(device) for device in devices):
    paths += sorted(root.glob("dev/vfio/[0-9]*"))
  return paths


def _is_tpu(device: pathlib.Path) -> bool:
  try:
    vendor, kind = (
      (device / name).read_text().strip() for name in ("vendor", "device")
    )
  except OSError:
    return False
  return vendor == _GOOGLE and kind != _NETWORK
