"""What several test files share: virtual devices and small data settings."""

import os

# Read when jax is imported, so set before any test module is.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import pytest

from configs import base
from pausejax.config import schema


@pytest.fixture(scope="session")
def data_config():
  """Makes a small DataConfig: `configs/base.py` with some fields changed."""

  def make(**changes) -> schema.DataConfig:
    small = {"task": "text", "tokenizer": "bytes", "seq_len": 32}
    tree = base.get_config().data.to_dict()
    return schema.DataConfig(**{**tree, **small, **changes})

  return make
