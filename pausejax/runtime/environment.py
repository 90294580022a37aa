"""Detects from the environment which processes make up the run.

The first of these that applies decides:

  JAX_NUM_PROCESSES, JAX_PROCESS_ID, JAX_COORDINATOR_ADDRESS: JAX itself reads
    only the last one
  SLURM: srun starts one process per task; JAX reads SLURM's variables
  TPU VM, and TPUs on GKE: JAX queries the machine
  an indexed Job or JobSet: JAX queries Kubernetes (`pip install jax[k8s]`)

If none applies, or for one process, the process runs alone and opens no port.
The variables and SLURM are tested. TPU and Kubernetes use JAX's own detection
and are not tested.
"""

import importlib.util
import ipaddress
import os
import re
import socket
from typing import Any

from pausejax import errors
from pausejax.runtime import accelerators

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TIMEOUT = "PAUSEJAX_PEER_TIMEOUT"


def process_arguments() -> dict[str, Any] | None:
  """Returns arguments of `jax.distributed.initialize`; None: one process."""
  given = {n: os.environ[n] for n in _VARIABLES if os.environ.get(n)}
  if "JAX_NUM_PROCESSES" in given or "JAX_PROCESS_ID" in given:
    return _plain(given)
  if "SLURM_JOB_ID" in os.environ:
    return _slurm()
  if _is_on_tpu():
    return {}
  indexed = "JOB_COMPLETION_INDEX" in os.environ
  if indexed and importlib.util.find_spec("kubernetes"):
    return {}
  return _plain(given) if given or indexed else None


def peer_timeout() -> float:
  """Returns the seconds without a heartbeat after which a process is lost."""
  text = os.environ.get(_TIMEOUT) or "30"
  try:
    seconds = float(text)
  except ValueError:
    raise errors.UsageError(
      f"{_TIMEOUT}: expected seconds, such as 30, got {text!r}"
    ) from None
  errors.require_in_range(_TIMEOUT, seconds, 3, 3600)
  return seconds


def _plain(given: dict[str, str]) -> dict[str, Any] | None:
  if given.get("JAX_NUM_PROCESSES") == "1":
    return None
  missing = [n for n in _VARIABLES if n not in given]
  errors.require(
    not missing,
    f"several processes need {', '.join(_VARIABLES)}; not set: "
    f"{', '.join(missing)} (JAX_NUM_PROCESSES=1 runs alone)",
  )
  address, *numbers = (given[n] for n in _VARIABLES)
  errors.require(
    all(map(_is_number, numbers)) and int(numbers[1]) < int(numbers[0]),
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID: expected a count and a number "
    f"below it, got {' and '.join(f'{n!r:.40}' for n in numbers)}",
  )
  host, _, port = address.rpartition(":")
  errors.require(
    bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
    f"JAX_COORDINATOR_ADDRESS: expected HOST:PORT, got {address!r} (a port is "
    "a number from 1 to 65535)",
  )
  return {
    "coordinator_address": address,
    "num_processes": int(numbers[0]),
    "process_id": int(numbers[1]),
    "cluster_detection_method": "deactivate",
    "coordinator_bind_address": address if _is_own(host) else None,
  }


def _is_own(host: str) -> bool:
  """Returns whether process 0 may listen at this host alone.

  Otherwise JAX listens on every interface: the other machines may resolve a
  name to another interface, and an address that this machine does not have may
  be that of a gateway to it.
  """
  host = "127.0.0.1" if host == "localhost" else host.strip("[]")
  try:
    version = ipaddress.ip_address(host).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
      probe.bind((host, 0))
  except (ValueError, OSError):
    return False
  return True


def _slurm() -> dict[str, Any] | None:
  count = _number("SLURM_NTASKS", "1")
  errors.require(count > 0, "SLURM_NTASKS: expected at least 1, got '0'")
  if count == 1:
    return None
  errors.require(
    "SLURM_STEP_NODELIST" in os.environ,
    f"SLURM_NTASKS is {count}, but this process was not started by srun; "
    "start it with srun, or with SLURM_NTASKS=1 to run alone",
  )
  for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID"):
    _number(name, "0")  # JAX reads them.
  # JAX gives each task one GPU of its node; the only task of a node gets all.
  tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
  return (
    {"local_device_ids": []} if re.fullmatch(r"1(\(x\d+\))?", tasks) else {}
  )


def _number(name: str, default: str = "") -> int:
  """Returns the whole number in a variable; an empty one counts as not set."""
  text = os.environ.get(name) or default
  errors.require(
    _is_number(text), f"{name}: expected a whole number, got {text!r:.40}"
  )
  return int(text)


def _is_number(text: str) -> bool:
  return text.isdecimal() and int(text[:20]) < 2**32


def _is_on_tpu() -> bool:
  platforms = os.environ.get("JAX_PLATFORMS", "tpu")
  if "tpu" not in platforms or not importlib.util.find_spec("libtpu"):
    return False
  return bool(accelerators.tpu_paths())
