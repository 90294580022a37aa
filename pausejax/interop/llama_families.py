"""Architectures with the module names of Llama: RMS norms, a gated MLP."""

from typing import Any

from pausejax.interop.family import Family, Given
from pausejax.interop.shared_fields import (
  period_of,
  rope_fields,
  size_fields,
  window_fields,
)

_GATED = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}


def _rms(g: Given) -> dict[str, Any]:
  return dict(norm="rmsnorm", norm_epsilon=g["rms_norm_eps"])


def _llama(g: Given) -> dict[str, Any]:
  has_bias = g["attention_bias"]
  return {
    **size_fields(g),
    **rope_fields(g),
    **_rms(g),
    "mlp": g.choose("hidden_act", _GATED),
    "qkv_bias": has_bias,
    "mix_bias": has_bias,
    "mlp_bias": g["mlp_bias"],
  }


def _mistral(g: Given) -> dict[str, Any]:
  return _llama(g) | dict(window=g.get("sliding_window", 0))


def _qwen2(g: Given) -> dict[str, Any]:
  g.require("use_sliding_window", False)
  return _llama(g) | dict(qkv_bias=True, mix_bias=False)


def _qwen3(g: Given) -> dict[str, Any]:
  g.require("use_sliding_window", False)
  return _llama(g) | dict(qk_norm=True)


def _olmo2(g: Given) -> dict[str, Any]:
  return _llama(g) | dict(
    norm_placement="post", qk_norm=True, qk_norm_span="all_heads"
  )


def _smollm3(g: Given) -> dict[str, Any]:
  g.require("use_sliding_window", False)
  flags = g.get("no_rope_layers", [])
  every = period_of(g, "no_rope_layers", [not f for f in flags])
  if not flags:
    every = g["no_rope_layer_interval"]
  return _llama(g) | dict(no_rope_every=every)


def _olmo3(g: Given) -> dict[str, Any]:
  return _olmo2(g) | window_fields(g)


def _gemma3(g: Given) -> dict[str, Any]:
  g.require("attn_logit_softcapping", None)
  g.require("final_logit_softcapping", None)
  g.require("use_bidirectional_attention", None, False)
  return (
    _llama(g)
    | window_fields(g)
    | dict(
      norm="rmsnorm_zero_centered",
      norm_placement="sandwich",
      qk_norm=True,
      embedding_scale=g["hidden_size"] ** 0.5,
      query_scale=g["query_pre_attn_scalar"] ** -0.5,
    )
  )


_LLAMA = {
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
_OLMO2 = _LLAMA | {
  "attention_output_norm": "model.layers.{}.post_attention_layernorm",
  "mlp_output_norm": "model.layers.{}.post_feedforward_layernorm",
}
_GEMMA3 = _OLMO2 | {"mlp_norm": "model.layers.{}.pre_feedforward_layernorm"}

_LLAMA_DEFAULTS = dict(
  hidden_act="silu",
  rms_norm_eps=1e-6,
  max_position_embeddings=2048,
  tie_word_embeddings=False,
  attention_bias=False,
  mlp_bias=False,
  use_sliding_window=False,
)

LLAMA_FAMILIES = {
  "llama": Family(
    architecture="LlamaForCausalLM",
    modules=_LLAMA,
    defaults=_LLAMA_DEFAULTS,
    fields=_llama,
  ),
  "mistral": Family(
    architecture="MistralForCausalLM",
    modules=_LLAMA,
    defaults=_LLAMA_DEFAULTS
    | dict(num_key_value_heads=8, max_position_embeddings=131_072),
    fields=_mistral,
  ),
  "qwen2": Family(
    architecture="Qwen2ForCausalLM",
    modules=_LLAMA,
    defaults=_LLAMA_DEFAULTS
    | dict(num_key_value_heads=32, max_position_embeddings=32_768),
    fields=_qwen2,
  ),
  "qwen3": Family(
    architecture="Qwen3ForCausalLM",
    modules=_LLAMA,
    defaults=_LLAMA_DEFAULTS
    | dict(
      num_key_value_heads=32, head_dim=128, max_position_embeddings=32_768
    ),
    fields=_qwen3,
  ),
  "olmo2": Family(
    architecture="Olmo2ForCausalLM",
    modules=_OLMO2,
    defaults=_LLAMA_DEFAULTS | dict(rms_norm_eps=1e-5),
    fields=_olmo2,
  ),
  "olmo3": Family(
    architecture="Olmo3ForCausalLM",
    modules=_OLMO2,
    defaults=_LLAMA_DEFAULTS
    | dict(rms_norm_eps=1e-5, sliding_window=4096, sliding_window_pattern=4),
    fields=_olmo3,
  ),
  "smollm3": Family(
    architecture="SmolLM3ForCausalLM",
    modules=_LLAMA,
    defaults=_LLAMA_DEFAULTS
    | dict(
      num_key_value_heads=4,
      max_position_embeddings=32_768,
      tie_word_embeddings=True,
      no_rope_layer_interval=4,
      rope_theta=2_000_000.0,
    ),
    fields=_smollm3,
  ),
  "gemma3_text": Family(
    architecture="Gemma3ForCausalLM",
    modules=_GEMMA3,
    defaults=_LLAMA_DEFAULTS
    | dict(
      hidden_act="gelu_pytorch_tanh",
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
    fields=_gemma3,
  ),
}
