"""The architectures of Hugging Face that the decoder can compute.

A family is a `model_type` of transformers: the names of its modules, and the
two directions between its config.json and the fields of `ModelConfig`. What a
config.json says and the decoder lacks is collected and refused by name. Hub
files leave out keys that have their default, so the defaults of transformers'
config classes stand here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pausejax import errors

Values = Mapping[str, Any]

_GATED = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_PLAIN = {
  "gelu": "gelu_exact",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "gelu_fast": "gelu",
}


class Given:
  """A config.json while it is read.

  Attributes:
    missing: what the decoder lacks, one text each.
  """

  def __init__(self, values: Values, defaults: Values):
    self._values = {**defaults, **{k: v for k, v in values.items()}}
    self.missing: list[str] = []

  def __getitem__(self, name: str) -> Any:
    if self._values.get(name) is None:
      raise errors.UserError(f"config.json has no {name!r}")
    return self._values[name]

  def get(self, name: str, default: Any = None) -> Any:
    """Returns a value; null counts as left out."""
    value = self._values.get(name)
    return default if value is None else value

  def require(self, name: str, *allowed: Any) -> None:
    """Notes a feature that is missing unless the value is an allowed one."""
    value = self._values.get(name)
    if value not in allowed:
      self.missing.append(f"{name} {value!r}")

  def choose(self, name: str, choices: Mapping[str, str]) -> str:
    """Returns the choice of a value; notes one that has none."""
    self.require(name, *choices)
    return choices.get(self._values.get(name, ""), next(iter(choices.values())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One `model_type`.

  Attributes:
    architecture: its class with a language-model head in transformers.
    modules: our module -> the name of the module there; "{}" is the layer.
    defaults: values of keys that a config.json may leave out.
    fields: config.json -> fields of `ModelConfig` that differ from the base.
    fused: how queries, keys and values share one matrix: "" if they do not,
      "concatenated", or "interleaved" per head.
    is_transposed: whether matrices are stored as [in, out] (GPT-2).
  """

  architecture: str
  modules: Mapping[str, str]
  defaults: Values
  fields: Callable[[Given], dict[str, Any]]
  fused: str = ""
  is_transposed: bool = False


def parse_config(values: Values) -> tuple[Family, dict[str, Any]]:
  """Returns the family and the fields of `ModelConfig` of a config.json.

  Raises:
    UserError: the architecture is not known, or has features that the decoder
      lacks; the message names them.
  """
  kind = values.get("model_type")
  if kind not in FAMILIES:
    raise errors.UserError(
      f"config.json: model_type {kind!r} is not supported"
      f"{errors.nearest(kind, FAMILIES)}"
    )
  family = FAMILIES[kind]
  given = Given(values, family.defaults)
  fields = family.fields(given)
  if given.missing:
    raise errors.UserError(
      f"config.json: the decoder has no {', no '.join(given.missing)}"
    )
  return family, fields


def _sizes(g: Given) -> dict[str, Any]:
  """Returns the fields whose keys most families share."""
  num_heads = g["num_attention_heads"]
  return dict(
    num_layers=g["num_hidden_layers"],
    d_model=g["hidden_size"],
    num_heads=num_heads,
    num_kv_heads=g.get("num_key_value_heads", num_heads),
    head_dim=g.get("head_dim", g["hidden_size"] // num_heads),
    d_ff=g["intermediate_size"],
    max_seq_len=g["max_position_embeddings"],
    tied_embeddings=g["tie_word_embeddings"],
    bias=False,
  )


def _rope(g: Given, parameters: Values | None = None) -> dict[str, Any]:
  """Returns the fields of rotary positions.

  transformers 5 has `rope_parameters`; before, `rope_theta`, `rope_scaling` and
  `partial_rotary_factor`.
  """
  scaling = parameters or g.get("rope_parameters") or g.get("rope_scaling", {})
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  fields = dict(
    position="rope",
    rope_theta=float(scaling.get("rope_theta", g.get("rope_theta", 10_000.0))),
    rope_fraction=float(
      scaling.get("partial_rotary_factor", g.get("partial_rotary_factor", 1.0))
    ),
  )
  if kind == "default":
    return fields
  if kind not in ("linear", "llama3"):
    g.missing.append(f"rope_type {kind!r}")
    return fields
  fields |= dict(rope_scaling=kind, rope_scaling_factor=scaling["factor"])
  if kind == "llama3":
    fields |= dict(
      rope_low_frequency_factor=scaling["low_freq_factor"],
      rope_high_frequency_factor=scaling["high_freq_factor"],
      rope_original_seq_len=scaling["original_max_position_embeddings"],
    )
  return fields


def _rms(g: Given) -> dict[str, Any]:
  return dict(norm="rmsnorm", norm_epsilon=g["rms_norm_eps"])


def _llama(g: Given) -> dict[str, Any]:
  has_bias = g["attention_bias"]
  return {
    **_sizes(g),
    **_rope(g),
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
  every = _period(g, "no_rope_layers", [not f for f in flags])
  if not flags:
    every = g["no_rope_layer_interval"]
  return _llama(g) | dict(no_rope_every=every)


def _olmo3(g: Given) -> dict[str, Any]:
  return _olmo2(g) | _windows(g)


def _gemma3(g: Given) -> dict[str, Any]:
  g.require("attn_logit_softcapping", None)
  g.require("final_logit_softcapping", None)
  g.require("use_bidirectional_attention", None, False)
  return (
    _llama(g)
    | _windows(g)
    | dict(
      norm="rmsnorm_zero_centered",
      norm_placement="sandwich",
      qk_norm=True,
      embedding_scale=g["hidden_size"] ** 0.5,
      query_scale=g["query_pre_attn_scalar"] ** -0.5,
    )
  )


def _windows(g: Given) -> dict[str, Any]:
  """Returns the fields of layers with and without a window."""
  layers = g.get("layer_types")
  every = g.get("sliding_window_pattern", 0)
  if layers:
    is_global = [kind == "full_attention" for kind in layers]
    every = _period(g, "layer_types", is_global)
  by_kind = g.get("rope_parameters", {})
  if "full_attention" not in by_kind:
    local = g.get("rope_local_base_freq")
    fields = _rope(g)
    local = {"local_rope_theta": float(local or fields["rope_theta"])}
  else:
    fields = _rope(g, by_kind["full_attention"])
    of_local = by_kind["sliding_attention"]
    if of_local.get("rope_type", "default") != "default":
      g.missing.append("scaled rotary positions in layers with a window")
    local = {"local_rope_theta": float(of_local["rope_theta"])}
  window = g.get("sliding_window", 0)
  return fields | local | dict(window=window, global_every=every)


def _period(g: Given, name: str, marked: list[bool]) -> int:
  """Returns n if exactly every n-th layer is marked, 0 if none is."""
  if not any(marked):
    return 0
  every = marked.index(True) + 1
  if marked != [(i + 1) % every == 0 for i in range(len(marked))]:
    g.missing.append(f"{name} that does not mark every n-th layer")
  return every


def _layernorm(g: Given, epsilon: str) -> dict[str, Any]:
  return dict(norm="layernorm", norm_epsilon=g[epsilon], norm_bias=True)


def _gpt_neox(g: Given) -> dict[str, Any]:
  rope = _rope(g)
  has_bias = g["attention_bias"]
  return {
    **_sizes(g),
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

_LLAMA_DEFAULTS = dict(
  hidden_act="silu",
  rms_norm_eps=1e-6,
  max_position_embeddings=2048,
  tie_word_embeddings=False,
  attention_bias=False,
  mlp_bias=False,
  use_sliding_window=False,
)

FAMILIES: dict[Any, Family] = {
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
