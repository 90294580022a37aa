"""Writes safetensors, one tensor in memory at a time.

The format (https://huggingface.co/docs/safetensors): the length of the header
as 8 bytes, the header as JSON, and the values of all tensors in its order. The
library's own writer needs all tensors of a file at once, stores transposed
arrays in the wrong order, and makes files that only their owner can read.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pausejax.interop.layouts import Tensor
from pausejax.interop.tensor_files import INDEX

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}
_NAMES = {"float32": "F32", "bfloat16": "BF16"}
_ONE_FILE = "model.safetensors"


def shards(
  tensors: Sequence[Tensor], dtype: str, max_bytes: int
) -> dict[str, list[Tensor]]:
  """Returns file name -> its tensors; one file if all of them fit.

  Args:
    tensors: of a model, in the order in which they are written.
    dtype: a key of `DTYPES`.
    max_bytes: size of a file, of which only a single tensor may have more.
  """
  groups: list[list[Tensor]] = []
  size = math.inf
  for tensor in tensors:
    size += num_bytes(tensor, dtype)
    if size > max_bytes:
      groups.append([])
      size = num_bytes(tensor, dtype)
    groups[-1].append(tensor)
  if len(groups) == 1:
    return {_ONE_FILE: groups[0]}
  count = len(groups)
  return {
    f"model-{i:05}-of-{count:05}.safetensors": group
    for i, group in enumerate(groups, start=1)
  }


def num_bytes(tensor: Tensor, dtype: str) -> int:
  """Returns the size of a tensor in a file."""
  return math.prod(tensor.shape) * DTYPES[dtype].itemsize


def write_shard(
  path: pathlib.Path,
  tensors: Sequence[Tensor],
  dtype: str,
  values: Iterable[np.ndarray],
) -> None:
  """Writes one file.

  Args:
    path: the file, which does not exist.
    tensors: what it holds, in order.
    dtype: a key of `DTYPES`.
    values: the array of each tensor, read one at a time.
  """
  with path.open("xb") as file:
    header = _header(tensors, dtype)
    file.write(len(header).to_bytes(8, "little") + header)
    for tensor, x in zip(tensors, values, strict=True):
      assert x.shape == tensor.shape, (tensor.name, x.shape, tensor.shape)
      x = np.ascontiguousarray(x, DTYPES[dtype].newbyteorder("<"))
      file.write(x.view(np.uint8).data)


def _header(tensors: Sequence[Tensor], dtype: str) -> bytes:
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for tensor in tensors:
    begin, end = end, end + num_bytes(tensor, dtype)
    header[tensor.name] = {
      "dtype": _NAMES[dtype],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  return text + b" " * (-len(text) % 8)  # Values are aligned to 8 bytes.


def index_file(files: dict[str, list[Tensor]], dtype: str) -> dict[str, str]:
  """Returns name -> content of the index, {} for a single file."""
  if len(files) == 1:
    return {}
  size = sum(num_bytes(t, dtype) for group in files.values() for t in group)
  weight_map = {t.name: name for name, group in files.items() for t in group}
  content = {"metadata": {"total_size": size}, "weight_map": weight_map}
  return {INDEX: json.dumps(content, indent=2) + "\n"}
