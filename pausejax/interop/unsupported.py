"""What a config.json can say that the decoder lacks, by name.

A key that a class of transformers ignores is refused, too, where it says that
the model computes something else: then it was trained with other code.
"""

from pausejax.interop.family import Given

# Key -> (values without effect besides null, the feature).
_FEATURES = {
  "quantization_config": ((), "quantized weights; save them dequantized"),
  "compression_config": ((), "quantized weights; save them dequantized"),
  "vision_config": ((), "images"),
  "audio_config": ((), "audio"),
  "is_encoder_decoder": ((False,), "encoder"),
  "add_cross_attention": ((False,), "cross-attention"),
  "use_bidirectional_attention": ((False,), "attention to later positions"),
  "attn_logit_softcapping": ((), "soft-capped attention scores"),
  "final_logit_softcapping": ((), "soft-capped logits"),
  "clip_qkv": ((), "clipped queries, keys and values"),
  "attention_sinks": ((False, 0), "attention sinks"),
  "use_attention_sinks": ((False,), "attention sinks"),
  "attention_chunk_size": ((), "attention in chunks"),
  "alibi": ((False,), "ALiBi positions"),
  "residual_multiplier": ((1,), "scaled residuals"),
  "logits_scaling": ((1,), "scaled logits"),
  "logit_scale": ((1,), "scaled logits"),
  "attention_multiplier": ((), "scaled attention scores"),
  "embedding_multiplier": ((1,), "scaled embeddings of this kind"),
  "num_kv_shared_layers": ((0,), "keys and values that layers share"),
  "kv_lora_rank": ((), "latent attention"),
  "per_layer_config": ((), "layers of different shapes"),
  "block_configs": ((), "layers of different shapes"),
  **dict.fromkeys(
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ((0, 1), "mixture of experts"),
  ),
}

_EXPERTS = "mixture of experts"
_MULTIMODAL = "images or audio"
# Feature -> model types of transformers that have it.
_MODEL_TYPES = {
  _EXPERTS: "mixtral dbrx olmoe jetmoe gpt_oss phimoe granitemoe "
  "granitemoeshared minimax_m2 afmoe flex_olmo llama4_text",
  "mixture of experts, no latent attention": "deepseek_v2 deepseek_v3 "
  "deepseek_v32 longcat_flash kimi_k2",
  "recurrent or state-space layers": "mamba mamba2 falcon_mamba jamba bamba "
  "zamba zamba2 falcon_h1 nemotron_h granitemoehybrid qwen3_next qwen3_5_text "
  "lfm2 lfm2_moe recurrent_gemma rwkv xlstm olmo_hybrid minimax kimi_linear",
  "attention to later positions (it is an encoder)": "bert roberta xlm-roberta "
  "modernbert distilbert albert electra deberta deberta-v2 mpnet esm eurobert "
  "nomic_bert camembert longformer",
  "encoder beside the decoder": "t5 mt5 umt5 longt5 bart mbart pegasus marian "
  "whisper switch_transformers t5gemma m2m_100 encoder-decoder",
  _MULTIMODAL: "gemma3 gemma3n gemma4 llama4 mllama llava llava_next paligemma "
  "pixtral mistral3 idefics3 smolvlm internvl qwen3_5 voxtral "
  "phi4_multimodal",
  "rotary positions in interleaved pairs": "gptj codegen cohere cohere2 glm "
  "glm4 helium ernie4_5",
  "soft-capped scores and logits": "gemma2 vaultgemma",
  "layer norms without scales": "olmo",
  "scaled residuals and logits": "granite",
  "ALiBi positions": "bloom mpt",
  "squared ReLU": "nemotron arcee",
  "latent attention": "minicpm3",
  "ReLU": "opt",
  "xIELU": "apertus",
  "unscaled attention scores": "gpt_neo",
}


def note_features(g: Given) -> None:
  """Notes the features that a config.json of any model type has."""
  for key, (neutral, feature) in _FEATURES.items():
    before = len(g.missing)
    g.require(key, None, *neutral)
    if len(g.missing) > before:
      g.missing[-1] = f"{feature} ({key})"


def feature_of(model_type: str) -> str:
  """Returns what the decoder lacks for a model type, "" if not known."""
  for feature, model_types in _MODEL_TYPES.items():
    if model_type in model_types.split():
      return feature
  parts = {*model_type.split("_")}
  if "moe" in parts:
    return _EXPERTS
  is_multimodal = parts & {"vl", "omni", "audio", "asr", "tts", "ocr", "vision"}
  return _MULTIMODAL if is_multimodal else ""
