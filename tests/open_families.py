"""Small models of every family: config.json, tensors, transformers' logits.

The values of a tensor depend on its name only, so that the logits of
transformers are all that is stored: `tests/saved/transformers`. With torch and
transformers installed, `python -m tests.open_families` writes them again.

B batch, T tokens, V vocabulary rows.
"""

import functools
import itertools
import json
import pathlib
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from pausejax.checkpoints import leaves
from pausejax.config import ModelConfig, default
from pausejax.interop import families, layouts
from pausejax.model import decoder

SAVED = pathlib.Path(__file__).parent / "saved" / "transformers" / "logits.npz"
NUM_IDS, NUM_TOKENS, NUM_LAST = 61, 44, 8
IDS_T = np.random.default_rng(0).integers(0, NUM_IDS, NUM_TOKENS)
WINDOW = 7
LEFT_OUT = object()

_SIZES = dict(
  vocab_size=NUM_IDS,
  hidden_size=32,
  num_hidden_layers=6,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=48,
  max_position_embeddings=64,
)
_GPT2_SIZES = dict(
  vocab_size=NUM_IDS, n_embd=32, n_layer=6, n_head=4, n_positions=64
)
_LLAMA3 = dict(
  rope_type="llama3",
  factor=4.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
# Keys of today's and of earlier files.
_ROPE = [
  {},
  dict(rope_theta=500.0),
  dict(rope_scaling=dict(type="linear", factor=2.5)),
  dict(rope_theta=1e5, rope_scaling=_LLAMA3),
  dict(rope_parameters=dict(rope_type="default", rope_theta=50)),
  dict(rope_parameters={**_LLAMA3, "rope_theta": 300.0}),
  dict(rope_scaling={k: _LLAMA3[k] for k in list(_LLAMA3)[:-1]}),
]
_PARTIAL = [
  {},
  dict(partial_rotary_factor=0.25, rope_theta=500.0),
  dict(rope_parameters=dict(partial_rotary_factor=0.75, rope_theta=50.0)),
  dict(rope_scaling=dict(rope_type="linear", factor=2.0)),
]
_FLAGS = (False, True, LEFT_OUT)
_HEADS = dict(
  num_key_value_heads=(2, 1, 4),
  head_dim=(LEFT_OUT, 6, 16, 8),
)
_EPSILON = dict(rms_norm_eps=(LEFT_OUT, 1e-2, 0.3))
_TIED = dict(tie_word_embeddings=(LEFT_OUT, True, False))
_COMMON = {**_HEADS, **_EPSILON, **_TIED, "rope": _ROPE}
_ACTIVATION = dict(hidden_act=(LEFT_OUT, "gelu_pytorch_tanh"))
_WINDOWS = dict(sliding_window=(WINDOW, None))
_LAYERS = 6
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _every(n: int) -> list[str]:
  return [_SLIDING if (i + 1) % n else _FULL for i in range(_LAYERS)]


_BY_KIND = dict(
  rope_parameters={
    _FULL: dict(rope_type="linear", factor=3.0, rope_theta=700.0),
    _SLIDING: dict(rope_type="default", rope_theta=40.0),
  }
)
_PATTERNS = dict(
  layer_types=(LEFT_OUT, _every(2), _every(6), [_SLIDING] * 6, [_FULL] * 6),
  sliding_window=(WINDOW,),
)
_QWEN = dict(
  window=(
    {},
    dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0),
    dict(use_sliding_window=False, sliding_window=WINDOW),
    dict(use_sliding_window=True, sliding_window=WINDOW, layer_types=_every(3)),
  )
)
_PLAIN_ROPE = _ROPE[:2] + _ROPE[4:5]
_OLD_LOCAL = dict(
  rope_theta=900.0,
  rope_local_base_freq=30.0,
  rope_scaling=dict(rope_type="linear", factor=8.0),
)

# model_type -> key -> its values, the n-th of each in the n-th model. A key
# whose values are objects stands for their keys.
OPTIONS: dict[str, Mapping[str, Any]] = {
  "llama": {
    **_COMMON,
    **_ACTIVATION,
    "num_key_value_heads": (2, LEFT_OUT, 1, None),
    "attention_bias": _FLAGS,
    "mlp_bias": (LEFT_OUT, True),
  },
  "mistral": {**_COMMON, **_WINDOWS},
  "ministral": {
    **_COMMON,
    "rope": _PLAIN_ROPE,
    "head_dim": (8, 6, 16),
    "layer_types": (LEFT_OUT, _every(3), [_FULL] * 6),
    "sliding_window": (WINDOW,),
  },
  "phi3": {
    **_EPSILON,
    **_TIED,
    "rope": _PARTIAL[:3],
    "pad_token_id": (0,),
    "num_key_value_heads": (2, 1, None),
    "sliding_window": (None, WINDOW, LEFT_OUT),
  },
  "qwen2": {**_COMMON, **_QWEN, "rope": _PLAIN_ROPE},
  "qwen3": {
    **_COMMON,
    **_QWEN,
    "rope": _PLAIN_ROPE,
    "head_dim": (8, 6, 16),
    "attention_bias": _FLAGS,
  },
  "olmo2": {**_COMMON, "attention_bias": _FLAGS},
  "olmo3": {
    **_COMMON,
    **_PATTERNS,
    "rope": [{}, _BY_KIND, dict(rope_theta=500_000)],
  },
  "smollm3": {
    **_COMMON,
    "mlp_bias": (LEFT_OUT, True),
    "pad_token_id": (0,),
    "no_rope": (
      {},
      dict(no_rope_layer_interval=2),
      dict(no_rope_layers=[1, 1, 0, 1, 1, 0]),
      dict(no_rope_layers=[1] * 6),
      dict(no_rope_layer_interval=1),
    ),
  },
  "gemma": {
    **_COMMON,
    "head_dim": (8, 6, 16),
    "hidden_act": (LEFT_OUT, "gelu"),
    "attention_bias": (LEFT_OUT, True),
  },
  "gemma3_text": {
    **_COMMON,
    **_PATTERNS,
    "head_dim": (8, 6, 16),
    "query_pre_attn_scalar": (LEFT_OUT, 20),
    "rope": [{}, _BY_KIND, _OLD_LOCAL],
    "pattern": ({}, {}, {}, dict(layer_types=None, sliding_window_pattern=4)),
  },
  "gpt_neox": {
    "num_key_value_heads": (LEFT_OUT,),
    "attention_bias": (LEFT_OUT, False),
    "use_parallel_residual": (LEFT_OUT, True, False),
    "layer_norm_eps": (LEFT_OUT, 1e-2, 0.3),
    "hidden_act": (LEFT_OUT, "gelu_new"),
    "tie_word_embeddings": (LEFT_OUT, True),
    "rope": [
      dict(rotary_pct=0.5, rotary_emb_base=500),
      {},
      dict(rope_parameters=dict(rope_theta=50.0, partial_rotary_factor=1.0)),
    ],
  },
  "gpt2": {
    "n_inner": (LEFT_OUT, 40, None),
    "activation_function": (LEFT_OUT, "gelu"),
    "layer_norm_epsilon": (LEFT_OUT, 1e-2, 0.3),
    "tie_word_embeddings": (LEFT_OUT, False),
  },
  "phi": {
    "rope": _PARTIAL,
    "num_key_value_heads": (None, 2, 1),
    "layer_norm_eps": (LEFT_OUT, 1e-2, 0.3),
    "hidden_act": (LEFT_OUT, "gelu"),
    "tie_word_embeddings": (LEFT_OUT, True),
  },
  "stablelm": {
    "rope": _PARTIAL,
    "num_key_value_heads": (4, 2, 1),
    "use_parallel_residual": _FLAGS,
    "use_qkv_bias": (LEFT_OUT, True),
    "layer_norm_eps": (LEFT_OUT, 1e-2, 0.3),
    "tie_word_embeddings": (LEFT_OUT, True),
  },
  "starcoder2": {
    "rope": _ROPE[:5],
    "num_key_value_heads": (LEFT_OUT, 4, 1),
    "sliding_window": (LEFT_OUT, WINDOW, None),
    "use_bias": (LEFT_OUT, False),
    "norm_epsilon": (LEFT_OUT, 1e-2, 0.3),
    "tie_word_embeddings": (LEFT_OUT, False),
  },
}


def models_of(model_type: str) -> list[dict[str, Any]]:
  """Returns config.json of models that have every value of `OPTIONS`."""
  options = OPTIONS[model_type]
  sizes = _GPT2_SIZES if model_type == "gpt2" else _SIZES
  made = []
  for i in range(max(map(len, options.values()))):
    values: dict[str, Any] = {**sizes, "model_type": model_type}
    for k, (key, choices) in enumerate(options.items()):
      # Another offset in each round, so that values meet in other pairs.
      value = choices[(i + k * (i // len(choices))) % len(choices)]
      if isinstance(value, dict) and key not in value:
        values |= value
      elif value is LEFT_OUT:
        values.pop(key, None)
      else:
        values[key] = value
    made.append(json.loads(json.dumps(values)))
  return made


CASES = {
  f"{kind}_{i}": values
  for kind in OPTIONS
  for i, values in enumerate(models_of(kind))
}


def model_config(
  values: Mapping[str, Any], dropped: str = "", **changes: Any
) -> ModelConfig:
  """Returns the decoder's config; the field `dropped` has its default."""
  _, fields = families.parse_config(values)
  fields = {name: x for name, x in fields.items() if name != dropped}
  tree = default().model
  tree.update(dict(dtype="float32", attention="xla", remat="none"))
  tree.update({**fields, **changes})
  return ModelConfig(vocab_size=NUM_IDS, **tree.to_dict())


@functools.cache
def shapes(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns leaf -> (its shape, its logical axes)."""
  abstract = jax.eval_shape(lambda: decoder.init(config, 0))
  is_param = lambda x: isinstance(x, nnx.Variable)
  return {
    n: (p.get_value().shape, p.get_metadata("axes"))
    for n, p in leaves.flatten(abstract, is_param).items()
  }


def tensors_of(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the tensors of a model, as its file has them."""
  family, _ = families.parse_config(values)
  config = model_config(values)
  center = 0.0 if config.norm == "rmsnorm_zero_centered" else 1.0
  return {
    t.name: _random(t.name, t.shape, center)
    for t in layouts.tensors(family, shapes(config), NUM_IDS)
  }


def _random(name: str, shape: tuple[int, ...], center: float) -> np.ndarray:
  """Returns float32 values; scales of norms are around `center`."""
  noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
  is_vector = len(shape) == 1
  mean = center if is_vector and name.endswith("weight") else 0.0
  return (mean + (0.3 if is_vector else 0.25) * noise).astype(np.float32)


def leaves_of(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the parameters that the tensors are: leaf -> float32."""
  family, _ = families.parse_config(values)
  config = model_config(values)
  named = {n: np.zeros(s, np.float32) for n, (s, _) in shapes(config).items()}
  tensors = tensors_of(values)
  for t in layouts.tensors(family, shapes(config), NUM_IDS):
    parts = layouts.from_tensor(family, t, tensors[t.name])
    for part, x in zip(t.parts, parts, strict=True):
      leaf = named[part.leaf]
      place = leaf if part.layer is None else leaf[part.layer]
      place[tuple(slice(n) for n in part.shape)] = x
  return named


def transformers_model(values: Mapping[str, Any]) -> Any:
  """Returns transformers' model, loaded from a folder with the tensors."""
  import safetensors.numpy
  import transformers

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "config.json").write_text(json.dumps(values))
    safetensors.numpy.save_file(
      {n: np.ascontiguousarray(x) for n, x in tensors_of(values).items()},
      folder / "model.safetensors",
      {"format": "pt"},
    )
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
      folder,
      output_loading_info=True,
      attn_implementation="eager",
      dtype="float32",
    )
  wrong = {k: v for k, v in report.items() if v and k != "error_msgs"}
  # A tied head is no tensor of the file.
  assert {*itertools.chain(*wrong.values())} <= {"lm_head.weight"}, wrong
  assert not wrong or model.config.tie_word_embeddings, wrong
  return model.eval()


def transformers_logits(values: Mapping[str, Any]) -> tuple[np.ndarray, float]:
  """Returns float32 logits [T, V], and the error of bfloat16 as a fraction."""
  import torch

  model = transformers_model(values)
  with torch.no_grad():
    ids = torch.tensor(IDS_T[None])
    exact = model(ids).logits[0].numpy()
    rounded = model.to(torch.bfloat16)(ids).logits[0].float().numpy()
  return exact, relative_error(rounded, exact)


def relative_error(actual: np.ndarray, exact: np.ndarray) -> float:
  """Returns the root mean square of the difference, by that of the values."""
  return float(np.sqrt(np.mean((actual - exact) ** 2) / np.mean(exact**2)))


def write_saved() -> None:
  """Stores the last logits of every model and the error of bfloat16."""
  made = {}
  for name, values in CASES.items():
    exact, error = transformers_logits(values)
    made[name] = exact[-NUM_LAST:]
    made[f"{name}_bfloat16_error"] = np.float32(error)
    print(f"{name}: bfloat16 error {error:.4f}", flush=True)
  SAVED.parent.mkdir(exist_ok=True)
  np.savez(SAVED, **made)


if __name__ == "__main__":
  write_saved()
