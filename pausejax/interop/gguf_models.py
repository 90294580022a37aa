"""A GGUF file as a model of transformers: its config.json and its tensors.

llama.cpp's converter (convert_hf_to_gguf.py) renames tensors and changes some;
each change is undone here:

  llama, smollm3  rows of queries and keys are reordered, for rotary positions
                  of neighbors instead of halves
  gemma3          norms have 1 added
  gpt2            matrices are transposed
  gptneox         queries, keys and values of all heads follow each other,
                  instead of those of each head
  rope scaling    "llama3" is a tensor of one factor for each frequency
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pausejax import errors, json_files
from pausejax.interop.families import FAMILIES
from pausejax.interop.gguf_files import GgufFiles

_FIX = "convert the model again with a newer llama.cpp"
_ROPE_FACTORS = "rope_freqs.weight"

# Our module -> its name in GGUF; "{}" is the layer.
_NAMES = {
  "embedding": "token_embd",
  "position_embedding": "position_embd",
  "attention_norm": "blk.{}.attn_norm",
  "query": "blk.{}.attn_q",
  "key": "blk.{}.attn_k",
  "value": "blk.{}.attn_v",
  "query_norm": "blk.{}.attn_q_norm",
  "key_norm": "blk.{}.attn_k_norm",
  "mix": "blk.{}.attn_output",
  "attention_output_norm": "blk.{}.post_attention_norm",
  "mlp_norm": "blk.{}.ffn_norm",
  "gate": "blk.{}.ffn_gate",
  "expand": "blk.{}.ffn_up",
  "contract": "blk.{}.ffn_down",
  "mlp_output_norm": "blk.{}.post_ffw_norm",
  "final_norm": "output_norm",
  "untied_head": "output",
}
_FUSED = dict.fromkeys(("query", "key", "value"), "blk.{}.attn_qkv")


class _Given:
  """The metadata of the architecture while it is read.

  Attributes:
    files: where the metadata is.
  """

  def __init__(self, files: GgufFiles, prefix: str):
    self.files = files
    self._prefix = prefix
    names = (n for n in files.metadata if n.startswith(f"{prefix}."))
    self._unused = {n.removeprefix(f"{prefix}.") for n in names}

  def get(self, name: str, shape: Any, default: Any = None) -> Any:
    """Returns a value that must have a shape of `json_files`."""
    self._unused.discard(name)
    full = f"{self._prefix}.{name}"
    value = self.files.metadata.get(full, default)
    if value is None:
      raise errors.UserError(f"{self.files.path} has no {full}; {_FIX}")
    if problem := json_files.mismatch(value, shape, full):
      raise errors.UserError(f"{self.files.path}: {problem}")
    return value

  def has(self, name: str) -> bool:
    """Returns whether a tensor is there."""
    return name in self.files.places

  def require(self, name: str, shape: Any, allowed: Any) -> None:
    """Raises unless a value is left out or has the one allowed value."""
    if (value := self.get(name, shape, allowed)) != allowed:
      raise errors.UserError(
        f"{self.files.path}: the decoder has no {self._prefix}.{name} = {value}"
      )

  def require_all_used(self) -> None:
    """Raises if the file says something of the model that was not read."""
    if self._unused:
      raise errors.UserError(
        f"{self.files.path}: the decoder has no "
        + ", no ".join(f"{self._prefix}.{n}" for n in sorted(self._unused))
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Architecture:
  """One `general.architecture`.

  Attributes:
    values: metadata -> config.json, besides the common part.
    undo: our module -> (tensor of the file, config.json) -> the tensor of
      transformers.
  """

  values: Callable[[_Given], dict[str, Any]]
  undo: Mapping[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]]


class GgufModel:
  """A model of GGUF files, as a folder of transformers would hold it.

  Attributes:
    files: the files.
    values: its config.json.
    shapes: name of a tensor in transformers -> (shape, type in the file).
  """

  def __init__(self, files: GgufFiles):
    """Reads the metadata.

    Raises:
      UserError: the architecture is not supported, or metadata are missing.
    """
    self.files = files
    kind = files.metadata.get("general.architecture")
    if kind not in _ARCHITECTURES:
      raise errors.UserError(
        f"{files.path}: GGUF architecture {kind!r} is not supported"
        f"{errors.nearest(kind, _ARCHITECTURES)}"
      )
    self._architecture = _ARCHITECTURES[kind]
    given = _Given(files, kind)
    self.values = self._architecture.values(given)
    given.require_all_used()
    self._sources = self._named(self.values["num_hidden_layers"])
    self.shapes = {
      n: (self._shape(module, source), files.places[source].kind.name)
      for n, (module, source) in self._sources.items()
    }

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor as transformers has it, as float32."""
    module, source = self._sources[name]
    x = self.files.read(source)
    undo = self._architecture.undo.get(module)
    return undo(x, self.values) if undo else x

  def _named(self, num_layers: int) -> dict[str, tuple[str, str]]:
    """Returns name in transformers -> (our module, name in the file)."""
    family = FAMILIES[self.values["model_type"]]
    ours = _NAMES | (_FUSED if family.fused else {})
    sources: dict[str, tuple[str, str]] = {}
    left = self.files.places.keys() - {_ROPE_FACTORS}
    for module, theirs in family.modules.items():
      for layer in range(num_layers if "{}" in theirs else 1):
        for suffix in (".weight", ".bias"):
          source = ours[module].format(layer) + suffix
          if source in self.files.places:
            sources[theirs.format(layer) + suffix] = module, source
            left -= {source}
    return sources | {name: ("", name) for name in left}

  def _shape(self, module: str, source: str) -> tuple[int, ...]:
    shape = self.files.places[source].shape
    undo = self._architecture.undo.get(module)
    return shape[::-1] if undo is _transpose else shape


def _sizes(g: _Given) -> dict[str, Any]:
  """Returns the part of config.json that the architectures share."""
  shape = g.files.places.get("token_embd.weight")
  if shape is None:
    raise errors.UserError(f"{g.files.path} has no token_embd.weight; {_FIX}")
  g.get("vocab_size", int, 0)
  g.get("tensor_data_layout", str, "")
  g.require("expert_count", int, 0)
  g.require("expert_used_count", int, 0)
  num_heads = g.get("attention.head_count", int)
  return dict(
    vocab_size=shape.shape[0],
    num_hidden_layers=g.get("block_count", int),
    hidden_size=g.get("embedding_length", int),
    intermediate_size=g.get("feed_forward_length", int),
    num_attention_heads=num_heads,
    num_key_value_heads=g.get("attention.head_count_kv", int, num_heads),
    max_position_embeddings=g.get("context_length", int),
    tie_word_embeddings=not g.has("output.weight"),
    bos_token_id=g.files.metadata.get("tokenizer.ggml.bos_token_id"),
    eos_token_id=g.files.metadata.get("tokenizer.ggml.eos_token_id"),
  )


def _head_dim(g: _Given, values: Mapping[str, Any]) -> int:
  """Returns the size of a head; keys and values must have the same."""
  even = values["hidden_size"] // max(values["num_attention_heads"], 1)
  key = g.get("attention.key_length", int, even)
  value = g.get("attention.value_length", int, even)
  if key != value or key < 1:
    raise errors.UserError(
      f"{g.files.path}: the decoder has no heads with attention.key_length "
      f"{key} and value_length {value}"
    )
  return key


def _rope(g: _Given, head_dim: int) -> dict[str, Any]:
  """Returns `rope_parameters` of transformers."""
  rotated = g.get("rope.dimension_count", int, head_dim)
  parameters = {
    "rope_type": "default",
    "rope_theta": g.get("rope.freq_base", float, 10_000.0),
    "partial_rotary_factor": rotated / head_dim,
  }
  kind = g.get("rope.scaling.type", str, "none")
  linear = g.get("rope.scale_linear", float, 1.0)
  factor = g.get("rope.scaling.factor", float, linear)
  if kind not in ("none", "linear"):
    g.require("rope.scaling.type", str, "linear")
  if kind == "linear" or linear != 1.0:
    parameters |= {"rope_type": "linear", "factor": factor}
  if g.has(_ROPE_FACTORS):
    parameters |= _llama3(g, rotated, parameters["rope_theta"])
  return parameters


def _llama3(g: _Given, rotated: int, theta: float) -> dict[str, Any]:
  """Returns the parameters that the factors of the frequencies come from.

  With w the wavelength of a frequency, s = (L / w - low) / (high - low) and
  factor f, a frequency between the two limits is divided by
  1 / ((1 - s) / f + s). `low` is 1 in all published models: the factors depend
  only on L / low and high / low.
  """
  actual = g.files.read(_ROPE_FACTORS).astype(np.float64)
  if actual.shape != (rotated // 2,) or not (actual > 0).all():
    raise errors.UserError(f"{g.files.path}: {_ROPE_FACTORS} is damaged")
  factor = float(actual.max())
  turns = theta ** (-2 * np.arange(rotated // 2) / rotated) / (2 * math.pi)
  between = (actual > 1 + 1e-6) & (actual < factor * (1 - 1e-6))
  s = (1 / actual - 1 / factor) / (1 - 1 / factor) if factor > 1 else actual
  if between.sum() >= 2:
    slope, start = np.polyfit(turns[between], s[between], 1)
    high, length = round(1 - 1 / start, 4), round(-slope / start)
    smooth = np.clip((length * turns - 1) / (high - 1), 0, 1)
    if np.allclose(1 / ((1 - smooth) / factor + smooth), actual, rtol=1e-4):
      return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
      }
  raise errors.UserError(
    f'{g.files.path}: {_ROPE_FACTORS} is not of the rotary scaling "llama3", '
    "the only one by frequency that the decoder has"
  )


def _decoder(model_type: str) -> Callable[[_Given], dict[str, Any]]:
  """Returns how a decoder like Llama is read."""

  def values(g: _Given) -> dict[str, Any]:
    sizes = _sizes(g)
    head_dim = _head_dim(g, sizes)
    return sizes | dict(
      model_type=model_type,
      head_dim=head_dim,
      rms_norm_eps=g.get("attention.layer_norm_rms_epsilon", float),
      rope_parameters=_rope(g, head_dim),
      attention_bias=g.has("blk.0.attn_output.bias"),
      mlp_bias=g.has("blk.0.ffn_up.bias"),
    )

  return values


def _olmo2(g: _Given) -> dict[str, Any]:
  values = _decoder("olmo2")(g)
  window = g.get("attention.sliding_window", int, 0)
  if not window:
    return values
  has_window = g.get("attention.sliding_window_pattern", [bool])
  kinds = {True: "sliding_attention", False: "full_attention"}
  full = values["rope_parameters"]
  local = {"rope_type": "default", "rope_theta": full["rope_theta"]}
  return values | dict(
    model_type="olmo3",
    sliding_window=window,
    layer_types=[kinds[one] for one in has_window],
    rope_parameters={"full_attention": full, "sliding_attention": local},
  )


def _gemma3(g: _Given) -> dict[str, Any]:
  """Returns the values; llama.cpp's code has those that its files lack."""
  values = _decoder("gemma3_text")(g)
  is_27b = values["num_hidden_layers"] == 62
  per_head = values["hidden_size"] // values["num_attention_heads"]
  local = g.get("rope.freq_base_swa", float, 10_000.0)
  return values | dict(
    sliding_window=g.get("attention.sliding_window", int),
    sliding_window_pattern=g.get("attention.sliding_window_pattern", int, 6),
    attn_logit_softcapping=g.get("attn_logit_softcapping", float, 0.0) or None,
    final_logit_softcapping=g.get("final_logit_softcapping", float, 0.0)
    or None,
    query_pre_attn_scalar=per_head if is_27b else values["head_dim"],
    rope_parameters={
      "full_attention": values["rope_parameters"],
      "sliding_attention": {"rope_type": "default", "rope_theta": local},
    },
  )


def _gptneox(g: _Given) -> dict[str, Any]:
  values = _sizes(g)
  return values | dict(
    model_type="gpt_neox",
    layer_norm_eps=g.get("attention.layer_norm_epsilon", float),
    use_parallel_residual=g.get("use_parallel_residual", bool),
    attention_bias=g.has("blk.0.attn_qkv.bias"),
    rope_parameters=_rope(g, _head_dim(g, values)),
  )


def _gpt2(g: _Given) -> dict[str, Any]:
  values = _sizes(g)
  return values | dict(
    model_type="gpt2",
    n_layer=values["num_hidden_layers"],
    n_embd=values["hidden_size"],
    n_head=values["num_attention_heads"],
    n_positions=values["max_position_embeddings"],
    n_inner=values["intermediate_size"],
    layer_norm_epsilon=g.get("attention.layer_norm_epsilon", float),
  )


def _unpermute(num_heads: str) -> Callable[..., np.ndarray]:
  """Returns how the rows of each head get their order back."""

  def undo(x: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
    heads = x.reshape(values[num_heads], -1, 2, *x.shape[1:])
    return heads.swapaxes(1, 2).reshape(x.shape)

  return undo


def _interleave(x: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
  """Returns queries, keys and values of each head next to each other."""
  heads = x.reshape(3, values["num_attention_heads"], -1, *x.shape[1:])
  return heads.swapaxes(0, 1).reshape(x.shape)


def _transpose(x: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
  del values
  return x.T


def _minus_one(x: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
  del values
  return x - 1


_PERMUTED = {
  "query": _unpermute("num_attention_heads"),
  "key": _unpermute("num_key_value_heads"),
}
_MATRICES = ("query", "key", "value", "mix", "expand", "contract")
_ARCHITECTURES: dict[Any, _Architecture] = {
  "llama": _Architecture(values=_decoder("llama"), undo=_PERMUTED),
  "smollm3": _Architecture(values=_decoder("smollm3"), undo=_PERMUTED),
  "qwen2": _Architecture(values=_decoder("qwen2"), undo={}),
  "qwen3": _Architecture(values=_decoder("qwen3"), undo={}),
  "olmo2": _Architecture(values=_olmo2, undo={}),
  "gemma3": _Architecture(
    values=_gemma3,
    undo={n: _minus_one for n in _NAMES if n.endswith("norm")},
  ),
  "gptneox": _Architecture(
    values=_gptneox, undo=dict.fromkeys(_FUSED, _interleave)
  ),
  "gpt2": _Architecture(
    values=_gpt2, undo=dict.fromkeys(_MATRICES, _transpose)
  ),
}
