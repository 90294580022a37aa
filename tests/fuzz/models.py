"""Readers of tokenizers and of open models."""

import json
import math

from pausejax.data import tokenizer_training, tokenizers
from pausejax.interop import families, tokenizer_files
from pausejax.interop.model_files import open_model_files
from tests import gguf_writer, open_families, open_models, test_tokenizers
from tests.fuzz.reader import TEXTS, Reader, put


def _tokenizer(file: str) -> Reader:
  def make(folder):
    if file.endswith(".model"):
      content = tokenizer_training.train_tokenizer(
        test_tokenizers.CORPUS, vocab_size=400
      )
      return put(folder / file, content)
    test_tokenizers.byte_level_bpe().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": {"content": "<|endoftext|>"}, "bos_token": None}
    put(folder / "tokenizer_config.json", json.dumps(settings))
    return folder / file

  def read(path):
    name = path.name if path.suffix == ".model" else "tokenizer.json"
    tokenizer = tokenizers.load_tokenizer(str(path.with_name(name)))
    ids = tokenizer.encode([*TEXTS, "<pause> \U0001f600", ""])
    assert all(0 <= i < tokenizer.pause_id for one in ids for i in one)
    assert 0 <= tokenizer.eos_id < tokenizer.pause_id
    return ids, [tokenizer.decode(one) for one in ids], tokenizer.eos_id

  return Reader(name=f"tokenizer {file}", make=make, read=read)


def _model_folder(file: str, num_files: int) -> Reader:
  def make(folder):
    small = {"num_hidden_layers": 1}
    open_models.write_folder(folder, small, num_files=num_files)
    settings = {"eos_token": "</s>", "chat_template": "{{ messages }}"}
    put(folder / "tokenizer_config.json", json.dumps(settings))
    (path,) = folder.glob(file)
    return path

  def read(path):
    source = open_model_files(path.parent)
    family, fields = families.parse_config(source.values)
    tokenizer = tokenizer_files.filled(source.tokenizer(), 320)
    tensors = source.tensors()
    for name, (shape, _) in tensors.shapes.items():
      assert tensors.read(name).shape == shape
    return family.architecture, repr(fields), tokenizer, repr(tensors.shapes)

  return Reader(name=f"model folder {file}", make=make, read=read)


def _gguf() -> Reader:
  def make(folder):
    values = gguf_writer.MODELS["qwen2"] | {"num_hidden_layers": 1}
    tensors = open_families.tensors_of(values)
    return gguf_writer.write_gguf(folder / "m.gguf", values, tensors)

  def read(path):
    source = open_model_files(path)
    _, fields = families.parse_config(source.values)
    tensors = source.tensors()
    for name, (shape, _) in tensors.shapes.items():
      if math.prod(shape) < 10**6:
        assert tensors.read(name).shape == shape
    return repr(fields), source.tokenizer()

  return Reader(name="GGUF", make=make, read=read)


READERS = [
  _tokenizer("tokenizer.model"),
  _tokenizer("tokenizer.json"),
  _tokenizer("tokenizer_config.json"),
  _model_folder("config.json", 1),
  _model_folder("tokenizer.json", 1),
  _model_folder("tokenizer_config.json", 1),
  _model_folder("model.safetensors", 1),
  _model_folder("model.safetensors.index.json", 2),
  _gguf(),
]
