"""How much arithmetic a token costs, and how much a device can do.

Counted from the shapes, never from the compiler (which counts a scan's body
once), for a forward and a backward pass without rematerialisation:

  6 * (parameters of the matrices of all layers and of the head)
  + 6 * L * T * D * (causal attention: scores and mixture, half the square)

as in Chowdhery et al. (2022, appendix B), whose count takes the full square
of the attention and so 12 in place of 6.
"""

import jax

from pausejax.config import ModelConfig
from pausejax.runtime import chips


def per_token(config: ModelConfig, seq_len: int) -> float:
  """Returns the FLOPs of one training step per token of the input."""
  c = config
  attention = 2 * c.d_model * c.head_dim * (c.num_heads + c.num_kv_heads)
  num_mlp_matrices = 3 if c.mlp == "swiglu" else 2
  layer = attention + num_mlp_matrices * c.d_model * c.d_ff
  head = c.d_model * c.num_vocab_rows
  return 6 * (c.num_layers * layer + head) + 6 * c.num_layers * (
    seq_len * c.d_model
  )


def peak() -> float | None:
  """Returns the peak FLOP/s of all devices; None where it is not known."""
  chip = chips.of_kind(jax.devices()[0].device_kind)
  return chip and chip.peak_flops * jax.device_count()
