"""GGUF: architectures, quantizations, tokenizers, and damaged files."""

import pathlib
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers as huggingface

from pausejax import errors, sharding
from pausejax.config import MeshConfig
from pausejax.data.tokenizers import load_tokenizer
from pausejax.interop import families, reading
from pausejax.interop.gguf_files import GgufFiles
from pausejax.interop.model_files import open_model_files
from tests.open_models import (
  TEXT,
  byte_fallback_tokenizer,
  random_tensors,
  write_folder,
)

gguf = pytest.importorskip("gguf")
from tests.gguf_writer import BASE, MODELS, shapes, write_gguf  # noqa: E402

SMALL = BASE | dict(model_type="llama", num_hidden_layers=1, rope_theta=1e5)


def write_small(path: pathlib.Path, **options) -> pathlib.Path:
  return write_gguf(path, SMALL, random_tensors(shapes(SMALL)), **options)


def refusal(path: pathlib.Path) -> str:
  """Returns the one line that opening everything of a file ends with."""
  with pytest.raises(errors.UserError) as e:
    files = open_model_files(path)
    files.tokenizer()
  assert "\n" not in e.value.message
  return e.value.message


@pytest.mark.parametrize("name", MODELS)
def test_the_tensors_and_the_config_are_those_of_the_model(name, tmp_path):
  values = MODELS[name]
  expected = random_tensors(shapes(values))
  files = open_model_files(write_gguf(tmp_path / "m.gguf", values, expected))
  tensors = files.tensors()
  assert tensors.shapes == {n: (x.shape, "F32") for n, x in expected.items()}
  for n, x in expected.items():
    actual = tensors.read(n)
    if name == "gemma3" and n.endswith("norm.weight"):
      np.testing.assert_allclose(actual, x, atol=1e-7)
    else:
      np.testing.assert_array_equal(actual, x, err_msg=n)
  _, fields = families.parse_config(values)
  _, actual = families.parse_config(files.values)
  assert actual.keys() == fields.keys()
  for field, value in fields.items():
    assert actual[field] == pytest.approx(value), field


def test_a_llama_of_rope_factors_that_no_parameters_give_is_refused(tmp_path):
  values = MODELS["llama-3"]
  tensors = random_tensors(shapes(values))
  path = write_gguf(tmp_path / "m.gguf", values, tensors)
  data = path.read_bytes()
  factor = struct.pack("<f", 8.0)
  at = data.rindex(factor)
  path.write_bytes(data[:at] + struct.pack("<f", 7.0) + data[at + 4 :])
  assert "llama3" in refusal(path)


@pytest.mark.parametrize(
  "kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
)
def test_quantized_tensors_are_those_of_the_package(kind, tmp_path):
  expected = random_tensors(shapes(SMALL))
  path = write_gguf(tmp_path / "m.gguf", SMALL, expected, kind=kind)
  tensors = open_model_files(path).tensors()
  name = "model.layers.0.mlp.up_proj.weight"
  type_ = gguf.GGMLQuantizationType[kind]
  quantized = gguf.quants.quantize(expected[name], type_)
  assert tensors.shapes[name] == ((96, 64), kind)
  np.testing.assert_array_equal(
    tensors.read(name), gguf.quants.dequantize(quantized, type_)
  )


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_values_are_those_of_the_package(kind, tmp_path):
  type_ = gguf.GGMLQuantizationType[kind]
  block_bytes = gguf.GGML_QUANT_SIZES[type_][1]
  data = np.random.default_rng(0).integers(0, 60, (6, 2 * block_bytes))
  data = data.astype(np.uint8)
  path = tmp_path / "m.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_tensor("x", data, raw_dtype=type_)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  actual = GgufFiles(path).read("x")
  assert actual.shape == (6, 512)
  np.testing.assert_array_equal(actual, gguf.quants.dequantize(data, type_))


def test_a_type_without_floats_is_refused_by_name(tmp_path):
  path = tmp_path / "m.gguf"
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_tensor("x", np.zeros((2, 32), np.int8))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  assert "I8" in refusal(path)


def test_several_files_are_one_model(tmp_path):
  whole = write_small(tmp_path / "whole.gguf")
  expected = open_model_files(whole).tensors()
  parts = split(whole, tmp_path / "split")
  for path in (tmp_path / "split", parts[0], parts[1]):
    tensors = open_model_files(path).tensors()
    assert tensors.shapes == expected.shapes
    name = "model.norm.weight"
    np.testing.assert_array_equal(tensors.read(name), expected.read(name))
  parts[1].rename(tmp_path / "elsewhere")
  assert "00002-of-00002.gguf is missing" in refusal(parts[0])
  parts[0].rename(tmp_path / "split" / "alone.gguf")
  assert "its header says file 1 of 2" in refusal(tmp_path / "split")


def split(path: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the file as two, like llama-gguf-split."""
  folder.mkdir()
  reader = gguf.GGUFReader(path)
  paths = [folder / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
  for i, part in enumerate(paths):
    writer = gguf.GGUFWriter(part, "llama")
    for key, field in reader.fields.items():
      if i == 0 and not key.startswith(("GGUF.", "general.architecture")):
        kinds = field.types
        writer.add_key_value(key, field.contents(), kinds[0], kinds[-1])
    writer.add_uint16("split.no", i)
    writer.add_uint16("split.count", 2)
    for tensor in reader.tensors[i::2]:
      writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
  return paths


def test_a_folder_of_two_models_is_refused(tmp_path):
  write_small(tmp_path / "a.gguf")
  write_small(tmp_path / "b.gguf")
  assert "2 models" in refusal(tmp_path)
  assert open_model_files(tmp_path / "a.gguf").values["vocab_size"] == 320


@pytest.mark.parametrize(
  ("metadata", "words"),
  [
    ({"general.architecture": "mamba"}, "'mamba' is not supported"),
    ({"llama.block_count": None}, "no llama.block_count"),
    ({"llama.block_count": "six"}, "expected a whole number"),
    ({"llama.expert_count": 8}, "no llama.expert_count = 8"),
    ({"llama.attention.clamp_kqv": 8.0}, "no llama.attention.clamp_kqv"),
    ({"llama.rope.scaling.type": "yarn"}, "no llama.rope.scaling.type = yarn"),
    ({"llama.attention.key_length": 32}, "value_length"),
    ({"tokenizer.ggml.model": None}, "no tokenizer.ggml.model"),
    ({"tokenizer.ggml.model": "bert"}, "'bert' is not supported"),
    ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not supported"),
    ({"tokenizer.ggml.pre": None}, "'default' is not supported"),
    ({"tokenizer.ggml.tokens": ["a", "a"]}, "differ in length"),
    ({"tokenizer.ggml.merges": ["t h", "x"]}, "its merge 'x'"),
    ({"tokenizer.ggml.merges": ["t ?!"]}, "its merge 't ?!'"),
  ],
)
def test_wrong_metadata_is_one_line(metadata, words, tmp_path):
  assert words in refusal(write_small(tmp_path / "m.gguf", metadata=metadata))


def test_a_tokenizer_beside_the_file_takes_its_place(tmp_path):
  write_small(tmp_path / "m.gguf", metadata={"tokenizer.ggml.pre": "tekken"})
  byte_fallback_tokenizer().save(str(tmp_path / "tokenizer.json"))
  tokenizer = open_model_files(tmp_path).tokenizer()
  assert tokenizer.content == (tmp_path / "tokenizer.json").read_bytes()


def test_damaged_files_are_one_line(tmp_path):
  data = write_small(tmp_path / "good.gguf").read_bytes()
  path = tmp_path / "m.gguf"
  ends = [
    0,
    3,
    7,
    20,
    100,
    1000,
    len(data) // 20,
    len(data) // 2,
    len(data) - 40,
  ]
  for end in ends:
    path.write_bytes(data[:end])
    assert str(path) in refusal(path), end
  for start, wrong in ((b"GGML", "does not start"), (b"GGUF\1", "version 1")):
    path.write_bytes(start + data[len(start) :])
    assert wrong in refusal(path)
  many = struct.pack("<Q", 2**60)
  for at in (8, 16, 24):  # Tensors, values, the first text's length.
    path.write_bytes(data[:at] + many + data[at + 8 :])
    assert str(path) in refusal(path)


def test_wrong_bytes_in_the_header_are_no_traceback(tmp_path):
  data = bytearray(write_small(tmp_path / "good.gguf").read_bytes())
  path = tmp_path / "m.gguf"
  generator = np.random.default_rng(0)
  for _ in range(60):
    changed = data.copy()
    for at in generator.integers(0, 12_000, 3):
      changed[at] = generator.integers(256)
    path.write_bytes(changed)
    try:
      reading.check_folder(path)
    except errors.UserError as e:
      assert "\n" not in e.message


@pytest.mark.parametrize("missing", [True, False])
def test_missing_and_additional_tensors_are_a_table(missing, tmp_path):
  tensors = random_tensors(shapes(SMALL))
  name = "model.layers.0.mlp.up_proj.weight"
  wrong = "model.layers.0.self_attn.q_norm.weight"
  if missing:
    tensors.pop(name)
  else:
    tensors[wrong] = np.ones(16, np.float32)
  path = write_gguf(tmp_path / "m.gguf", SMALL, tensors)
  with pytest.raises(errors.UserError) as e:
    reading.check_folder(path)
  assert "1 tensors differ" in e.value.message
  assert (name if missing else wrong) in e.value.details


def test_the_same_run_as_from_safetensors(tmp_path):
  tensors = random_tensors(shapes(SMALL))
  write_gguf(tmp_path / "m.gguf", SMALL, tensors)
  write_folder(tmp_path / "folder", SMALL, tensors)
  mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1))
  with jax.set_mesh(mesh):
    models = [
      reading.load_params(reading.check_folder(tmp_path / name))
      for name in ("m.gguf", "folder")
    ]
  jax.tree.map(np.testing.assert_array_equal, *models)


def test_byte_level_bpe(tmp_path):
  path = write_small(
    tmp_path / "m.gguf", metadata={"tokenizer.chat_template": "T"}
  )
  file = open_model_files(path).tokenizer()
  assert file.settings == {
    "bos_token": "<|end|>",
    "eos_token": "<|end|>",
    "chat_template": "T",
  }
  model = load_tokenizer(str(file.write(tmp_path)))
  tokens = GgufFiles(path).metadata["tokenizer.ggml.tokens"]
  ids = model.encode(["the 12\n<|end|>é"])[0]
  expected = "th e Ġ 1 2 Ċ < | e n d | > Ã ©"
  assert " ".join(tokens[i] for i in ids) == expected
  assert model.decode(ids) == "the 12\n<|end|>é"
  assert (model.bos_id, model.eos_id, model.pause_id) == (0, 0, 320)


def test_bos_is_added_where_the_model_wants_it(tmp_path):
  for wanted in (True, False):
    metadata = {"tokenizer.ggml.add_bos_token": wanted}
    path = write_small(tmp_path / "m.gguf", metadata=metadata)
    content = open_model_files(path).tokenizer().content
    model = huggingface.Tokenizer.from_buffer(content)
    assert model.encode("th").tokens == ["<|end|>"] * wanted + ["th"]


def test_sentencepiece(tmp_path):
  import io

  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter([TEXT] * 4),
    model_writer=made,
    model_type="bpe",
    vocab_size=300,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    user_defined_symbols=["<|user|>"],
    minloglevel=2,
  )
  trained = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
  ids = range(trained.vocab_size())
  is_kinds = (trained.IsUnknown, trained.IsControl, trained.IsByte)
  kinds = [
    next((k for k, f in zip((2, 3, 6), is_kinds, strict=True) if f(i)), 1)
    for i in ids
  ]
  kinds[trained.PieceToId("<|user|>")] = 4
  metadata = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": [trained.IdToPiece(i) for i in ids],
    "tokenizer.ggml.scores": [trained.GetScore(i) for i in ids],
    "tokenizer.ggml.token_type": kinds,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
  }
  path = write_small(tmp_path / "m.gguf", metadata=metadata)
  file = open_model_files(path).tokenizer()
  assert file.name == "tokenizer.model"
  model = load_tokenizer(str(file.write(tmp_path)))
  texts = [TEXT, "  two  spaces é\n日本 ", "a<|user|>b <s>"]
  assert model.encode(texts) == trained.encode(texts)
  assert (model.bos_id, model.eos_id) == (1, 2)


@pytest.mark.slow
def test_without_the_package_one_line_names_the_extra(tmp_path):
  path = write_small(tmp_path / "m.gguf")
  code = (
    "import sys; sys.modules['gguf'] = None\n"
    "from pausejax import cli\n"
    f"sys.exit(cli.main(['import', '--from={path}', '--out={tmp_path}/run']))"
  )
  ended = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert ended.returncode == 1
  assert "pip install 'pausejax[gguf]'" in ended.stderr
  assert "Traceback" not in ended.stderr
  assert not (tmp_path / "run").exists()
