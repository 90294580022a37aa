"""The tensors of a model folder: safetensors, read one at a time."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from pausejax import errors, json_files

INDEX = "model.safetensors.index.json"
_FIX = "download the folder again"


class Tensors(Protocol):
  """The tensors of a model.

  Attributes:
    shapes: name -> (shape, name of the dtype in the file).
  """

  shapes: dict[str, tuple[tuple[int, ...], str]]

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor, in the dtype of the file or as float32."""
    ...


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
    with _opened(self._files[name]) as file:
      return file.get_tensor(name)


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
      if pathlib.PurePath(name).name != name:
        raise errors.UserError(f"{index}: {name!r} is not a file name; {_FIX}")
      if not (folder / name).is_file():
        raise errors.UserError(
          f"{index} names {name}, which is not there; {_FIX}"
        )
    return [folder / name for name in named]
  files = sorted(folder.glob("*.safetensors"))
  if not files:
    raise errors.UserError(
      f"{folder} has no .safetensors; pickled weights (.bin, .pt) are not "
      "read: convert them with transformers' save_pretrained"
    )
  return files


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
