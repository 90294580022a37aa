"""Small GGUF files, written as llama.cpp's convert_hf_to_gguf.py writes them.

The names come from the table of the `gguf` package.
"""

import pathlib

import gguf
import numpy as np

from pausejax.config import ModelConfig, default
from pausejax.interop import families, layouts, reading

BASE = dict(
  vocab_size=320,
  hidden_size=64,
  num_hidden_layers=6,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=96,
  max_position_embeddings=128,
  rms_norm_eps=1e-5,
)
_LAYERS = ["sliding_attention"] * 3 + ["full_attention"]
LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=1e4,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=64,
)
# Architecture of GGUF -> config.json of transformers.
MODELS = {
  "llama": BASE | dict(model_type="llama", rope_theta=1e5),
  "llama-biases": BASE
  | dict(model_type="llama", attention_bias=True, mlp_bias=True),
  "llama-3": BASE
  | dict(model_type="llama", head_dim=32, rope_parameters=LLAMA3),
  "llama-linear": BASE
  | dict(
    model_type="llama",
    rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=500.0),
  ),
  "smollm3": BASE
  | dict(model_type="smollm3", rope_theta=2e6, no_rope_layer_interval=4),
  "qwen2": BASE | dict(model_type="qwen2", tie_word_embeddings=True),
  "qwen3": BASE | dict(model_type="qwen3", head_dim=32, rope_theta=1e6),
  "olmo2": BASE | dict(model_type="olmo2", rope_theta=5e5),
  "olmo2-windows": BASE
  | dict(
    model_type="olmo3",
    num_hidden_layers=8,
    sliding_window=16,
    layer_types=_LAYERS * 2,
    rope_theta=5e5,
  ),
  "gemma3": BASE
  | dict(
    model_type="gemma3_text",
    head_dim=32,
    sliding_window=16,
    query_pre_attn_scalar=32,
    rope_parameters=dict(
      full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
      sliding_attention=dict(rope_type="default", rope_theta=1e4),
    ),
  ),
  "gptneox": BASE
  | dict(
    model_type="gpt_neox",
    num_key_value_heads=4,
    layer_norm_eps=1e-5,
    rope_parameters=dict(
      rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5
    ),
  ),
  "gpt2": dict(
    model_type="gpt2",
    vocab_size=320,
    n_embd=64,
    n_layer=6,
    n_head=4,
    n_positions=128,
    layer_norm_epsilon=1e-5,
  ),
}


def architecture(name: str) -> str:
  """Returns the architecture in GGUF of a name of MODELS."""
  return name.partition("-")[0]


def shapes(values: dict) -> dict[str, tuple[int, ...]]:
  """Returns the tensors of a model as transformers names them."""
  family, fields = families.parse_config(values)
  tree = default().model
  tree.update(fields)
  model = ModelConfig(vocab_size=values["vocab_size"] + 1, **tree.to_dict())
  found = layouts.tensors(
    family, reading.leaf_shapes(model), values["vocab_size"]
  )
  return {tensor.name: tensor.shape for tensor in found}


def write_gguf(
  path: pathlib.Path,
  values: dict,
  tensors: dict[str, np.ndarray],
  *,
  kind: str = "F32",
  metadata: dict | None = None,
) -> pathlib.Path:
  """Writes a model.

  Args:
    path: the file.
    values: its config.json.
    tensors: name in transformers -> values.
    kind: type of the matrices whose rows it fits.
    metadata: more values, replacing; None removes one.
  """
  name = _ARCHITECTURES[values["model_type"]]
  writer = gguf.GGUFWriter(None, name)
  _add_sizes(writer, name, values)
  _add_byte_tokenizer(writer, values["vocab_size"])
  for key, value in (metadata or {}).items():
    writer.kv_data[0].pop(key, None)
    if value is not None:
      _add(writer, key, value)
  for their_name, x in converted(name, values, tensors).items():
    type_ = gguf.GGMLQuantizationType[kind]
    if x.ndim < 2 or x.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0]:
      type_ = gguf.GGMLQuantizationType.F32
    data = gguf.quants.quantize(np.ascontiguousarray(x), type_)
    writer.add_tensor(their_name, data, raw_dtype=type_)
  writer.write_header_to_file(path)
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


_ARCHITECTURES = {
  "llama": "llama",
  "smollm3": "smollm3",
  "qwen2": "qwen2",
  "qwen3": "qwen3",
  "olmo2": "olmo2",
  "olmo3": "olmo2",
  "gemma3_text": "gemma3",
  "gpt_neox": "gptneox",
  "gpt2": "gpt2",
}


def _add(writer, key: str, value) -> None:
  kinds = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
    list: gguf.GGUFValueType.ARRAY,
  }
  writer.add_key_value(key, value, kinds[type(value)])


def _add_sizes(writer, name: str, v: dict) -> None:
  def get(*keys, default=None):
    return next((v[k] for k in keys if k in v), default)

  hidden = get("hidden_size", "n_embd")
  num_heads = get("num_attention_heads", "n_head")
  writer.add_context_length(get("max_position_embeddings", "n_positions"))
  writer.add_embedding_length(hidden)
  writer.add_block_count(get("num_hidden_layers", "n_layer"))
  writer.add_feed_forward_length(get("intermediate_size", default=4 * hidden))
  writer.add_head_count(num_heads)
  if name in ("gptneox", "gpt2"):
    writer.add_layer_norm_eps(get("layer_norm_eps", "layer_norm_epsilon"))
  else:
    writer.add_layer_norm_rms_eps(v["rms_norm_eps"])
    writer.add_head_count_kv(v["num_key_value_heads"])
  head_dim = get("head_dim", default=hidden // num_heads)
  if "head_dim" in v:
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
  _add_positions(writer, name, v, head_dim)
  if name == "gptneox":
    writer.add_parallel_residual(v.get("use_parallel_residual", True))


def _add_positions(writer, name: str, v: dict, head_dim: int) -> None:
  rope = v.get("rope_parameters", {})
  rope = rope.get("full_attention", rope)
  if name == "gptneox":
    writer.add_rope_dimension_count(
      int(rope["partial_rotary_factor"] * head_dim)
    )
    return
  if name in ("llama", "smollm3"):
    writer.add_rope_dimension_count(head_dim)
  if theta := rope.get("rope_theta", v.get("rope_theta")):
    writer.add_rope_freq_base(theta)
  if rope.get("rope_type") == "linear":
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope["factor"])
  if "sliding_window" in v:
    writer.add_sliding_window(v["sliding_window"])
  if "layer_types" in v:
    writer.add_sliding_window_pattern(
      [kind == "sliding_attention" for kind in v["layer_types"]]
    )


def _add_byte_tokenizer(writer, vocab_size: int) -> None:
  """A byte-level BPE without words longer than two bytes."""
  from tokenizers.pre_tokenizers import ByteLevel

  letters = sorted(ByteLevel.alphabet())
  merges = ["t h", "Ġ a", "i n", "e r"]
  tokens = ["<|end|>", *letters, *(m.replace(" ", "") for m in merges)]
  tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab_size)]
  types = [3] + [1] * (len(letters) + len(merges))
  types += [5] * (vocab_size - len(types))
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(tokens)
  writer.add_token_types(types)
  writer.add_token_merges(merges)
  writer.add_bos_token_id(0)
  writer.add_eos_token_id(0)


def converted(
  name: str, values: dict, tensors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the tensors as llama.cpp has them."""
  num_layers = values.get("num_hidden_layers", values.get("n_layer"))
  arch = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[name]
  names = gguf.get_tensor_name_map(arch, num_layers)
  found = {
    names.get_name(n, try_suffixes=(".weight", ".bias")) or n: _changed(
      name, values, n, x
    )
    for n, x in tensors.items()
  }
  rope = values.get("rope_parameters", {})
  if rope.get("rope_type") == "llama3":
    found["rope_freqs.weight"] = _rope_factors(values["head_dim"], rope)
  return found


def _changed(name: str, values: dict, tensor: str, x: np.ndarray) -> np.ndarray:
  if name in ("llama", "smollm3"):
    for part, num in (("q", "attention"), ("k", "key_value")):
      if f".{part}_proj." in tensor:
        return _permute(x, values[f"num_{num}_heads"])
  if name == "gemma3" and tensor.endswith("norm.weight"):
    return x + 1
  if name == "gpt2" and ".c_" in tensor and x.ndim == 2:
    return x.T
  if name == "gptneox" and "query_key_value" in tensor:
    per_head = x.reshape(values["num_attention_heads"], 3, -1, *x.shape[1:])
    return np.concatenate(
      [per_head[:, i].reshape(-1, *x.shape[1:]) for i in range(3)]
    )
  return x


def _permute(x: np.ndarray, num_heads: int) -> np.ndarray:
  halves = x.reshape(num_heads, 2, x.shape[0] // num_heads // 2, *x.shape[1:])
  return halves.swapaxes(1, 2).reshape(x.shape)


def _rope_factors(head_dim: int, rope: dict) -> np.ndarray:
  """Returns what a frequency is divided by, as LlamaModel of the converter."""
  theta, length = rope["rope_theta"], rope["original_max_position_embeddings"]
  low, high = rope["low_freq_factor"], rope["high_freq_factor"]
  factors = []
  for i in range(0, head_dim, 2):
    wavelength = 2 * np.pi * theta ** (i / head_dim)
    if wavelength < length / high:
      factors.append(1.0)
    elif wavelength > length / low:
      factors.append(rope["factor"])
    else:
      smooth = (length / wavelength - low) / (high - low)
      factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
  return np.array(factors, np.float32)
