"""What several test files share: virtual devices and small data settings."""

import atexit
import os
import shutil
import tempfile

from tests import processes

# Read when jax is imported, so set before any test module is.
if os.environ.get("PAUSEJAX_TEST_GPU"):  # Of tests/test_gpu.py.
  os.environ["JAX_PLATFORMS"] = "cuda,cpu"
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
else:
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = " ".join(
    [
      os.environ.get("XLA_FLAGS", ""),
      "--xla_force_host_platform_device_count=8",
      processes.OLDER_CODE,
    ]
  ).strip()
  # Compiling is most of the time of a small test: without LLVM's passes it
  # takes half, and all processes share what they compiled in this session.
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if "PYTEST_XDIST_WORKER" not in os.environ:
  _cache = tempfile.mkdtemp(prefix="pausejax-test-programs-")
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pytest

from pausejax.config import DataConfig, default


@pytest.fixture(scope="session")
def data_config():
  """Makes a small DataConfig: the default with some fields changed."""

  def make(**changes) -> DataConfig:
    small = {"task": "text", "tokenizer": "bytes", "seq_len": 32}
    tree = default().data.to_dict()
    return DataConfig(**{**tree, **small, **changes})

  return make
