"""The keys of config.json for each class of transformers, given a model.

Each function writes only keys that its class reads, with their names in
transformers 5 and in 4. What the class lacks is left out: `hf_config.py` reads
the result back and compares.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from pausejax.config import ModelConfig
from pausejax.interop.computed_fields import (
  computed_global_every,
  computed_rope,
  computed_window,
  norm_epsilon,
)


def _llama(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(attention_bias=c.qkv_bias, mlp_bias=c.mlp_bias)


def _mistral(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(sliding_window=computed_window(c) or None)


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
    "rms_norm_eps": norm_epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    **_rope(c),
  }


def _ministral(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | _layer_windows(c) | _rope_of_all_layers(c)


def _qwen2(c: ModelConfig) -> dict[str, Any]:
  return {
    **_shared(c),
    **(_layer_windows(c) if computed_window(c) else {}),
    **_rope_of_all_layers(c),
    "use_sliding_window": computed_window(c) > 0,
    "max_window_layers": 0 if computed_window(c) else c.num_layers,
  }


def _qwen3(c: ModelConfig) -> dict[str, Any]:
  return _qwen2(c) | dict(attention_bias=c.qkv_bias)


def _phi3(c: ModelConfig) -> dict[str, Any]:
  # The class scales no wavelengths in these ways.
  plain = dataclasses.replace(c, rope_scaling="none")
  return _mistral(c) | _partial_rope(plain)


def _gemma(c: ModelConfig) -> dict[str, Any]:
  return _shared(c) | dict(attention_bias=c.qkv_bias)


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


def _layer_windows(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of windows in some layers or in all."""
  every = computed_global_every(c) if computed_window(c) else 1
  kinds = [
    "full_attention" if every and (i + 1) % every == 0 else "sliding_attention"
    for i in range(c.num_layers)
  ]
  # transformers also needs a number where no layer has the window.
  return {
    "sliding_window": computed_window(c) or c.max_seq_len,
    "layer_types": kinds,
  }


def _windows(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of classes whose positions differ with the window."""
  windows = _layer_windows(c)
  has_global = "full_attention" in windows["layer_types"]
  local = {"rope_type": "default", "rope_theta": _local_theta(c)}
  return {
    **windows,
    "sliding_window_pattern": computed_global_every(c) or c.num_layers + 1,
    "rope_parameters": {
      "full_attention": _rope(c)["rope_parameters"] if has_global else local,
      "sliding_attention": local,
    },
  }


def _rope_of_all_layers(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of classes that scale layers with a window, too."""
  differ = computed_global_every(c) > 0
  return _rope(dataclasses.replace(c, rope_scaling="none") if differ else c)


def _local_theta(c: ModelConfig) -> float:
  """Returns the base of the layers with a window; none of them is scaled."""
  fields = computed_rope(c)
  return float(fields["local_rope_theta"] or fields["rope_theta"])


def _rope(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of rotary positions."""
  fields = computed_rope(c)
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
    "layer_norm_eps": norm_epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    "attention_bias": c.qkv_bias,
    "use_parallel_residual": c.residual == "parallel",
    "rotary_pct": float(c.rope_fraction),
    "rotary_emb_base": float(c.rope_theta),
    **_partial_rope(c),
  }


def _phi(c: ModelConfig) -> dict[str, Any]:
  return _with_layer_norms(c) | _partial_rope(c) | dict(qk_layernorm=False)


def _stablelm(c: ModelConfig) -> dict[str, Any]:
  return {
    **_with_layer_norms(c),
    **_partial_rope(c),
    "hidden_act": "silu",
    "use_qkv_bias": c.qkv_bias,
    "use_parallel_residual": c.residual == "parallel_one_norm",
    "qk_layernorm": False,
  }


def _starcoder2(c: ModelConfig) -> dict[str, Any]:
  return {
    **_with_layer_norms(c),
    **_rope(c),
    "norm_epsilon": norm_epsilon(c),
    "use_bias": c.qkv_bias,
    "sliding_window": computed_window(c) or None,
  }


def _with_layer_norms(c: ModelConfig) -> dict[str, Any]:
  """Returns the keys of newer classes with layer norms."""
  keys = _shared(c)
  del keys["rms_norm_eps"]
  return keys | {
    "layer_norm_eps": norm_epsilon(c),
    "hidden_act": "gelu_new" if c.mlp == "gelu" else "gelu",
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
    "layer_norm_epsilon": norm_epsilon(c),
    "tie_word_embeddings": c.tied_embeddings,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
  }


# model_type -> its function, the simplest class first.
WRITERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
  "llama": _llama,
  "mistral": _mistral,
  "ministral": _ministral,
  "qwen2": _qwen2,
  "qwen3": _qwen3,
  "phi3": _phi3,
  "gemma": _gemma,
  "olmo2": _olmo2,
  "olmo3": _olmo3,
  "smollm3": _smollm3,
  "gemma3_text": _gemma3,
  "gpt_neox": _gpt_neox,
  "phi": _phi,
  "stablelm": _stablelm,
  "starcoder2": _starcoder2,
  "gpt2": _gpt2,
}
