"""Architectures with the module names of Llama: RMS norms, a gated MLP."""

from typing import Any

from pausejax.interop.family import Family, Given
from pausejax.interop.shared_fields import (
  every_nth,
  layer_windows,
  num_layers,
  optional_windows,
  rope_fields,
  size_fields,
  window_field,
  windows_and_rope,
)

_GATED = {
  "silu": "swiglu",
  "swish": "swiglu",
  "gelu_pytorch_tanh": "geglu",
  "gelu_new": "geglu",
  "gelu_fast": "geglu",
}


def _base(g: Given) -> dict[str, Any]:
  """Returns the fields of Llama without its rotary positions and biases."""
  return size_fields(g) | dict(
    norm="rmsnorm",
    norm_epsilon=g.number("rms_norm_eps"),
    mlp=g.choose("hidden_act", _GATED),
  )


def _attention_bias(g: Given) -> dict[str, Any]:
  has_bias = g.flag("attention_bias")
  return dict(qkv_bias=has_bias, mix_bias=has_bias)


def _llama(g: Given) -> dict[str, Any]:
  return {
    **_base(g),
    **rope_fields(g),
    **_attention_bias(g),
    "mlp_bias": g.flag("mlp_bias"),
  }


def _mistral(g: Given) -> dict[str, Any]:
  return _base(g) | rope_fields(g) | window_field(g)


def _ministral(g: Given) -> dict[str, Any]:
  has_window = g.get("sliding_window") is not None
  kind = "sliding_attention" if has_window else "full_attention"
  fields = _base(g) | rope_fields(g)
  windows = layer_windows(g, [kind] * num_layers(g))
  if windows.get("global_every") and "rope_scaling" in fields:
    g.missing.append("scaled rotary positions in layers with a window")
  return fields | windows


def _phi3(g: Given) -> dict[str, Any]:
  rope = rope_fields(g, share="partial_rotary_factor")
  return _base(g) | rope | window_field(g)


def _qwen2(g: Given) -> dict[str, Any]:
  fields = _base(g) | rope_fields(g) | optional_windows(g)
  return fields | dict(qkv_bias=True)


def _qwen3(g: Given) -> dict[str, Any]:
  return {
    **_base(g),
    **rope_fields(g),
    **optional_windows(g),
    **_attention_bias(g),
    "qk_norm": True,
  }


def _olmo2(g: Given) -> dict[str, Any]:
  return _olmo2_without_rope(g) | rope_fields(g)


def _olmo3(g: Given) -> dict[str, Any]:
  if g.get("rope_parameters") is None:
    # transformers 4 has it in all layers, 5 in those without a window.
    g.require("rope_theta", 500_000)
  return _olmo2_without_rope(g) | windows_and_rope(g, _every_nth_full(g, 4))


def _olmo2_without_rope(g: Given) -> dict[str, Any]:
  return {
    **_base(g),
    **_attention_bias(g),
    "norm_placement": "post",
    "qk_norm": True,
    "qk_norm_span": "all_heads",
  }


def _smollm3(g: Given) -> dict[str, Any]:
  g.require("use_sliding_window", None, False)
  flags = g.per_layer("no_rope_layers", num_layers(g), int)
  every = every_nth(g, "no_rope_layers", [not flag for flag in flags])
  if not flags:
    every = g.whole("no_rope_layer_interval")
  return _llama(g) | optional_windows(g) | dict(no_rope_every=every)


def _gemma(g: Given) -> dict[str, Any]:
  # Files of Gemma 1 say "gelu" and mean its tanh form.
  return _gemma_base(g, "hidden_act", "gelu") | rope_fields(g)


def _gemma3(g: Given) -> dict[str, Any]:
  kinds: list[str] = []
  if not g.get("layer_types"):
    kinds = _every_nth_full(g, g.whole("sliding_window_pattern"))
  return {
    **_gemma_base(g, "hidden_activation"),
    **windows_and_rope(g, kinds),
    "norm_placement": "sandwich",
    "qk_norm": True,
    "query_scale": g.number("query_pre_attn_scalar") ** -0.5,
  }


def _gemma_base(g: Given, activation: str, *also: str) -> dict[str, Any]:
  return {
    **size_fields(g),
    **_attention_bias(g),
    "norm": "rmsnorm_zero_centered",
    "norm_epsilon": g.number("rms_norm_eps"),
    "mlp": g.choose(activation, _GATED | dict.fromkeys(also, "geglu")),
    "embedding_scale": g.whole("hidden_size") ** 0.5,
  }


def _every_nth_full(g: Given, n: int) -> list[str]:
  """Returns `layer_types` in which every n-th layer has no window."""
  return [
    "sliding_attention" if (i + 1) % n else "full_attention"
    for i in range(num_layers(g))
  ]


_MODULES = {
  "embedding": "model.embed_tokens",
  "attention_norm": "model.layers.{}.input_layernorm",
  "query": "model.layers.{}.self_attn.q_proj",
  "key": "model.layers.{}.self_attn.k_proj",
  "value": "model.layers.{}.self_attn.v_proj",
  "query_norm": "model.layers.{}.self_attn.q_norm",
  "key_norm": "model.layers.{}.self_attn.k_norm",
  "mix": "model.layers.{}.self_attn.o_proj",
  "mlp_norm": "model.layers.{}.post_attention_layernorm",
  "gate": "model.layers.{}.mlp.gate_proj",
  "expand": "model.layers.{}.mlp.up_proj",
  "contract": "model.layers.{}.mlp.down_proj",
  "final_norm": "model.norm",
  "untied_head": "lm_head",
}
_PHI3_MODULES = {
  **_MODULES,
  **dict.fromkeys(
    ("query", "key", "value"), "model.layers.{}.self_attn.qkv_proj"
  ),
  **dict.fromkeys(("gate", "expand"), "model.layers.{}.mlp.gate_up_proj"),
}
_OLMO2_MODULES = _MODULES | {
  "attention_output_norm": "model.layers.{}.post_attention_layernorm",
  "mlp_output_norm": "model.layers.{}.post_feedforward_layernorm",
}
_GEMMA3_MODULES = _OLMO2_MODULES | {
  "mlp_norm": "model.layers.{}.pre_feedforward_layernorm"
}

_DEFAULTS = dict(
  hidden_act="silu",
  rms_norm_eps=1e-6,
  rope_theta=10_000.0,
  max_position_embeddings=2048,
  tie_word_embeddings=False,
)


def _family(name, fields, modules=_MODULES, fused="", **defaults) -> Family:
  return Family(
    architecture=f"{name}ForCausalLM",
    modules=modules,
    defaults=_DEFAULTS | defaults,
    fields=fields,
    fused=fused,
  )


LLAMA_FAMILIES = {
  "llama": _family("Llama", _llama),
  "mistral": _family(
    "Mistral",
    _mistral,
    num_key_value_heads=8,
    max_position_embeddings=131_072,
    sliding_window=4096,
  ),
  "ministral": _family(
    "Ministral",
    _ministral,
    num_key_value_heads=8,
    max_position_embeddings=131_072,
    sliding_window=4096,
  ),
  "phi3": _family(
    "Phi3",
    _phi3,
    _PHI3_MODULES,
    "concatenated",
    rms_norm_eps=1e-5,
    max_position_embeddings=4096,
    partial_rotary_factor=1.0,
  ),
  "qwen2": _family(
    "Qwen2",
    _qwen2,
    num_key_value_heads=32,
    max_position_embeddings=32_768,
    sliding_window=4096,
    max_window_layers=28,
  ),
  "qwen3": _family(
    "Qwen3",
    _qwen3,
    num_key_value_heads=32,
    head_dim=128,
    max_position_embeddings=32_768,
    sliding_window=4096,
    max_window_layers=28,
  ),
  "olmo2": _family("Olmo2", _olmo2, _OLMO2_MODULES, rms_norm_eps=1e-5),
  "olmo3": _family(
    "Olmo3",
    _olmo3,
    _OLMO2_MODULES,
    rms_norm_eps=1e-5,
    rope_theta=500_000.0,
    rope_local_base_freq=500_000.0,
    sliding_window=4096,
  ),
  "smollm3": _family(
    "SmolLM3",
    _smollm3,
    num_key_value_heads=4,
    max_position_embeddings=32_768,
    tie_word_embeddings=True,
    no_rope_layer_interval=4,
    rope_theta=2_000_000.0,
  ),
  "gemma": _family(
    "Gemma",
    _gemma,
    hidden_act="gelu_pytorch_tanh",
    num_key_value_heads=16,
    head_dim=256,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
  ),
  "gemma3_text": _family(
    "Gemma3",
    _gemma3,
    _GEMMA3_MODULES,
    hidden_activation="gelu_pytorch_tanh",
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=131_072,
    tie_word_embeddings=True,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    sliding_window_pattern=6,
    rope_theta=1_000_000.0,
    rope_local_base_freq=10_000.0,
  ),
}
