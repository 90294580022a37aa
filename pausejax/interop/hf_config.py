"""The class of transformers that computes a model, and its config.json.

The inverse of `families.parse_config`: of the classes below, the first one is
chosen whose config.json is read back as the same model. Each function writes
only keys that its class reads, with their names in transformers 5 and in 4.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pausejax import errors
from pausejax.config import ModelConfig, default
from pausejax.interop import families
from pausejax.interop.family import Family
from pausejax.model import decoder

# They do not change what a trained model computes, causally, for one text.
_NOT_COMPUTED = (
  "bias",
  "segment_attention",
  "attention",
  "dtype",
  "remat",
  "scan_unroll",
)
_SCALED_ROPE = ("rope_scaling_factor",)
_LLAMA3_ROPE = (
  "rope_low_frequency_factor",
  "rope_high_frequency_factor",
  "rope_original_seq_len",
)
_ROPE = (
  "rope_theta",
  "rope_fraction",
  "rope_scaling",
  "no_rope_every",
  "local_rope_theta",
)
# Their heads divide the width: transformers refuses others.
_EVEN_HEADS = ("llama", "gemma3_text", "gpt_neox", "gpt2", "phi")


def exported_config(model: ModelConfig) -> tuple[Family, dict[str, Any]]:
  """Returns the simplest class that computes a model, and its config.json.

  Raises:
    UserError: no class computes it; the message names what the nearest one
      lacks.
  """
  nearest: tuple[list[str], Family] | None = None
  for kind, write in _WRITERS.items():
    family = families.FAMILIES[kind]
    values = {
      "architectures": [family.architecture],
      "model_type": kind,
      **write(model),
    }
    lacks = _differences(model, values)
    if not lacks:
      return family, values
    if nearest is None or len(lacks) < len(nearest[0]):
      nearest = lacks, family
  assert nearest is not None
  lacks, family = nearest
  named = [f"model.{name} {getattr(model, name)!r}" for name in lacks]
  raise errors.UserError(
    "no class of transformers computes this model; the nearest, "
    f"{family.architecture}, has no {', no '.join(named)}"
  )


def _differences(model: ModelConfig, values: dict[str, Any]) -> list[str]:
  """Returns the fields in which a model differs from its config.json."""
  own, read = computed_fields(model), computed_fields(_read_back(values))
  names = [
    name
    for name, value in own.items()
    if value is not None and value != read[name]
  ]
  is_uneven = model.d_model % model.num_heads != 0
  if is_uneven and values["model_type"] in _EVEN_HEADS:
    names.append("num_heads")
  return names


def _read_back(values: dict[str, Any]) -> ModelConfig:
  _, fields = families.parse_config(values)
  tree = default().model
  tree.update(fields)
  return ModelConfig(vocab_size=values["vocab_size"], **tree.to_dict())


def computed_fields(model: ModelConfig) -> dict[str, Any]:
  """Returns the fields that decide what a model computes, in one form.

  Two models with equal parameters compute the same if these are equal. A field
  that has no effect beside the others is None.
  """
  c = model
  fields = dataclasses.asdict(c) | dict.fromkeys(_NOT_COMPUTED)
  fields |= _rope_fields(c) if c.position == "rope" else dict.fromkeys(_ROPE)
  fields["norm_epsilon"] = _epsilon(c)
  fields["norm_bias"] = c.norm_bias if c.norm == "layernorm" else None
  fields["qk_norm_span"] = c.qk_norm_span if c.qk_norm else None
  # They are applied in float32.
  fields["query_scale"] = np.float32(c.query_scale or c.head_dim**-0.5)
  fields["embedding_scale"] = np.float32(c.embedding_scale)
  if fields["rope_scaling"] in (None, "none"):
    fields |= dict.fromkeys(_SCALED_ROPE)
  if fields["rope_scaling"] != "llama3":
    fields |= dict.fromkeys(_LLAMA3_ROPE)
  return fields | dict(window=_window(c), global_every=_global_every(c))


def _rope_fields(c: ModelConfig) -> dict[str, Any]:
  """Returns the fields of rotary positions, as they have an effect."""
  fields = {name: getattr(c, name) for name in _ROPE}
  if not _global_every(c):
    fields["local_rope_theta"] = None
    if _window(c) and c.global_every:  # No layer is a global one.
      fields |= dict(rope_theta=c.local_rope_theta, rope_scaling="none")
  if c.no_rope_every > c.num_layers:
    fields["no_rope_every"] = 0
  return fields


def _window(c: ModelConfig) -> int:
  return 0 if c.global_every == 1 else c.window


def _global_every(c: ModelConfig) -> int:
  """Returns n if every n-th layer attends to all and the others do not."""
  return c.global_every if _window(c) and c.global_every <= c.num_layers else 0


def _epsilon(c: ModelConfig) -> float:
  return float(c.norm_epsilon or decoder.EPSILON[c.norm])


def _llama(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(attention_bias=c.qkv_bias, mlp_bias=c.mlp_bias)


def _mistral(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(sliding_window=_window(c) or None)


def _shared(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of all classes with RMS norms."""
  return {
    "vocab_size": c.vocab_size,
    "hidden_size": c.d_model,
    "intermediate_size": c.d_ff,
    "num_hidden_layers": c.num_layers,
    "num_attention_heads": c.num_heads,
    "num_key_value_heads": c.num_kv_heads,
    "head_dim": c.head_dim,
    "hidden_act": "gelu_pytorch_tanh" if c.mlp == "geglu" else "silu",
    "max_position_embeddings": c.max_seq_len,
    "rms_norm_eps": _epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    **_rope(c),
  }


def _qwen2(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(use_sliding_window=False)


def _qwen3(c: ModelConfig) -> dict[str, Any]:
  return _qwen2(c) | dict(attention_bias=c.qkv_bias)


def _olmo2(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(attention_bias=c.qkv_bias)


def _olmo3(c: ModelConfig) -> dict[str, Any]:
  return _olmo2(c) | _windows(c)


def _smollm3(c: ModelConfig) -> dict[str, Any]:
  every = c.no_rope_every
  has_rope = [
    int(not every or (i + 1) % every != 0) for i in range(c.num_layers)
  ]
  return _llama(c) | dict(
    use_sliding_window=False,
    no_rope_layers=has_rope,
    no_rope_layer_interval=every,
  )


def _gemma3(c: ModelConfig) -> dict[str, Any]:
  activation = "gelu_pytorch_tanh" if c.mlp == "geglu" else "silu"
  scale = c.query_scale or c.head_dim**-0.5
  return (
    _shared(c)
    | _windows(c)
    | dict(
      hidden_activation=activation,
      attention_bias=c.qkv_bias,
      query_pre_attn_scalar=round(min(max(scale**-2, 1), 2**31)),
      rope_local_base_freq=_local_theta(c),
      use_bidirectional_attention=False,
    )
  )


def _windows(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of classes whose layers differ."""
  every = _global_every(c) if _window(c) else 1
  kinds = [
    "full_attention" if every and (i + 1) % every == 0 else "sliding_attention"
    for i in range(c.num_layers)
  ]
  local = {"rope_type": "default", "rope_theta": _local_theta(c)}
  has_global = "full_attention" in kinds
  return {
    # transformers also needs a number where no layer has the window.
    "sliding_window": _window(c) or c.max_seq_len,
    "sliding_window_pattern": every,
    "layer_types": kinds,
    "rope_parameters": {
      "full_attention": _rope(c)["rope_parameters"] if has_global else local,
      "sliding_attention": local,
    },
  }


def _local_theta(c: ModelConfig) -> float:
  """Returns the base of the layers with a window; none of them is scaled."""
  fields = _rope_fields(c)
  return float(fields["local_rope_theta"] or fields["rope_theta"])


def _rope(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of rotary positions."""
  fields = _rope_fields(c)
  theta, kind = float(fields["rope_theta"]), fields["rope_scaling"]
  scaling: dict[str, Any] = {"rope_type": kind.replace("none", "default")}
  if kind != "none":
    scaling["factor"] = float(c.rope_scaling_factor)
  if kind == "llama3":
    scaling |= {
      "low_freq_factor": float(c.rope_low_frequency_factor),
      "high_freq_factor": float(c.rope_high_frequency_factor),
      "original_max_position_embeddings": c.rope_original_seq_len,
    }
  return {
    "rope_theta": theta,
    "rope_scaling": scaling if kind != "none" else None,
    "rope_parameters": {**scaling, "rope_theta": theta},
  }


def _partial_rope(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of positions that rotate a part of each head."""
  keys, fraction = _rope(c), float(c.rope_fraction)
  keys["rope_parameters"]["partial_rotary_factor"] = fraction
  return keys | {"partial_rotary_factor": fraction}


def _gpt_neox(c: ModelConfig) -> dict[str, Any]:
  return {
    "vocab_size": c.vocab_size,
    "hidden_size": c.d_model,
    "intermediate_size": c.d_ff,
    "num_hidden_layers": c.num_layers,
    "num_attention_heads": c.num_heads,
    "hidden_act": "gelu_new" if c.mlp == "gelu" else "gelu",
    "max_position_embeddings": c.max_seq_len,
    "layer_norm_eps": _epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    "attention_bias": c.qkv_bias,
    "use_parallel_residual": c.residual == "parallel",
    "rotary_pct": float(c.rope_fraction),
    "rotary_emb_base": float(c.rope_theta),
    **_partial_rope(c),
  }


def _gpt2(c: ModelConfig) -> dict[str, Any]:
  return {
    "vocab_size": c.vocab_size,
    "n_embd": c.d_model,
    "n_layer": c.num_layers,
    "n_head": c.num_heads,
    "n_inner": c.d_ff,
    "n_positions": c.max_seq_len,
    "activation_function": "gelu_new" if c.mlp == "gelu" else "gelu",
    "layer_norm_epsilon": _epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
  }


# The simplest first.
_WRITERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
  "llama": _llama,
  "mistral": _mistral,
  "qwen2": _qwen2,
  "qwen3": _qwen3,
  "olmo2": _olmo2,
  "olmo3": _olmo3,
  "smollm3": _smollm3,
  "gemma3_text": _gemma3,
  "gpt_neox": _gpt_neox,
  "gpt2": _gpt2,
}
