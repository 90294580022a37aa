"""The tensors of a model folder: safetensors, read one at a time."""

import contextlib
import math
import mmap
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from pausejax import errors, files, json_files
from pausejax.interop.family import Family

INDEX = "model.safetensors.index.json"
_FIX = "download the folder again"
_CHUNK = 1 << 20  # Values that are read at once.
_MAX_NAME = 200  # Characters of a file's name.


class Tensors(Protocol):
  """The tensors of a model.

  Attributes:
    shapes: name -> (shape, name of the dtype in the file).
  """

  shapes: dict[str, tuple[tuple[int, ...], str]]

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor, in the dtype of the file or as float32."""
    ...


class _Renamed:
  """Tensors under other names: new name -> name in the files."""

  def __init__(self, tensors: Tensors, names: Mapping[str, str]):
    self._tensors, self._names = tensors, names
    self.shapes = {new: tensors.shapes[old] for new, old in names.items()}

  def read(self, name: str) -> np.ndarray:
    return self._tensors.read(self._names[name])


def with_prefix(tensors: Tensors, family: Family) -> Tensors:
  """Returns the tensors under their full names.

  Files of a model without its head, and the first files of GPT-2, leave out the
  name of the base model: "wte.weight" is "transformer.wte.weight".
  """
  prefix = family.modules["embedding"].partition(".")[0] + "."
  head = family.modules.get("untied_head", "") + "."
  bare = [n for n in tensors.shapes if not n.startswith((prefix, head))]
  if any(name.startswith(prefix) for name in tensors.shapes):
    return tensors
  full = {n: prefix + n if n in bare else n for n in tensors.shapes}
  return _Renamed(tensors, {new: old for old, new in full.items()})


class TensorFolder:
  """The tensors of a folder, by name.

  Attributes:
    shapes: name -> (shape, dtype as safetensors names it, such as "BF16").
  """

  def __init__(self, folder: pathlib.Path):
    """Reads the headers of all files.

    Raises:
      UserError: there are no safetensors, a file is damaged or missing, or a
        tensor is in two files or in another one than the index says.
    """
    self._files: dict[str, pathlib.Path] = {}
    self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in _files(folder):
      with _opened(path) as file:
        for name in sorted(file.keys()):
          self._add(name, path, file.get_slice(name))
    _require_index(folder, {n: p.name for n, p in self._files.items()})

  def _add(self, name: str, path: pathlib.Path, header: Any) -> None:
    if name in self._files:
      raise errors.UserError(
        f"tensor {name!r} is in {self._files[name]} and in {path}; {_FIX}"
      )
    self._files[name] = path
    self.shapes[name] = tuple(header.get_shape()), header.get_dtype()

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor, in the dtype of the file."""
    path = self._files[name]
    with _opened(path) as file:
      shape = self.shapes[name][0]
      if not shape or math.prod(shape) <= _CHUNK:
        return file.get_tensor(name)
      dtype = file.get_slice(name)[:0].dtype
    values = zero_pages(shape, dtype)
    step = max(1, _CHUNK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
      # Opened anew, which releases the pages of the rows before.
      with _opened(path) as file:
        end = min(start + step, shape[0])
        values[start:end] = file.get_slice(name)[start:end]
    return values


def zero_pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Returns an array of zeros in pages of its own.

  JAX on CPU reads it without a copy, since it is aligned; when it is freed, its
  pages go back to the system.
  """
  num_values = math.prod(shape)
  pages = mmap.mmap(-1, max(1, num_values * dtype.itemsize))
  return np.frombuffer(pages, dtype, num_values).reshape(shape)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  import safetensors

  try:
    file = safetensors.safe_open(path, framework="numpy")
  except (safetensors.SafetensorError, OSError) as e:
    raise errors.UserError(
      f"{path} is damaged: {errors.first_line(e)}; {_FIX}"
    ) from e
  with file as opened:
    yield opened


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  index = folder / INDEX
  if index.is_file():
    named = sorted(set(_weight_map(index).values()))
    for name in named:
      if not files.is_name(name) or len(name) > _MAX_NAME:
        raise errors.UserError(
          f"{index}: {name!r:.60} is not a file name; {_FIX}"
        )
      if not (folder / name).is_file():
        raise errors.UserError(
          f"{index} names {name}, which is not there; {_FIX}"
        )
    for path in sorted(folder.glob("model*.safetensors")):
      if path.name not in named:
        raise errors.UserError(
          f"{path} is beside {INDEX}, which does not name it; remove one"
        )
    return [folder / name for name in named]
  # Names that begin with a dot are of the file system.
  paths = sorted(folder.glob("[!.]*.safetensors"))
  if not paths:
    raise errors.UserError(
      f"{folder} has no .safetensors; pickled weights (.bin, .pt) are not "
      "read: convert them with transformers' save_pretrained"
    )
  return paths


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  return json_files.read(index, {"weight_map": {str: str}}, _FIX)["weight_map"]


def _require_index(folder: pathlib.Path, actual: dict[str, str]) -> None:
  index = folder / INDEX
  if not index.is_file():
    return
  named = _weight_map(index)
  for name in sorted(named.keys() | actual.keys()):
    if named.get(name) != actual.get(name):
      raise errors.UserError(
        f"{index} has {name!r} in {named.get(name, 'no file')}, it is in "
        f"{actual.get(name, 'no file')}; {_FIX}"
      )
