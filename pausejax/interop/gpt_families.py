"""Architectures with layer norms and a plain MLP: GPT-2, GPT-NeoX."""

from typing import Any

from pausejax.interop.family import Family, Given
from pausejax.interop.shared_fields import rope_fields, size_fields

_PLAIN = {
  "gelu": "gelu_exact",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "gelu_fast": "gelu",
}


def _layernorm(g: Given, epsilon: str) -> dict[str, Any]:
  return dict(norm="layernorm", norm_epsilon=g[epsilon], norm_bias=True)


def _gpt_neox(g: Given) -> dict[str, Any]:
  rope = rope_fields(g)
  has_bias = g["attention_bias"]
  return {
    **size_fields(g),
    **rope,
    **_layernorm(g, "layer_norm_eps"),
    "residual": "parallel" if g["use_parallel_residual"] else "sequential",
    "mlp": g.choose("hidden_act", _PLAIN),
    "qkv_bias": has_bias,
    "mix_bias": has_bias,
    "mlp_bias": True,
  }


def _gpt2(g: Given) -> dict[str, Any]:
  g.require("scale_attn_weights", True)
  g.require("scale_attn_by_inverse_layer_idx", False)
  g.require("add_cross_attention", False)
  d_model, num_heads = g["n_embd"], g["n_head"]
  return dict(
    num_layers=g["n_layer"],
    d_model=d_model,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=d_model // num_heads,
    d_ff=g.get("n_inner", 4 * d_model),
    max_seq_len=g["n_positions"],
    position="learned",
    norm="layernorm",
    norm_epsilon=g["layer_norm_epsilon"],
    mlp=g.choose("activation_function", _PLAIN),
    bias=True,
    tied_embeddings=g["tie_word_embeddings"],
  )


_GPT_NEOX = {
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
_GPT2 = {
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

GPT_FAMILIES = {
  "gpt_neox": Family(
    architecture="GPTNeoXForCausalLM",
    modules=_GPT_NEOX,
    defaults=dict(
      hidden_act="gelu",
      layer_norm_eps=1e-5,
      max_position_embeddings=2048,
      tie_word_embeddings=False,
      attention_bias=True,
      use_parallel_residual=True,
    ),
    fields=_gpt_neox,
    fused="interleaved",
  ),
  "gpt2": Family(
    architecture="GPT2LMHeadModel",
    modules=_GPT2,
    defaults=dict(
      n_positions=1024,
      n_embd=768,
      n_layer=12,
      n_head=12,
      activation_function="gelu_new",
      layer_norm_epsilon=1e-5,
      scale_attn_weights=True,
      scale_attn_by_inverse_layer_idx=False,
      add_cross_attention=False,
      tie_word_embeddings=True,
    ),
    fields=_gpt2,
    fused="concatenated",
    is_transposed=True,
  ),
}
