"""The metadata and tensors of GGUF files, the format of llama.cpp.

A file is a header, which names and places everything, and the values of the
tensors. The header is parsed here and not by `gguf.GGUFReader`, which keeps an
array for each token of the vocabulary and follows damaged counts; the `gguf`
package knows the types and turns quantized blocks into floats.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import math
import mmap
import pathlib
import re
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from pausejax import errors
from pausejax.interop.tensor_files import zero_pages

SUFFIX = ".gguf"
_FIX = "download the file again"
_VERSIONS = (2, 3)
_SCALARS = {i: f for i, f in enumerate("BbHhIif?")} | {
  10: "Q",
  11: "q",
  12: "d",
}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_MAX_AXES = 4
_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_CHUNK = 1 << 20  # Values that are dequantized at once.


@dataclasses.dataclass(frozen=True)
class TensorPlace:
  """Where a tensor is.

  Attributes:
    path: its file.
    offset: its first byte.
    num_bytes: its size there.
    kind: a `gguf.GGMLQuantizationType`.
    shape: of its values; the last axis is contiguous.
  """

  path: pathlib.Path
  offset: int
  num_bytes: int
  kind: Any
  shape: tuple[int, ...]


class GgufFiles:
  """The files of one model.

  Attributes:
    path: the first file.
    metadata: name -> number, text, truth value, or list of them.
    places: the tensors by their names in the file.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the headers.

    Args:
      path: a .gguf file, one of several that make a model, or a folder with the
        files of one model.

    Raises:
      UserError: the `gguf` package is not installed, or a file is missing,
        damaged, or has a type that the package cannot read.
    """
    require_package()
    paths = _model_files(path)
    self.path = paths[0]
    self.metadata: dict[str, Any] = {}
    self.places: dict[str, TensorPlace] = {}
    for i, one in enumerate(paths):
      metadata, places = _read_header(one)
      self.metadata = self.metadata or metadata
      _require_split(one, metadata, i, len(paths))
      for name in sorted(places.keys() & self.places.keys()):
        raise errors.UserError(
          f"tensor {name!r} is in {self.places[name].path} and in {one}; {_FIX}"
        )
      self.places |= places
    _require_readable(self.path, self.places.values())

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor as float32."""
    from gguf import quants

    place = self.places[name]
    values = zero_pages(place.shape, np.dtype(np.float32))
    rows = values.reshape(-1, place.shape[-1])
    row_bytes = place.num_bytes // len(rows)
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
      num = min(step, len(rows) - start)
      offset = place.offset + start * row_bytes
      data = np.fromfile(place.path, np.uint8, num * row_bytes, offset=offset)
      data = data.reshape(num, row_bytes)
      rows[start : start + num] = quants.dequantize(data, place.kind)
    return values


def is_gguf(path: pathlib.Path) -> bool:
  """Returns whether a file, or a folder without safetensors, holds GGUF."""
  if path.is_dir():
    return any(path.glob(f"*{SUFFIX}")) and not any(path.glob("*.safetensors"))
  return path.suffix == SUFFIX


def require_package() -> None:
  """Raises a UserError unless the `gguf` package is installed."""
  try:
    import gguf  # noqa: F401
  except ImportError as e:
    raise errors.UserError(
      "GGUF files are read with the package gguf, which is not installed: "
      "pip install 'pausejax[gguf]'"
    ) from e


def _model_files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of the one model that a path names."""
  files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
  models = {m[1] if (m := _SPLIT.fullmatch(p.name)) else p.name for p in files}
  if len(models) != 1:
    raise errors.UserError(
      f"{path} has {len(models)} models as .gguf: "
      f"{', '.join(p.name for p in files[:6])}; name one of the files"
    )
  match = _SPLIT.fullmatch(files[0].name)
  if match is None:
    return files
  count = int(match[3])
  names = [
    f"{match[1]}-{i:05}-of-{count:05}{SUFFIX}" for i in range(1, count + 1)
  ]
  paths = [files[0].with_name(name) for name in names]
  for one in paths:
    if not one.is_file():
      raise errors.UserError(f"{one} is missing, one of {count} files; {_FIX}")
  return paths


def _require_split(
  path: pathlib.Path, metadata: dict[str, Any], index: int, count: int
) -> None:
  expected = (index, count)
  actual = (metadata.get("split.no", 0), metadata.get("split.count", 1) or 1)
  if actual != expected:
    raise errors.UserError(
      f"{path}: its header says file {actual[0] + 1} of {actual[1]}, its name "
      f"says {index + 1} of {count}; give the file its own name"
    )


def _require_readable(
  path: pathlib.Path, places: Iterable[TensorPlace]
) -> None:
  """Raises unless the package can turn all types into floats."""
  from gguf import GGML_QUANT_SIZES, quants

  unknown = []
  for kind in sorted({p.kind for p in places}):
    zeros = np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
      quants.dequantize(zeros, kind)
    except NotImplementedError:
      unknown.append(kind.name)
  if unknown:
    raise errors.UserError(
      f"{path} has tensors of type {', '.join(unknown)}, which the package "
      "gguf cannot read; get a file with another quantization, such as Q8_0"
    )


class _Cursor:
  """A position in a header."""

  def __init__(self, data: Any, path: pathlib.Path):
    self._data = data
    self._path = path
    self.at = 0

  def damaged(self, problem: str) -> errors.UserError:
    return errors.UserError(f"{self._path} is damaged: {problem}; {_FIX}")

  def bytes(self, num: int) -> bytes:
    end = self.at + num
    if end > len(self._data):
      raise self.damaged("it ends within its header")
    taken = self._data[self.at : end]
    self.at = end
    return taken

  def scalar(self, code: str) -> Any:
    code = f"<{code}"
    return struct.unpack(code, self.bytes(struct.calcsize(code)))[0]

  def text(self) -> str:
    try:
      return self.bytes(self.scalar("Q")).decode("utf-8")
    except UnicodeDecodeError as e:
      raise self.damaged("a text is not UTF-8") from e

  def value(self, kind: int) -> Any:
    if kind in _SCALARS:
      number = self.scalar(_SCALARS[kind])
      # 1e-5 in float32 is meant as 1e-5.
      return float(str(np.float32(number))) if kind == _FLOAT32 else number
    if kind == _STRING:
      return self.text()
    if kind != _ARRAY:
      raise self.damaged(f"a value has type {kind}")
    kind, num = self.scalar("I"), self.scalar("Q")
    if kind in _SCALARS:
      code = _SCALARS[kind]
      data = self.bytes(num * struct.calcsize(f"<{code}"))
      return np.frombuffer(data, f"<{code}").tolist()
    if kind != _STRING:
      raise self.damaged(f"a list has items of type {kind}")
    if num > len(self._data):
      raise self.damaged("it ends within its header")
    return [self.text() for _ in range(num)]


def _read_header(
  path: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
  """Returns the metadata and the tensors of one file."""
  try:
    with (
      open(path, "rb") as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
      return _parse_header(_Cursor(data, path), path, len(data))
  except (OSError, ValueError) as e:
    if isinstance(e, errors.UserError):
      raise
    raise errors.UserError(
      f"{path} cannot be read: {errors.first_line(e)}; {_FIX}"
    ) from e


def _parse_header(
  cursor: _Cursor, path: pathlib.Path, size: int
) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
  if cursor.bytes(4) != b"GGUF":
    raise cursor.damaged("it does not start with GGUF")
  version = cursor.scalar("I")
  if version not in _VERSIONS:
    raise errors.UserError(
      f"{path} is GGUF of version {version}, or of another byte order; "
      "versions 2 and 3, little-endian, are read: convert the model again"
    )
  num_tensors, num_values = cursor.scalar("Q"), cursor.scalar("Q")
  metadata: dict[str, Any] = {}
  for _ in range(num_values):
    name = cursor.text()
    if name in metadata:
      raise cursor.damaged(f"{name!r} is there twice")
    metadata[name] = cursor.value(cursor.scalar("I"))
  places: dict[str, TensorPlace] = {}
  for _ in range(num_tensors):
    name, place = _parse_place(cursor, path)
    if name in places:
      raise cursor.damaged(f"tensor {name!r} is there twice")
    places[name] = place
  start = _aligned(cursor, metadata.get("general.alignment", 32))
  places = {
    n: dataclasses.replace(p, offset=start + p.offset)
    for n, p in places.items()
  }
  for name, place in places.items():
    if place.offset + place.num_bytes > size:
      raise cursor.damaged(f"it ends before the end of tensor {name!r}")
  return metadata, places


def _parse_place(
  cursor: _Cursor, path: pathlib.Path
) -> tuple[str, TensorPlace]:
  """Returns a tensor's name and its place from the start of the tensors."""
  from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

  name = cursor.text()
  num_axes = cursor.scalar("I")
  if not 1 <= num_axes <= _MAX_AXES:
    raise cursor.damaged(f"tensor {name!r} has {num_axes} axes")
  shape = tuple(cursor.scalar("Q") for _ in range(num_axes))[::-1]
  number, offset = cursor.scalar("I"), cursor.scalar("Q")
  if number not in set(GGMLQuantizationType):
    raise errors.UserError(
      f"{path}: tensor {name!r} has type {number}, which the installed gguf "
      "does not know; install a newer one"
    )
  kind = GGMLQuantizationType(number)
  block, block_bytes = GGML_QUANT_SIZES[kind]
  if shape[-1] % block or not all(shape):
    raise cursor.damaged(
      f"tensor {name!r} has shape {list(shape)} in {kind.name}"
    )
  num_bytes = math.prod(shape) // block * block_bytes
  return name, TensorPlace(path, offset, num_bytes, kind, shape)


def _aligned(cursor: _Cursor, alignment: Any) -> int:
  """Returns the first byte of the tensors."""
  if not isinstance(alignment, int) or alignment < 1:
    raise cursor.damaged(f"general.alignment is {alignment!r}")
  return -(-cursor.at // alignment) * alignment
