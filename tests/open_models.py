"""Small model folders in Hugging Face's format, and their import."""

import json
import os
import pathlib
import zlib

import numpy as np
import safetensors.numpy
import tokenizers as huggingface

from pausejax import cli
from pausejax.checkpoints import saved_run

TEXT = "Think before you speak: the model waits, and then it answers. " * 3

LLAMA = dict(
  model_type="llama",
  vocab_size=320,
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=48,
  max_position_embeddings=64,
  rms_norm_eps=1e-5,
  rope_theta=1e5,
  eos_token_id=0,
)


def llama_shapes(values: dict) -> dict[str, tuple[int, ...]]:
  """Returns the tensors of a LlamaForCausalLM, as transformers names them."""
  d, ff = values["hidden_size"], values["intermediate_size"]
  kv = d // values["num_attention_heads"] * values["num_key_value_heads"]
  shapes = {
    "model.embed_tokens.weight": (values["vocab_size"], d),
    "model.norm.weight": (d,),
  }
  if not values.get("tie_word_embeddings"):
    shapes["lm_head.weight"] = (values["vocab_size"], d)
  for layer in range(values["num_hidden_layers"]):
    of_layer = {
      "self_attn.q_proj": (d, d),
      "self_attn.k_proj": (kv, d),
      "self_attn.v_proj": (kv, d),
      "self_attn.o_proj": (d, d),
      "mlp.gate_proj": (ff, d),
      "mlp.up_proj": (ff, d),
      "mlp.down_proj": (d, ff),
      "input_layernorm": (d,),
      "post_attention_layernorm": (d,),
    }
    for name, shape in of_layer.items():
      shapes[f"model.layers.{layer}.{name}.weight"] = shape
  return shapes


def random_tensors(shapes, dtype=np.float32) -> dict[str, np.ndarray]:
  """Returns normal values that depend on the name of each tensor only."""
  made = {}
  for name, shape in shapes.items():
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    made[name] = (0.1 * generator.normal(size=shape)).astype(dtype)
  return made


def byte_fallback_tokenizer() -> huggingface.Tokenizer:
  """Returns a BPE like Llama 2's: byte fallback, added tokens, a template."""
  from tokenizers import decoders, models, normalizers, processors

  special = ["</s>", "<s>", "<unk>"]
  bytes_ = [f"<0x{b:02X}>" for b in range(256)]
  letters = sorted({*TEXT.replace(" ", "\u2581")})
  vocab = {t: i for i, t in enumerate([*special, *bytes_, *letters, "th"])}
  model = huggingface.Tokenizer(
    models.BPE(vocab, [("t", "h")], unk_token="<unk>", byte_fallback=True)
  )
  model.normalizer = normalizers.Sequence(
    [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
  )
  model.decoder = decoders.Sequence(
    [
      decoders.Replace("\u2581", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  model.add_special_tokens(special)
  model.add_tokens(["<|user|>"])
  model.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  return model


def write_folder(
  folder: pathlib.Path,
  values: dict | None = None,
  tensors: dict[str, np.ndarray] | None = None,
  *,
  num_files: int = 1,
) -> pathlib.Path:
  """Writes config.json, the tokenizer and the tensors, in one or more files."""
  values = {**LLAMA, **(values or {})}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(values))
  byte_fallback_tokenizer().save(str(folder / "tokenizer.json"))
  tensors = tensors or random_tensors(llama_shapes(values))
  if num_files == 1:
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
  files = {
    name: f"model-{i % num_files + 1:05}-of-{num_files:05}.safetensors"
    for i, name in enumerate(tensors)
  }
  for file in {*files.values()}:
    part = {n: x for n, x in tensors.items() if files[n] == file}
    safetensors.numpy.save_file(part, folder / file)
  index = {"metadata": {}, "weight_map": files}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


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
