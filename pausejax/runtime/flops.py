"""FLOPs of a training step and of an answer, and the peak of the devices.

FLOPs are counted from the shapes, not by the compiler (which counts a scan's
body once), for a forward and a backward pass without rematerialization:

  6 * (parameters of the matrices of all layers and of the head)
  + 12 * N * H * (keys that a query counts, summed over the layers)

where a layer counts once for each of the model's `num_loops`.

Two conventions are in use for the keys of a causal layer:

  causal: those that the mask allows, T / 2 on average (half the square), or
    W - W^2 / (2 T) with a window of W < T. All figures of pausejax that do not
    say otherwise.
  full: T (the whole square), or W with a window, although the mask excludes
    half of them: Chowdhery et al. (2022, appendix B), nanochat, llm-foundry.

An answer needs a third: the forward pass only, in the first convention.
"""

import dataclasses

from pausejax.config import ModelConfig
from pausejax.runtime import chips


def per_token(
  config: ModelConfig, seq_len: int, *, full_attention: bool = False
) -> float:
  """Returns the FLOPs of one training step per input token.

  Args:
    config: the model.
    seq_len: positions of a row.
    full_attention: whether to count the whole square of the attention, as
      nanochat and llm-foundry do, and not what the causal mask allows.
  """
  num_keys = (_all_keys if full_attention else causal_keys)(config, seq_len)
  return 3 * (_of_layers(config, num_keys) + _of_head(config))


def of_answer(config: ModelConfig, num_positions: int, num_new: int) -> float:
  """Returns the FLOPs of answering one prompt: a forward pass.

  Args:
    config: the model.
    num_positions: tokens of the prompt, its pauses and the answer.
    num_new: tokens of the answer, each of which needs the logits once.
  """
  layers = _of_layers(config, causal_keys(config, num_positions))
  return num_positions * layers + num_new * _of_head(config)


def equal_layers(
  config: ModelConfig, prompt_len: int, num_pauses: int, num_loops: int = 1
) -> int:
  """Returns the layers that need the FLOPs of pauses without having them.

  Of all models with `num_loops` that differ in `num_layers`, the one whose
  first token of an answer costs most nearly what it costs `config` with pauses.

  Args:
    config: the model with pauses.
    prompt_len: tokens of the prompt, without pauses.
    num_pauses: M.
    num_loops: how often the layers are applied.
  """
  wanted = of_answer(config, prompt_len + num_pauses, 1)

  def excess(num_layers: int) -> float:
    deeper = dataclasses.replace(
      config, num_layers=num_layers, num_loops=num_loops
    )
    return abs(of_answer(deeper, prompt_len, 1) - wanted)

  num_layers = 1
  while excess(num_layers + 1) < excess(num_layers):
    num_layers += 1
  return num_layers


def _of_layers(config: ModelConfig, num_keys: float) -> float:
  """Returns the forward FLOPs of all layers for a token with so many keys."""
  c = config
  attention = 2 * c.d_model * c.head_dim * (c.num_heads + c.num_kv_heads)
  num_mlp_matrices = 3 if c.is_gated else 2
  layer = attention + num_mlp_matrices * c.d_model * c.d_ff
  return 2 * c.depth * layer + 4 * num_keys * c.num_heads * c.head_dim


def _of_head(config: ModelConfig) -> int:
  """Returns the forward FLOPs of the logits of a token."""
  return 2 * config.d_model * config.num_vocab_rows


def causal_keys(config: ModelConfig, seq_len: int) -> float:
  """Returns the keys that a query sees on average, summed over the layers."""
  window = min(config.window or seq_len, seq_len)
  local = window - window**2 / (2 * seq_len)
  return _summed(config, local, seq_len / 2)


def _all_keys(config: ModelConfig, seq_len: int) -> float:
  """Returns the keys of a query without the causal mask, over all layers."""
  return _summed(config, min(config.window or seq_len, seq_len), seq_len)


def _summed(config: ModelConfig, local: float, whole: float) -> float:
  """Returns the sum over the layers with a window, and those without."""
  if not config.window:
    return config.depth * whole
  every = config.global_every
  num_global = config.num_layers // every if every else 0
  num_local = config.num_layers - num_global
  return config.num_loops * (num_global * whole + num_local * local)


def peak() -> float | None:
  """Returns the peak FLOP/s of all devices together; None if not known."""
  import jax

  chip = chips.of_kind(jax.devices()[0].device_kind)
  return chip and chip.peak_flops * jax.device_count()
