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
from pausejax.data import tokenizers
from pausejax.interop import tensor_files, tokenizer_files
from tests import open_models

SHAPES = open_models.llama_shapes(open_models.LLAMA)
LAST = "model.layers.1.mlp.down_proj.weight"


def import_model(folder, out, *, expect=0):
  assert cli.main(["import", f"--from={folder}", f"--out={out}"]) == expect


def load(run):
  import jax

  from pausejax import sharding

  saved = saved_run.find_run(str(run))
  with jax.set_mesh(sharding.data_mesh()):
    return saved, saved.load()


def refused(folder, out, capsys, *fragments):
  """Asserts that an import ends with one line and writes nothing."""
  import_model(folder, out, expect=1)
  err = capsys.readouterr().err
  first, *table = err.strip().splitlines()
  assert first.startswith("pausejax: "), err
  assert all(fragment in err for fragment in fragments), err
  assert not table or all(line.startswith("  ") for line in table), err
  assert "Traceback" not in err
  assert not os.path.exists(out)


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


def test_a_folder_without_a_tokenizer_is_refused(folder, tmp_path, capsys):
  (folder / "tokenizer.json").unlink()
  refused(folder, tmp_path / "run", capsys, "tokenizer.json")


def test_more_ids_than_rows_are_refused(tmp_path, capsys):
  folder = open_models.write_folder(tmp_path / "model", {"vocab_size": 200})
  refused(folder, tmp_path / "run", capsys, "ids, the embedding 200 rows")


TEXTS = ["then it waits", "Ünï 日本 \U0001f600", "<|user|>a</s><s>", "  "]


def test_ids_and_texts_are_those_of_the_tokenizer(folder, tmp_path):
  theirs = open_models.byte_fallback_tokenizer()
  theirs.encode_special_tokens = True
  assert theirs.get_vocab_size() < 320  # So that some rows have no token.
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  for text, ids in zip(TEXTS, ours.encode(TEXTS), strict=True):
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids)
  # EOS by config.json, BOS by the template.
  assert (ours.eos_id, ours.bos_id) == (0, 1)


@pytest.mark.parametrize("as_object", [False, True])
def test_tokenizer_config_names_bos_and_eos(folder, tmp_path, as_object):
  token = {"content": "<unk>", "lstrip": False} if as_object else "<unk>"
  settings = {"eos_token": token, "bos_token": "</s>", "chat_template": "{}"}
  path = folder / tokenizers.SETTINGS
  path.write_text(json.dumps(settings))
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  assert (ours.bos_id, ours.eos_id) == (0, 2)
  kept = json.loads((tmp_path / "run" / tokenizers.SETTINGS).read_text())
  assert kept["chat_template"] == "{}"


def test_an_unknown_eos_is_refused(folder, tmp_path, capsys):
  settings = {"eos_token": "<gone>"}
  (folder / tokenizers.SETTINGS).write_text(json.dumps(settings))
  refused(folder, tmp_path / "run", capsys, "'<gone>' is not in")


def test_a_model_that_has_a_pause_keeps_it(folder, tmp_path):
  model = open_models.byte_fallback_tokenizer()
  size = model.get_vocab_size()
  model.add_special_tokens(["<pause>"])
  folder = open_models.write_folder(
    tmp_path / "paused", {"vocab_size": size + 1}
  )
  model.save(str(folder / "tokenizer.json"))
  import_model(folder, tmp_path / "run")
  saved, decoder = load(tmp_path / "run")
  assert saved.tokenizer.pause_id == size
  assert saved.meta["pauses_seen"]
  tensors = open_models.random_tensors(
    open_models.llama_shapes({**open_models.LLAMA, "vocab_size": size + 1})
  )
  theirs_VD = tensors["model.embed_tokens.weight"]
  np.testing.assert_array_equal(
    np.asarray(decoder.embedding)[: size + 1], theirs_VD
  )
  assert "<pause>" not in saved.tokenizer.decode([size, 5, size])


def test_a_pause_before_the_last_row_is_refused(folder, tmp_path, capsys):
  model = open_models.byte_fallback_tokenizer()
  model.add_special_tokens(["<pause>"])
  model.save(str(folder / "tokenizer.json"))
  import_model(folder, tmp_path / "run", expect=2)
  assert "<pause> has id" in capsys.readouterr().err


def test_a_sentencepiece_model_gets_an_id_for_every_row(folder, tmp_path):
  import io

  import sentencepiece

  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([open_models.TEXT] * 5),
    model_writer=written,
    model_type="bpe",
    vocab_size=60,
    hard_vocab_limit=False,
    byte_fallback=False,
    minloglevel=2,
  )
  (folder / "tokenizer.json").unlink()
  (folder / "tokenizer.model").write_bytes(written.getvalue())
  theirs = sentencepiece.SentencePieceProcessor()
  theirs.LoadFromSerializedProto(written.getvalue())
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  assert ours.pause_id == 320
  assert ours.eos_id == theirs.eos_id()
  for text in [open_models.TEXT, *TEXTS]:
    assert ours.encode([text]) == [theirs.encode(text)]


def test_ids_that_no_token_can_get_are_refused(folder):
  """The tokenizers library numbers added tokens itself."""
  values = json.loads((folder / "tokenizer.json").read_text())
  values["model"]["vocab"]["th"] = 300
  file = tokenizer_files.TokenizerFile(
    name="tokenizer.json", content=json.dumps(values).encode(), settings={}
  )
  with pytest.raises(tokenizer_files.errors.UserError, match="ids free below"):
    tokenizer_files.filled(file, 320)


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


@pytest.mark.parametrize("wrong", [-1, 10**30, True, [], None])
def test_ids_of_eos_that_no_token_has_are_left_out(tmp_path, wrong):
  folder = open_models.write_folder(
    tmp_path / "model", {"eos_token_id": wrong, "bos_token_id": wrong}
  )
  import_model(folder, tmp_path / "run")


@pytest.mark.parametrize(
  ("name", "content", "fragment"),
  [
    ("chat_template.jinja", b"\xff", "chat template"),
    ("tokenizer_config.json", b'{"chat_template": "\\ud800"}', "not text"),
    (
      "tokenizer.json",
      b'{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", '
      b'"vocab": {"b": 0}, "unk_token": "gone"}}',
      "is not a tokenizer.json",
    ),
  ],
)
def test_a_damaged_tokenizer_is_one_line(
  folder, tmp_path, name, content, fragment, capsys
):
  (folder / name).write_bytes(content)
  refused(folder, tmp_path / "run", capsys, fragment)


def test_the_default_of_several_chat_templates_is_kept(folder, tmp_path):
  several = [
    {"name": "tool", "template": "{# t #}"},
    {"name": "default", "template": "{# d #}"},
  ]
  path = folder / tokenizers.SETTINGS
  path.write_text(json.dumps({"chat_template": several}))
  import_model(folder, tmp_path / "run")
  kept = json.loads((tmp_path / "run" / tokenizers.SETTINGS).read_text())
  assert kept["chat_template"] == "{# d #}"


def test_a_disk_without_space_leaves_nothing(
  folder, tmp_path, monkeypatch, capsys
):
  usage = shutil.disk_usage(tmp_path)
  full = lambda _: usage._replace(free=1000)
  monkeypatch.setattr("pausejax.checkpoints.space.shutil.disk_usage", full)
  refused(folder, tmp_path / "run", capsys, "no space for a checkpoint")
