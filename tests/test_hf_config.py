"""The class of transformers for a model: exactly the same, or refused."""

import dataclasses
import random

import pytest

from pausejax import errors
from pausejax.config import ModelConfig, default
from pausejax.interop import families, hf_config
from pausejax.interop.computed_fields import computed_fields
from tests import models

_RMS = dict(position="rope", norm="rmsnorm", mlp="swiglu", bias=False)
CLASSES = {
  "LlamaForCausalLM": _RMS
  | dict(num_kv_heads=2, head_dim=6, norm_epsilon=1e-3),
  "MistralForCausalLM": _RMS | dict(window=5, rope_scaling="linear"),
  "Qwen2ForCausalLM": _RMS | dict(qkv_bias=True),
  "Qwen3ForCausalLM": _RMS | dict(qk_norm=True, qkv_bias=True, mix_bias=True),
  "Olmo2ForCausalLM": models.ARCHITECTURES["olmo"],
  "Olmo3ForCausalLM": models.ARCHITECTURES["olmo"]
  | dict(window=5, global_every=2, rope_scaling="llama3"),
  "SmolLM3ForCausalLM": _RMS | dict(no_rope_every=2, mlp_bias=True),
  "Gemma3ForCausalLM": models.ARCHITECTURES["gemma"]
  | dict(qk_norm=True, query_scale=20**-0.5),
  "GPTNeoXForCausalLM": models.ARCHITECTURES["neox"] | dict(mix_bias=True),
  "MinistralForCausalLM": _RMS | dict(window=5, global_every=2),
  "Phi3ForCausalLM": _RMS | dict(rope_fraction=0.5, window=5),
  "GemmaForCausalLM": _RMS
  | dict(
    norm="rmsnorm_zero_centered",
    mlp="geglu",
    embedding_scale=4.0,
    tied_embeddings=True,
  ),
  "PhiForCausalLM": dict(
    position="rope",
    rope_fraction=0.5,
    residual="parallel_one_norm",
    head_bias=True,
  ),
  "StableLmForCausalLM": _RMS
  | dict(norm="layernorm", norm_bias=True, rope_fraction=0.5),
  "Starcoder2ForCausalLM": dict(position="rope", num_kv_heads=2, window=5),
  "GPT2LMHeadModel": {},
}
# The choices of each field, most of them those of the base config.
_CHOICES = dict(
  num_layers=[2, 3],
  num_heads=[4, 4, 2],
  num_kv_heads=[2, 1],
  head_dim=[4, 6],
  max_seq_len=[32, 48],
  position=["learned", "rope", "rope", "rope"],
  rope_theta=[10_000.0, 5e5],
  rope_fraction=[1.0, 1.0, 0.5],
  rope_scaling=["none", "none", "linear", "llama3"],
  rope_scaling_factor=[8.0, 2.5],
  no_rope_every=[0, 0, 0, 2, 9],
  window=[0, 0, 5],
  global_every=[0, 0, 1, 2, 9],
  local_rope_theta=[10_000.0, 50.0],
  norm=["layernorm", "rmsnorm", "rmsnorm", "rmsnorm_zero_centered"],
  norm_epsilon=[0.0, 1e-3],
  norm_placement=["pre", "pre", "post", "sandwich"],
  residual=["sequential", "sequential", "parallel", "parallel_one_norm"],
  mlp=["gelu", "gelu_exact", "swiglu", "geglu"],
  qk_norm=[False, True],
  qk_norm_span=["head", "all_heads"],
  qkv_bias=[False, True],
  mix_bias=[False, True],
  mlp_bias=[False, True],
  norm_bias=[False, True],
  head_bias=[False, False, False, True],
  embedding_scale=[1.0, 1.0, 4.0],
  query_scale=[0.0, 0.0, 0.7, 20**-0.5],
  tied_embeddings=[False, True],
  segment_attention=[False, True],
  prefix_attention=["causal"] * 9 + ["bidirectional"],
  dtype=["auto", "bfloat16"],
)


def read_back(values: dict) -> ModelConfig:
  _, fields = families.parse_config(values)
  tree = default().model
  tree.update(fields)
  return ModelConfig(vocab_size=values["vocab_size"], **tree.to_dict())


def random_config(rng: random.Random) -> ModelConfig:
  """A class's model with a few other choices, or any choices at all."""
  base = rng.choice([*CLASSES.values(), None])
  drawn = {name: rng.choice(values) for name, values in _CHOICES.items()}
  if base is not None:
    kept = rng.sample(sorted(drawn), rng.choice([0, 1, 2, 4]))
    drawn = base | {name: drawn[name] for name in kept}
  drawn.setdefault("num_kv_heads", drawn.get("num_heads", 4))
  try:
    return models.model_config(**drawn)
  except errors.UsageError:  # A combination that no model has.
    return models.model_config()


@pytest.mark.parametrize("architecture", CLASSES)
def test_the_class_of_a_model(architecture):
  model = models.model_config(**CLASSES[architecture])
  family, values = hf_config.exported_config(model)
  assert values["architectures"] == [architecture] == [family.architecture]
  assert values["vocab_size"] == model.vocab_size


def test_a_model_is_read_back_the_same_or_refused_by_name():
  rng, num_exported, num_refused = random.Random(0), 0, 0
  for _ in range(200):
    model = random_config(rng)
    own = computed_fields(model)
    try:
      _, values = hf_config.exported_config(model)
    except errors.UserError as e:
      num_refused += 1
      assert "\n" not in e.message
      _, _, lacks = e.message.partition(" has no ")
      named = [text.split()[0] for text in lacks.split(", no ")]
      assert named
      for name in named:
        assert own[name.removeprefix("model.")] is not None, e.message
    else:
      num_exported += 1
      assert computed_fields(read_back(values)) == own
  assert num_exported > 40
  assert num_refused > 40


def test_a_field_without_effect_does_not_decide():
  model = models.model_config(**_RMS)
  same = dataclasses.replace(
    model, no_rope_every=9, qk_norm_span="all_heads", norm_epsilon=1e-6
  )
  assert computed_fields(same) == computed_fields(model)
  other = dataclasses.replace(model, norm_epsilon=1e-5)
  assert computed_fields(other) != computed_fields(model)


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    (dict(norm="rmsnorm"), "model.norm 'rmsnorm'"),
    (dict(prefix_attention="bidirectional"), "'bidirectional'"),
    (dict(residual="parallel"), "model.position 'learned'"),
    (_RMS | dict(num_loops=2), "model.num_loops 2"),
    (_RMS | dict(mix_bias=True), "model.mix_bias True"),
    (
      _RMS | dict(rope_fraction=0.5, qk_norm=True),
      "model.rope_fraction 0.5",
    ),
    (dict(num_heads=3, num_kv_heads=3, head_dim=6), "model.num_heads 3"),
    (
      models.ARCHITECTURES["gemma"] | dict(qk_norm=True),
      "model.query_scale 0.7",
    ),
  ],
)
def test_what_no_class_has_is_named(changes, named):
  model = models.model_config(**changes)
  with pytest.raises(errors.UserError, match=named):
    hf_config.exported_config(model)


def test_layers_that_all_have_the_window_use_its_own_wavelengths():
  """Gemma's local layers are not scaled, and here every layer is one."""
  gemma = CLASSES["Gemma3ForCausalLM"] | dict(global_every=9)
  model = models.model_config(**gemma)
  _, values = hf_config.exported_config(model)
  assert {*values["layer_types"]} == {"sliding_attention"}
  thetas = values["rope_parameters"].values()
  assert {p["rope_theta"] for p in thetas} == {50.0}
