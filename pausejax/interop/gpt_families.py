"""Architectures with layer norms, from GPT-2 to StarCoder 2."""

from typing import Any

from pausejax.interop.family import Family, Given
from pausejax.interop.shared_fields import (
  num_layers,
  rope_fields,
  size_fields,
  window_field,
)

_PLAIN = {
  "gelu": "gelu_exact",
  "gelu_python": "gelu_exact",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "gelu_fast": "gelu",
}


def _layer_norm(g: Given, epsilon: str) -> dict[str, Any]:
  return dict(norm="layernorm", norm_epsilon=g.number(epsilon), norm_bias=True)


def _gpt_neox(g: Given) -> dict[str, Any]:
  has_bias = g.flag("attention_bias")
  is_parallel = g.flag("use_parallel_residual")
  sizes = size_fields(g)
  num_heads = sizes["num_heads"]
  return {
    **sizes,
    # The class has no other heads.
    **dict(num_kv_heads=num_heads, head_dim=sizes["d_model"] // num_heads),
    **rope_fields(g, theta="rotary_emb_base", share="rotary_pct"),
    **_layer_norm(g, "layer_norm_eps"),
    "residual": "parallel" if is_parallel else "sequential",
    "mlp": g.choose("hidden_act", _PLAIN),
    "qkv_bias": has_bias,
    "mix_bias": has_bias,
    "mlp_bias": True,
  }


def _gpt2(g: Given) -> dict[str, Any]:
  g.require("scale_attn_weights", True)
  g.require("scale_attn_by_inverse_layer_idx", None, False)
  d_model, num_heads = g.whole("n_embd"), g.whole("n_head")
  return {
    **_layer_norm(g, "layer_norm_epsilon"),
    "num_layers": num_layers(g, "n_layer"),
    "d_model": d_model,
    "num_heads": num_heads,
    "num_kv_heads": num_heads,
    "head_dim": d_model // num_heads,
    "d_ff": g.whole("n_inner", 4 * d_model),
    "max_seq_len": g.whole("n_positions"),
    "position": "learned",
    "mlp": g.choose("activation_function", _PLAIN),
    "bias": True,
    "tied_embeddings": g.flag("tie_word_embeddings"),
  }


def _phi(g: Given) -> dict[str, Any]:
  g.require("qk_layernorm", None, False)
  return {
    **size_fields(g),
    **rope_fields(g, share="partial_rotary_factor"),
    **_layer_norm(g, "layer_norm_eps"),
    "residual": "parallel_one_norm",
    "mlp": g.choose("hidden_act", _PLAIN),
    "bias": True,
    "head_bias": True,
  }


def _stablelm(g: Given) -> dict[str, Any]:
  g.require("qk_layernorm", None, False)
  is_parallel = g.flag("use_parallel_residual")
  sizes = size_fields(g)
  return {
    **sizes,
    "head_dim": sizes["d_model"] // sizes["num_heads"],
    **rope_fields(g, share="partial_rotary_factor"),
    **_layer_norm(g, "layer_norm_eps"),
    "residual": "parallel_one_norm" if is_parallel else "sequential",
    "mlp": g.choose("hidden_act", {"silu": "swiglu"}),
    "qkv_bias": g.flag("use_qkv_bias"),
  }


def _starcoder2(g: Given) -> dict[str, Any]:
  return {
    **size_fields(g),
    **rope_fields(g),
    **window_field(g),
    **_layer_norm(g, "norm_epsilon"),
    "mlp": g.choose("hidden_act", _PLAIN),
    **dict.fromkeys(("qkv_bias", "mix_bias", "mlp_bias"), g.flag("use_bias")),
  }


_GPT_NEOX_MODULES = {
  "embedding": "gpt_neox.embed_in",
  "attention_norm": "gpt_neox.layers.{}.input_layernorm",
  **dict.fromkeys(
    ("query", "key", "value"), "gpt_neox.layers.{}.attention.query_key_value"
  ),
  "mix": "gpt_neox.layers.{}.attention.dense",
  "mlp_norm": "gpt_neox.layers.{}.post_attention_layernorm",
  "expand": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
  "contract": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
  "final_norm": "gpt_neox.final_layer_norm",
  "untied_head": "embed_out",
}
_GPT2_MODULES = {
  "embedding": "transformer.wte",
  "position_embedding": "transformer.wpe",
  "attention_norm": "transformer.h.{}.ln_1",
  **dict.fromkeys(("query", "key", "value"), "transformer.h.{}.attn.c_attn"),
  "mix": "transformer.h.{}.attn.c_proj",
  "mlp_norm": "transformer.h.{}.ln_2",
  "expand": "transformer.h.{}.mlp.c_fc",
  "contract": "transformer.h.{}.mlp.c_proj",
  "final_norm": "transformer.ln_f",
  "untied_head": "lm_head",
}
_PHI_MODULES = {
  "embedding": "model.embed_tokens",
  "attention_norm": "model.layers.{}.input_layernorm",
  "query": "model.layers.{}.self_attn.q_proj",
  "key": "model.layers.{}.self_attn.k_proj",
  "value": "model.layers.{}.self_attn.v_proj",
  "mix": "model.layers.{}.self_attn.dense",
  "expand": "model.layers.{}.mlp.fc1",
  "contract": "model.layers.{}.mlp.fc2",
  "final_norm": "model.final_layernorm",
  "untied_head": "lm_head",
  "head_bias": "lm_head",
}
_STABLELM_MODULES = _PHI_MODULES | {
  "mix": "model.layers.{}.self_attn.o_proj",
  "mlp_norm": "model.layers.{}.post_attention_layernorm",
  "gate": "model.layers.{}.mlp.gate_proj",
  "expand": "model.layers.{}.mlp.up_proj",
  "contract": "model.layers.{}.mlp.down_proj",
  "final_norm": "model.norm",
}
_STARCODER2_MODULES = _STABLELM_MODULES | {
  "expand": "model.layers.{}.mlp.c_fc",
  "contract": "model.layers.{}.mlp.c_proj",
}

GPT_FAMILIES = {
  "gpt_neox": Family(
    architecture="GPTNeoXForCausalLM",
    modules=_GPT_NEOX_MODULES,
    defaults=dict(
      hidden_act="gelu",
      layer_norm_eps=1e-5,
      max_position_embeddings=2048,
      tie_word_embeddings=False,
      attention_bias=True,
      use_parallel_residual=True,
      rotary_emb_base=10_000.0,
      rotary_pct=0.25,
    ),
    fields=_gpt_neox,
    fused="interleaved",
  ),
  "gpt2": Family(
    architecture="GPT2LMHeadModel",
    modules=_GPT2_MODULES,
    defaults=dict(
      n_positions=1024,
      n_embd=768,
      n_layer=12,
      n_head=12,
      activation_function="gelu_new",
      layer_norm_epsilon=1e-5,
      scale_attn_weights=True,
      tie_word_embeddings=True,
    ),
    fields=_gpt2,
    fused="concatenated",
    is_transposed=True,
  ),
  "phi": Family(
    architecture="PhiForCausalLM",
    modules=_PHI_MODULES,
    defaults=dict(
      hidden_act="gelu_new",
      layer_norm_eps=1e-5,
      max_position_embeddings=2048,
      tie_word_embeddings=False,
      rope_theta=10_000.0,
      partial_rotary_factor=0.5,
    ),
    fields=_phi,
  ),
  "stablelm": Family(
    architecture="StableLmForCausalLM",
    modules=_STABLELM_MODULES,
    defaults=dict(
      hidden_act="silu",
      num_key_value_heads=32,
      layer_norm_eps=1e-5,
      max_position_embeddings=4096,
      tie_word_embeddings=False,
      rope_theta=10_000.0,
      partial_rotary_factor=0.25,
    ),
    fields=_stablelm,
  ),
  "starcoder2": Family(
    architecture="Starcoder2ForCausalLM",
    modules=_STARCODER2_MODULES,
    defaults=dict(
      hidden_act="gelu_pytorch_tanh",
      num_key_value_heads=2,
      norm_epsilon=1e-5,
      max_position_embeddings=4096,
      tie_word_embeddings=True,
      use_bias=True,
      rope_theta=10_000.0,
    ),
    fields=_starcoder2,
  ),
}
