"""FLOPs of a training step per token, and the peak FLOP/s of the devices.

FLOPs are counted from the shapes, not by the compiler (which counts a scan's
body once), for a forward and a backward pass without rematerialization:

  6 * (parameters of the matrices of all layers and of the head)
  + 12 * N * H * (keys that a query counts, summed over the layers)

Two conventions are in use for the keys of a causal layer:

  causal: those that the mask allows, T / 2 on average (half the square), or
    W - W^2 / (2 T) with a window of W < T. All figures of pausejax that do not
    say otherwise.
  full: T (the whole square), or W with a window, although the mask excludes
    half of them: Chowdhery et al. (2022, appendix B), nanochat, llm-foundry.
"""

import jax

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
  c = config
  attention = 2 * c.d_model * c.head_dim * (c.num_heads + c.num_kv_heads)
  num_mlp_matrices = 3 if c.is_gated else 2
  layer = attention + num_mlp_matrices * c.d_model * c.d_ff
  head = c.d_model * c.num_vocab_rows
  num_keys = (_all_keys if full_attention else causal_keys)(c, seq_len)
  return 6 * (c.num_layers * layer + head) + 12 * (
    num_keys * c.num_heads * c.head_dim
  )


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
    return config.num_layers * whole
  every = config.global_every
  num_global = config.num_layers // every if every else 0
  return num_global * whole + (config.num_layers - num_global) * local


def peak() -> float | None:
  """Returns the peak FLOP/s of all devices together; None if not known."""
  chip = chips.of_kind(jax.devices()[0].device_kind)
  return chip and chip.peak_flops * jax.device_count()
