"""Several real processes of one run on this machine, over jax.distributed."""

import importlib.metadata
import os
import pathlib
import socket
import subprocess

ROOT = pathlib.Path(__file__).parent.parent

# XLA_FLAGS with which a toy's step compiles in a quarter of the time: the older
# code generator of fusions, which only jaxlib 0.10 has, that of Python 3.11. On
# newer Pythons the tests use the default one.
OLDER_CODE = ""
if importlib.metadata.version("jaxlib").startswith("0.10."):
  OLDER_CODE = (
    "--xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
  )
# For processes of their own, which may run outside of pytest.
QUICK_COMPILER = f"--xla_backend_optimization_level=0 {OLDER_CODE}"


def free_port() -> int:
  """Returns a port that nobody listens on."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def environment(index: int, count: int, port: int, devices: int) -> dict:
  """Returns the variables of process `index` of `count`; alone if count is 1.

  Args:
    index: number of the process.
    count: how many there are.
    port: where process 0 coordinates.
    devices: virtual CPU devices of each process.
  """
  flags = f"{QUICK_COMPILER} --xla_force_host_platform_device_count={devices}"
  found = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
  found |= {"XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
  if count > 1:
    found["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    found["JAX_NUM_PROCESSES"] = str(count)
    found["JAX_PROCESS_ID"] = str(index)
  return {**os.environ, **found}


def start(commands, folder: pathlib.Path, *, devices: int, **changes: str):
  """Starts one process a command; each writes to `<folder>/<index>.log`.

  Args:
    commands: command line of each process.
    folder: gets the logs.
    devices: virtual CPU devices of each process.
    **changes: variables changed in all of them.
  """
  folder.mkdir(parents=True, exist_ok=True)
  port, count = free_port(), len(commands)
  found = []
  for index, command in enumerate(commands):
    with (folder / f"{index}.log").open("w") as log:
      process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(index, count, port, devices), **changes},
        stdout=log,
        stderr=subprocess.STDOUT,
      )
    found.append(process)
  return found


def wait(started, timeout: float | None = 600) -> list[int]:
  """Returns the exit codes of all; none outlives this."""
  try:
    return [p.wait(timeout) for p in started]
  finally:
    for process in started:
      process.kill()


def logs(folder: pathlib.Path, count: int = 2) -> list[str]:
  """Returns what each process wrote."""
  return [(folder / f"{i}.log").read_text() for i in range(count)]
