"""What is refused of a config.json: one line that says why."""

import copy

import pytest

from pausejax import errors
from pausejax.interop import families
from tests import open_families

LLAMA = open_families.CASES["llama_0"]
GEMMA = open_families.CASES["gemma3_text_0"]
LONG = dict(factor=4.0, original_max_position_embeddings=16)


def refused(values) -> str:
  """The message, which is one short line."""
  before = copy.deepcopy(values)
  with pytest.raises(errors.UserError) as caught:
    families.parse_config(values)
  assert values == before
  message = str(caught.value)
  assert message.startswith("config.json: ") and "\n" not in message
  assert len(message) < 700 and not caught.value.details
  return message


@pytest.mark.parametrize(
  ("model_type", "text"),
  [
    ("mixtral", "mixture of experts"),
    ("qwen3_moe", "mixture of experts"),
    ("olmoe", "mixture of experts"),
    ("gpt_oss", "mixture of experts"),
    ("deepseek_v3", "latent attention"),
    ("jamba", "recurrent or state-space"),
    ("falcon_h1", "recurrent or state-space"),
    ("qwen3_next", "recurrent or state-space"),
    ("lfm2", "recurrent or state-space"),
    ("mamba", "recurrent or state-space"),
    ("bert", "encoder"),
    ("modernbert", "encoder"),
    ("t5", "encoder beside"),
    ("qwen2_5_vl", "images"),
    ("gemma2", "soft-capped"),
    ("cohere", "interleaved pairs"),
    ("olmo", "norms without scales"),
    ("granite", "scaled residuals"),
    ("bloom", "ALiBi"),
    ("lama", "did you mean 'llama'"),
    ("", "known: "),
    (None, "must be a text"),
    (["llama"], "must be a text"),
    ({}, "must be a text"),
    (3, "must be a text"),
  ],
)
def test_other_architectures_are_named(model_type, text):
  assert text in refused(LLAMA | dict(model_type=model_type))


def test_the_text_model_of_a_multimodal_one_is_named():
  values = dict(
    model_type="gemma3", text_config=GEMMA, vision_config=dict(hidden_size=8)
  )
  message = refused(values)
  assert "'gemma3_text', which is supported" in message
  assert "Gemma3ForCausalLM" in message
  assert "images" in refused(dict(model_type="gemma3"))
  assert "images" in refused(dict(model_type="unknown", vision_config={}))


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (dict(quantization_config=dict(quant_method="gptq")), "quantized"),
    (dict(num_local_experts=8), "mixture of experts"),
    (dict(num_experts=4, hidden_act="relu"), "mixture of experts"),
    (dict(final_logit_softcapping=30.0), "soft-capped logits"),
    (dict(attn_logit_softcapping=50), "soft-capped attention"),
    (dict(attention_sinks=True), "attention sinks"),
    (dict(use_bidirectional_attention=True), "later positions"),
    (dict(clip_qkv=8.0), "clipped"),
    (dict(alibi=True), "ALiBi"),
    (dict(residual_multiplier=0.2), "scaled residuals"),
    (dict(logit_scale=0.0625), "scaled logits"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    (dict(rope_scaling=dict(type="yarn", **LONG)), "rope_type 'yarn'"),
    (dict(rope_scaling=dict(type="dynamic", **LONG)), "rope_type 'dynamic'"),
    (
      dict(rope_parameters=dict(rope_type="longrope", **LONG)),
      "rope_type 'longrope'",
    ),
    (dict(hidden_act="relu2"), "hidden_act 'relu2'"),
    (dict(hidden_act="gelu"), "hidden_act 'gelu'"),
    (dict(architectures=["LlamaForSequenceClassification"]), "LlamaForCausal"),
    (dict(architectures=["LlamaModel"]), "LlamaForCausalLM"),
  ],
)
def test_features_that_the_decoder_lacks_are_named(changes, text):
  families.parse_config(LLAMA)
  assert text in refused(LLAMA | changes)


def test_all_missing_features_are_in_one_message():
  message = refused(
    LLAMA | dict(hidden_act="relu2", rope_scaling=dict(type="yarn"))
  )
  assert "yarn" in message and "relu2" in message


@pytest.mark.parametrize(
  ("kind", "changes", "text"),
  [
    ("gemma3_text", dict(layer_types=["full_attention"] * 3), "layer_types"),
    (
      "gemma3_text",
      dict(layer_types=["full_attention"] + ["sliding_attention"] * 5),
      "every n-th",
    ),
    ("gemma3_text", dict(layer_types=["linear_attention"] * 6), "linear_att"),
    ("gemma3_text", dict(sliding_window=None), "sliding_window"),
    ("gemma3_text", dict(sliding_window=0), "sliding_window"),
    ("gemma3_text", dict(query_pre_attn_scalar=0), "query_pre_attn_scalar"),
    ("gemma3_text", dict(rope_parameters=dict(rope_theta=3.0)), "rope_theta"),
    ("olmo3", dict(rope_theta=10_000), "rope_theta"),
    ("smollm3", dict(no_rope_layers=[1, 0]), "no_rope_layers"),
    ("smollm3", dict(no_rope_layers=[0, 1, 1, 1, 1, 1]), "every n-th"),
    ("smollm3", dict(no_rope_layer_interval=0), "no_rope_layer_interval"),
    ("smollm3", dict(use_sliding_window=True), "use_sliding_window"),
    ("qwen2", dict(layer_types=["sliding_attention"] * 6), "without a window"),
    ("qwen3", dict(use_sliding_window=True, max_window_layers=2), "every n-th"),
    ("mistral", dict(layer_types=["full_attention"] * 6), "layer_types"),
    ("gpt_neox", dict(rotary_pct=0.4), "even number"),
    ("gpt_neox", dict(rotary_pct=2.0), "rope_fraction"),
    ("gpt2", dict(n_head=5), "divisible"),
    ("gpt2", dict(scale_attn_weights=False), "scale_attn_weights"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "inverse_layer"),
    ("gpt2", dict(add_cross_attention=True), "cross-attention"),
    ("phi", dict(qk_layernorm=True), "qk_layernorm"),
    ("stablelm", dict(qk_layernorm=True), "qk_layernorm"),
    ("phi3", dict(rope_scaling=dict(type="su")), "rope_type 'su'"),
  ],
)
def test_what_one_family_cannot_have(kind, changes, text):
  assert text in refused(open_families.CASES[f"{kind}_0"] | changes)


WRONG = ("12", -1, 0, 1.5, True, [], {}, 10**30, float("nan"), float("inf"))
NUMBERS = ("rms_norm_eps", "rope_theta")


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
  "key", [*open_families._SIZES, "head_dim", *NUMBERS, "rope_scaling"]
)
def test_wrong_values_are_one_line(key, value):
  if (key in NUMBERS and value == 1.5) or (
    key == "rope_scaling" and value == {}
  ):
    families.parse_config(LLAMA | {key: value})
    return
  assert key in refused(LLAMA | {key: value})


@pytest.mark.parametrize(
  "key", ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"]
)
def test_a_size_that_is_left_out_is_one_line(key):
  values = {k: v for k, v in LLAMA.items() if k != key}
  assert refused(values).endswith("got nothing")
  assert refused(LLAMA | {key: None}).endswith("got None")


@pytest.mark.parametrize(
  "changes",
  [
    dict(num_key_value_heads=3),
    dict(num_attention_heads=5),
    dict(num_attention_heads=64),
    dict(head_dim=7),
    dict(hidden_act=None),
    dict(hidden_act=["silu"]),
    dict(hidden_act=3),
    dict(attention_bias="yes"),
    dict(mlp_bias=1),
    dict(tie_word_embeddings="false"),
    dict(rms_norm_eps="1e-5"),
    dict(rope_scaling=dict(factor="x", type="linear")),
    dict(rope_scaling=dict(type="linear")),
    dict(rope_scaling=dict(type="linear", factor=0.5)),
    dict(rope_scaling=dict(type="llama3", factor=8)),
    dict(rope_scaling=dict(type=["llama3"], factor=8)),
    dict(
      rope_scaling=dict(
        type="llama3", low_freq_factor=4, high_freq_factor=1, **LONG
      )
    ),
    dict(rope_parameters=[1]),
    dict(rope_parameters=dict(rope_theta="x")),
    dict(num_hidden_layers=10**7),
    dict(vocab_size=2**60),
    dict(architectures=3),
    dict(architectures="LlamaModel"),
  ],
  ids=str,
)
def test_values_that_do_not_fit_are_one_line(changes):
  refused(LLAMA | changes)
