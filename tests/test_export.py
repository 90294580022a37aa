"""Exports: every value comes back, files are whole, nothing else is lost."""

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pausejax import errors, sharding
from pausejax.checkpoints import leaves
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.config import MeshConfig, default
from pausejax.data import tokenizers
from pausejax.interop import export, reading
from pausejax.interop.tensor_files import INDEX, TensorFolder
from tests import models
from tests.test_hf_config import CLASSES


@pytest.fixture(autouse=True)
def _mesh():
  with jax.set_mesh(sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
    yield


def saved_run(folder: pathlib.Path, spec: str = "bytes", **changes) -> SavedRun:
  """A run with an untrained model of `models.model_config(**changes)`."""
  tokenizer = tokenizers.load_tokenizer(spec)
  model = dataclasses.replace(
    models.model_config(**changes), vocab_size=tokenizer.vocab_size
  )
  tree = default()
  tree.data.update(task="stdlib_docs", seq_len=32, tokenizer=spec)
  tree.model.update(
    {n: v for n, v in dataclasses.asdict(model).items() if n != "vocab_size"}
  )
  meta = {"config": tree.to_dict(), "pauses_seen": True}
  return SavedRun(folder, 7, meta, tokenizer, spec, model)


def written(folder: pathlib.Path, saved: SavedRun, seed: int = 0, **options):
  """Exports a random model; returns its decoder and the folder."""
  decoder = models.random_model(saved.model, seed)
  prepared = export.prepare_export(saved, "name", **options)
  export.write_export(prepared, decoder, folder / "out")
  return decoder, folder / "out"


def require_equal_params(a, b) -> None:
  """Compares all rows that are ids; the others are padding."""
  b = leaves.flatten(b)
  for name, x in leaves.flatten(a).items():
    x, y = np.asarray(x), np.asarray(b[name])
    if name in ("embedding", "head_bias"):
      x, y = x[:260], y[:260]
    if name == "untied_head":
      x, y = x[:, :260], y[:, :260]
    assert np.array_equal(x, y), name


@pytest.mark.parametrize("architecture", CLASSES)
def test_import_of_an_export_is_the_identity(architecture, tmp_path):
  saved = saved_run(tmp_path, **CLASSES[architecture])
  decoder, out = written(tmp_path, saved)
  source = reading.check_folder(out)
  assert source.has_pause
  assert source.model.vocab_size == saved.model.vocab_size
  require_equal_params(decoder, reading.load_params(source))


def test_bfloat16_rounds_once(tmp_path):
  decoder, out = written(tmp_path, saved_run(tmp_path), dtype="bfloat16")
  read = TensorFolder(out).read("transformer.wte.weight")
  table = np.asarray(decoder.embedding[...])[:260]
  assert np.array_equal(read, table.astype(read.dtype))
  values = json.loads((out / "config.json").read_text())
  assert values["dtype"] == values["torch_dtype"] == "bfloat16"


def test_shards_hold_every_tensor_once_in_files_below_the_limit(tmp_path):
  saved = saved_run(tmp_path)
  _, one = written(tmp_path / "one", saved)
  _, several = written(tmp_path / "several", saved, max_shard_bytes=20_000)
  files = sorted(several.glob("*.safetensors"))
  assert len(files) > 2
  assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
  index = json.loads((several / INDEX).read_text())
  a, b = TensorFolder(one), TensorFolder(several)
  assert a.shapes == b.shapes
  total = 0
  for name in a.shapes:
    assert np.array_equal(a.read(name), b.read(name)), name
    total += a.read(name).nbytes
  assert index["metadata"]["total_size"] == total
  for path in files:
    with safetensors.safe_open(path, framework="numpy") as file:
      assert file.metadata() == {"format": "pt"}
      assert path.stat().st_size < 21_000 or len(file.keys()) == 1


def test_matrices_are_stored_as_out_by_in_and_contiguous(tmp_path):
  saved = saved_run(tmp_path, **CLASSES["LlamaForCausalLM"])
  decoder, out = written(tmp_path, saved)
  read = safetensors.numpy.load_file(out / "model.safetensors")
  expand = np.asarray(decoder.blocks.expand.kernel[...])
  for layer in (0, 1):
    x = read[f"model.layers.{layer}.mlp.up_proj.weight"]
    assert np.array_equal(x, expand[layer].T)
  assert read["model.embed_tokens.weight"].shape[0] == saved.model.vocab_size


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_that_the_umask_gives(mask, tmp_path):
  before = os.umask(mask)
  try:
    _, out = written(tmp_path, saved_run(tmp_path))
  finally:
    os.umask(before)
  for path in out.iterdir():
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path


def test_small_files_name_the_pause_and_keep_it_from_being_generated(tmp_path):
  _, out = written(tmp_path, saved_run(tmp_path))
  read = lambda name: json.loads((out / name).read_text())
  config = read("config.json")
  ids = dict(bos_token_id=0, eos_token_id=1, pad_token_id=1)
  assert {name: config[name] for name in ids} == ids
  own = config["pausejax"]
  assert (own["pause_token_id"], own["num_pauses"]) == (259, 0)
  assert read("generation_config.json") == {
    **ids,
    "do_sample": False,
    "suppress_tokens": [259],
  }
  card = (out / "README.md").read_text()
  assert card.startswith("---\nlibrary_name: transformers\n")
  assert "variant PausePT of" in card


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
  saved = saved_run(tmp_path)
  _, out = written(tmp_path, saved)
  assert export.require_free(out)
  decoder, _ = written(tmp_path, saved, seed=1)
  require_equal_params(decoder, reading.load_params(reading.check_folder(out)))
  other = tmp_path / "other"
  other.mkdir()
  assert not export.require_free(other)
  (other / "config.json").write_text('{"model_type": "llama"}')
  with pytest.raises(errors.UserError, match="is not empty and holds no"):
    export.require_free(other)
  with pytest.raises(errors.UserError, match="is a file"):
    export.require_free(other / "config.json")


def test_an_interrupted_export_leaves_the_old_one_and_nothing_new(tmp_path):
  saved = saved_run(tmp_path)
  decoder, out = written(tmp_path, saved)
  prepared = export.prepare_export(saved, "name", max_shard_bytes=20_000)
  damaged = models.random_model(saved.model, 1)
  damaged.final_norm = None  # The last tensor of all is not there.
  with pytest.raises(KeyError):
    export.write_export(prepared, damaged, out)
  with pytest.raises(KeyError):
    export.write_export(prepared, damaged, tmp_path / "new")
  assert {p.name for p in tmp_path.iterdir()} == {"out"}
  assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
  require_equal_params(decoder, reading.load_params(reading.check_folder(out)))


def test_what_a_killed_process_left_is_removed(tmp_path):
  saved = saved_run(tmp_path)
  (tmp_path / "out.partial" / "inner").mkdir(parents=True)
  (tmp_path / "out.partial" / "model.safetensors").write_bytes(b"half")
  _, out = written(tmp_path, saved)
  assert {p.name for p in tmp_path.iterdir()} == {"out"}
  assert not (out / "inner").exists()


def test_two_exports_to_one_folder_do_not_mix(tmp_path):
  import fcntl

  saved = saved_run(tmp_path)
  (tmp_path / "out.partial").mkdir()
  with (tmp_path / "out.partial" / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(errors.UserError, match="another process exports"):
      written(tmp_path, saved)
    assert (tmp_path / "out.partial" / "lock").exists()


def test_a_model_that_no_class_computes_is_refused_before_any_file(tmp_path):
  saved = saved_run(tmp_path, norm="rmsnorm")
  with pytest.raises(errors.UserError, match=r"no model\.norm"):
    written(tmp_path, saved)
  assert not [*tmp_path.iterdir()]
