"""The files of an open model, in either format."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from pausejax import errors, json_files
from pausejax.interop import tokenizer_files
from pausejax.interop.gguf_files import GgufFiles, is_gguf
from pausejax.interop.gguf_models import GgufModel
from pausejax.interop.gguf_tokenizers import read_gguf_tokenizer
from pausejax.interop.tensor_files import TensorFolder, Tensors
from pausejax.interop.tokenizer_files import TokenizerFile


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """What the files of a model hold, in the terms of transformers.

  Attributes:
    values: its config.json.
    tokenizer: reads its tokenizer.
    tensors: opens its tensors.
  """

  values: dict[str, Any]
  tokenizer: Callable[[], TokenizerFile]
  tensors: Callable[[], Tensors]


def open_model_files(path: pathlib.Path) -> ModelFiles:
  """Returns the files of a folder of Hugging Face, or of GGUF.

  A tokenizer.json beside GGUF files takes the place of theirs.

  Raises:
    UserError: the files are missing or damaged.
  """
  if not is_gguf(path):
    if path.is_file():
      raise errors.UserError(
        f"{path} is neither a .gguf file nor a folder with config.json"
      )
    values = json_files.read(
      path / "config.json", {"vocab_size": int}, "name a model folder"
    )
    return ModelFiles(
      values,
      lambda: tokenizer_files.read_tokenizer(path, values),
      lambda: TensorFolder(path),
    )
  files = GgufFiles(path)
  model = GgufModel(files)
  if (path / "tokenizer.json").is_file():
    tokenizer = lambda: tokenizer_files.read_tokenizer(path, model.values)
  else:
    tokenizer = lambda: read_gguf_tokenizer(files)
  return ModelFiles(model.values, tokenizer, lambda: model)
