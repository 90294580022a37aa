"""FLOPs of a training step per token, and the peak FLOP/s of the devices.

FLOPs are counted from the shapes, not by the compiler (which counts a scan's
body once), for a forward and a backward pass without rematerialization:

  6 * (parameters of the matrices of all layers and of the head)
  + 6 * L * T * N * H (causal attention: scores and mixture, half the square)

where a layer with a window of W < T counts the W - W^2 / (2 T) keys that a
query sees on average in place of T / 2,
as in Chowdhery et al. (2022, appendix B), except that their count includes the
full attention matrix and so has a factor of 12 instead of 6.
"""

import jax

from pausejax.config import ModelConfig
from pausejax.runtime import chips


def per_token(config: ModelConfig, seq_len: int) -> float:
  """Returns the FLOPs of one training step per input token."""
  c = config
  attention = 2 * c.d_model * c.head_dim * (c.num_heads + c.num_kv_heads)
  num_mlp_matrices = 3 if c.is_gated else 2
  layer = attention + num_mlp_matrices * c.d_model * c.d_ff
  head = c.d_model * c.num_vocab_rows
  num_keys = _num_keys(c, seq_len)
  return 6 * (c.num_layers * layer + head) + 12 * (
    num_keys * c.num_heads * c.head_dim
  )


def _num_keys(config: ModelConfig, seq_len: int) -> float:
  """Returns the keys that a query sees on average, summed over the layers."""
  c, whole = config, seq_len / 2
  if not 0 < c.window < seq_len:
    return c.num_layers * whole
  num_global = c.num_layers // c.global_every if c.global_every else 0
  local = c.window - c.window**2 / (2 * seq_len)
  return num_global * whole + (c.num_layers - num_global) * local


def peak() -> float | None:
  """Returns the peak FLOP/s of all devices together; None if not known."""
  chip = chips.of_kind(jax.devices()[0].device_kind)
  return chip and chip.peak_flops * jax.device_count()
