"""`pausejax import`: the run has the model's bits, or there is no run."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from pausejax import cli
from pausejax.checkpoints import leaves, saved_run
from pausejax.interop import tensor_files
from tests import open_models
from tests.open_models import import_model, load, refused

SHAPES = open_models.llama_shapes(open_models.LLAMA)
LAST = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tmp_path):
  return open_models.write_folder(tmp_path / "model")


@pytest.mark.parametrize("num_files", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_every_value_is_in_the_run(tmp_path, dtype, num_files):
  tensors = open_models.random_tensors(SHAPES, dtype)
  folder = open_models.write_folder(
    tmp_path / "model", tensors=tensors, num_files=num_files
  )
  import_model(folder, tmp_path / "run")
  saved, model = load(tmp_path / "run")
  exact = {name: x.astype(np.float32) for name, x in tensors.items()}
  embedding_VD = np.asarray(model.embedding)
  text_VD = exact["model.embed_tokens.weight"]
  np.testing.assert_array_equal(embedding_VD[:320], text_VD)
  mean_D = text_VD.mean(axis=0)
  np.testing.assert_allclose(embedding_VD[320], mean_D, atol=1e-6)
  head_VD = np.asarray(model.untied_head).T
  np.testing.assert_array_equal(head_VD[:320], exact["lm_head.weight"])
  contract_LFD = leaves.flatten(model)["blocks/contract/kernel"]
  np.testing.assert_array_equal(contract_LFD[1], exact[LAST].T)
  assert saved.tokenizer.pause_id == 320
  assert saved.model.norm_epsilon == 1e-5
  assert saved.model.rope_theta == 1e5


def test_parameters_of_a_run_are_split_over_the_devices(folder, tmp_path):
  import jax

  from pausejax import sharding
  from pausejax.config import MeshConfig
  from pausejax.interop import reading

  mesh = MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1)
  with jax.set_mesh(sharding.make_mesh(mesh)):
    model = reading.load_params(reading.check_folder(folder))
  expand = leaves.flatten(model)["blocks/expand/kernel"]
  assert jax.device_count() == 8
  assert {s.data.size for s in expand.addressable_shards} == {expand.size // 8}


def test_the_run_answers_and_names_where_it_is_from(folder, tmp_path, capsys):
  import_model(folder, tmp_path / "run")
  out = capsys.readouterr().out
  assert "LlamaForCausalLM" in out
  assert "<pause> is id 320" in out
  meta = saved_run.find_run(str(tmp_path / "run")).meta
  assert not meta["pauses_seen"]
  assert meta["imported"] == {"folder": str(folder), "model_type": "llama"}
  argv = [f"--checkpoint={tmp_path / 'run'}", "--prompt=the", "--pauses=2"]
  assert cli.main(["generate", *argv, "--max_new_tokens=4"]) == 0


def test_a_run_is_not_replaced(folder, tmp_path, capsys):
  import_model(folder, tmp_path / "run")
  import_model(folder, tmp_path / "run", expect=1)
  assert "holds the checkpoints of a run" in capsys.readouterr().err


def save(folder, tensors, name="model.safetensors"):
  safetensors.numpy.save_file(tensors, folder / name)


def test_missing_additional_and_other_tensors_are_in_one_table(
  folder, tmp_path, capsys
):
  tensors = open_models.random_tensors(SHAPES)
  del tensors[LAST]
  tensors["model.norm.weight"] = np.zeros(33, np.float32)
  tensors["model.layers.2.input_layernorm.weight"] = np.zeros(32, np.float32)
  save(folder, tensors)
  refused(
    folder,
    tmp_path / "run",
    capsys,
    "3 tensors differ",
    f"{LAST}: expected [32, 48], the file has none",
    "model.norm.weight: expected [32], the file has [33]",
    "model.layers.2.input_layernorm.weight: expected none",
  )


def test_a_doubled_tensor_is_refused(folder, tmp_path, capsys):
  one = {"model.norm.weight": np.zeros(32, np.float32)}
  save(folder, one, "more.safetensors")
  refused(folder, tmp_path / "run", capsys, "'model.norm.weight' is in")


@pytest.mark.parametrize("num_bytes", [0, 7, 200, 40_000])
def test_a_truncated_file_is_refused(folder, tmp_path, num_bytes, capsys):
  path = folder / "model.safetensors"
  os.truncate(path, num_bytes)
  refused(folder, tmp_path / "run", capsys, "model.safetensors is damaged")


@pytest.mark.parametrize(
  ("name", "file", "fragment"),
  [
    (LAST, "gone.safetensors", "names gone.safetensors, which is not there"),
    (LAST, "../model.safetensors", "is not a file name"),
    (LAST, "model-00001-of-00002.safetensors", "it is in"),
    ("extra", "model-00001-of-00002.safetensors", "it is in no file"),
  ],
)
def test_an_index_that_does_not_fit_is_refused(
  tmp_path, name, file, fragment, capsys
):
  folder = open_models.write_folder(tmp_path / "model", num_files=2)
  path = folder / "model.safetensors.index.json"
  index = json.loads(path.read_text())
  is_there = index["weight_map"].get(name) == file
  index["weight_map"][name] = (
    "model-00002-of-00002.safetensors" if is_there else file
  )
  path.write_text(json.dumps(index))
  refused(folder, tmp_path / "run", capsys, fragment)


@pytest.mark.parametrize(
  ("content", "fragment"),
  [
    ("{", "not JSON"),
    ("[]", "an object"),
    ('{"model_type": "llama"}', "vocab_size"),
    ('{"model_type": "mamba", "vocab_size": 320}', "mamba"),
  ],
)
def test_a_wrong_config_is_refused(folder, tmp_path, content, fragment, capsys):
  (folder / "config.json").write_text(content)
  refused(folder, tmp_path / "run", capsys, fragment)


def test_pickled_weights_are_refused(folder, tmp_path, capsys):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  refused(folder, tmp_path / "run", capsys, "pickled weights")


def test_an_interrupted_import_is_repeated(folder, tmp_path, monkeypatch):
  from pausejax.checkpoints.store import Store

  out = tmp_path / "run"

  def stop(*_, **__):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(Store, "save", stop)
    with pytest.raises(KeyboardInterrupt):
      import_model(folder, out)
  import_model(folder, out)
  assert load(out)[0].step == 0


def test_pretraining_with_pauses_starts_from_an_imported_run(folder, tmp_path):
  import_model(folder, tmp_path / "run")
  shutil.rmtree(folder)
  assert (
    cli.main(
      [
        "train",
        "--config=smoke",
        f"--init_from={tmp_path / 'run'}",
        f"--workdir={tmp_path / 'paused'}",
        "--config.num_steps=2",
        "--config.batch_size=8",
        "--config.data.seq_len=32",
        "--config.loss.num_chunks=1",
        "--config.eval.every=2",
      ]
    )
    == 0
  )
  meta = saved_run.find_run(str(tmp_path / "paused")).meta
  assert meta["pauses_seen"]


def test_a_large_tensor_is_read_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(tensor_files, "_CHUNK", 1000)
  rng = np.random.default_rng(0)
  shapes = [(7,), (2500,), (1, 3000), (333, 10), (41, 5, 7)]
  tensors = {
    f"{i}": rng.normal(size=shape).astype(ml_dtypes.bfloat16)
    for i, shape in enumerate(shapes)
  }
  safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  files = tensor_files.TensorFolder(tmp_path)
  for name, expected in tensors.items():
    actual = files.read(name)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def tied_folder(path, head=None):
  """Writes a model whose embeddings are tied, and perhaps a head."""
  values = {"tie_word_embeddings": True}
  shapes = open_models.llama_shapes({**open_models.LLAMA, **values})
  tensors = open_models.random_tensors(shapes)
  if head is not None:
    tensors["lm_head.weight"] = head(tensors["model.embed_tokens.weight"])
  return open_models.write_folder(path, values, tensors)


def test_a_stored_copy_of_the_embedding_is_no_additional_tensor(tmp_path):
  import_model(tied_folder(tmp_path / "tied", np.copy), tmp_path / "run")


@pytest.mark.parametrize(
  ("head", "fragment"),
  [
    (np.negative, "lm_head.weight differs from model.embed_tokens.weight"),
    (lambda x: x[:7, :3], "lm_head.weight: expected none"),
  ],
)
def test_another_head_of_tied_embeddings_is_refused(
  tmp_path, head, fragment, capsys
):
  folder = tied_folder(
    tmp_path / "tied", lambda x: np.ascontiguousarray(head(x))
  )
  refused(folder, tmp_path / "run", capsys, fragment)


def test_a_file_beside_the_index_is_refused(tmp_path, capsys):
  folder = open_models.write_folder(tmp_path / "model", num_files=2)
  save(folder, open_models.random_tensors(SHAPES))
  refused(folder, tmp_path / "run", capsys, "model.safetensors is beside")


def with_dtype(content: bytes, name: str, dtype: str) -> bytes:
  """Returns a safetensors file in which a tensor has another type."""
  end = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:end])
  header[name]["dtype"] = dtype
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + content[end:]


@pytest.mark.parametrize(
  ("stored", "dtype"),
  [
    (np.int8, "I8"),
    (bool, "BOOL"),
    (np.float64, "F64"),
    (np.int8, "F8_E4M3"),
    (np.int8, "F8_E5M2"),
  ],
)
def test_values_that_are_no_weights_are_refused(
  folder, tmp_path, stored, dtype, capsys
):
  tensors = open_models.random_tensors(SHAPES)
  save(folder, {**tensors, LAST: tensors[LAST].astype(stored)})
  path = folder / "model.safetensors"
  path.write_bytes(with_dtype(path.read_bytes(), LAST, dtype))
  refused(folder, tmp_path / "run", capsys, f"{LAST}: ", f"[32, 48] of {dtype}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value, capsys):
  tensors = open_models.random_tensors(SHAPES)
  tensors[LAST][3, 4] = value
  folder = open_models.write_folder(tmp_path / "model", tensors=tensors)
  refused(folder, tmp_path / "run", capsys, "blocks/contract", "NaN or inf")


def test_names_without_the_base_model_are_those_of_the_model(folder, tmp_path):
  import_model(folder, tmp_path / "run")
  bare = {
    name.removeprefix("model."): x
    for name, x in open_models.random_tensors(SHAPES).items()
  }
  save(folder, bare)
  import_model(folder, tmp_path / "bare")
  first, second = (
    leaves.flatten(load(tmp_path / name)[1]) for name in ("run", "bare")
  )
  for name, x in first.items():
    np.testing.assert_array_equal(np.asarray(x), np.asarray(second[name]))


def test_a_buffer_of_another_architecture_is_an_additional_tensor(
  folder, tmp_path, capsys
):
  tensors = open_models.random_tensors(SHAPES)
  tensors["x.attention.bias"] = np.zeros(3, np.float32)
  save(folder, tensors)
  refused(folder, tmp_path / "run", capsys, "x.attention.bias: expected none")


def test_a_disk_without_space_leaves_nothing(
  folder, tmp_path, monkeypatch, capsys
):
  usage = shutil.disk_usage(tmp_path)
  full = lambda _: usage._replace(free=1000)
  monkeypatch.setattr("pausejax.checkpoints.space.shutil.disk_usage", full)
  refused(folder, tmp_path / "run", capsys, "no space for a checkpoint")
