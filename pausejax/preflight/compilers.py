"""The compilers of absent devices: which are installed, how they start."""

import importlib.metadata

from pausejax.preflight.topologies import Topology

# Compilers use no network, look for no hardware, may run concurrently, and log
# only errors. Read when jax and libtpu are imported.
ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TF_CPP_MIN_LOG_LEVEL": "3",
}


def installed(topology: Topology) -> tuple[str, list[str]]:
  """Returns (the target's compiler, []) or ("", how to install it)."""
  names, extra = (
    (("libtpu",), "tpu")
    if topology.is_tpu
    else (("jax-cuda12-plugin", "jax-cuda13-plugin"), "cuda-compiler")
  )
  for name in names:
    try:
      return f"{name} {importlib.metadata.version(name)}", []
    except importlib.metadata.PackageNotFoundError:
      continue
  return "", [
    f"{names[0]} is not installed: make env EXTRA={extra}, or pip install "
    f"'.[{extra}]' in the clone, for the result of the target's compiler; the "
    "following is an ESTIMATE by the CPU's compiler"
  ]
