"""The fields of a model that decide what it computes, in one form."""

import dataclasses
from typing import Any

import numpy as np

from pausejax.config import ModelConfig
from pausejax.model import blocks

# They do not change what a trained model computes, causally, for one text.
_NOT_COMPUTED = (
  "bias",
  "segment_attention",
  "attention",
  "dtype",
  "remat",
  "scan_unroll",
)
_SCALED_ROPE = ("rope_scaling_factor",)
_LLAMA3_ROPE = (
  "rope_low_frequency_factor",
  "rope_high_frequency_factor",
  "rope_original_seq_len",
)
_ROPE = (
  "rope_theta",
  "rope_fraction",
  "rope_scaling",
  "no_rope_every",
  "local_rope_theta",
)


def computed_fields(model: ModelConfig) -> dict[str, Any]:
  """Returns the fields that decide what a model computes, in one form.

  Two models with equal parameters compute the same if these are equal. A field
  that has no effect beside the others is None.
  """
  c = model
  fields = dataclasses.asdict(c) | dict.fromkeys(_NOT_COMPUTED)
  fields |= computed_rope(c) if c.position == "rope" else dict.fromkeys(_ROPE)
  fields["norm_epsilon"] = norm_epsilon(c)
  fields["norm_bias"] = c.norm_bias if c.norm == "layernorm" else None
  fields["qk_norm_span"] = c.qk_norm_span if c.qk_norm else None
  # They are applied in float32.
  fields["query_scale"] = np.float32(c.query_scale or c.head_dim**-0.5)
  fields["embedding_scale"] = np.float32(c.embedding_scale)
  if fields["rope_scaling"] in (None, "none"):
    fields |= dict.fromkeys(_SCALED_ROPE)
  if fields["rope_scaling"] != "llama3":
    fields |= dict.fromkeys(_LLAMA3_ROPE)
  return fields | dict(
    window=computed_window(c), global_every=computed_global_every(c)
  )


def computed_rope(c: ModelConfig) -> dict[str, Any]:
  """Returns the fields of rotary positions, as they have an effect."""
  fields = {name: getattr(c, name) for name in _ROPE}
  if not computed_global_every(c):
    fields["local_rope_theta"] = None
    if computed_window(c) and c.global_every:  # No layer is a global one.
      fields |= dict(rope_theta=c.local_rope_theta, rope_scaling="none")
  if c.no_rope_every > c.num_layers:
    fields["no_rope_every"] = 0
  return fields


def computed_window(c: ModelConfig) -> int:
  """Returns the window, 0 if no layer has one."""
  return 0 if c.global_every == 1 else c.window


def computed_global_every(c: ModelConfig) -> int:
  """Returns n if every n-th layer attends to all and the others do not."""
  return (
    c.global_every
    if computed_window(c) and c.global_every <= c.num_layers
    else 0
  )


def norm_epsilon(c: ModelConfig) -> float:
  """Returns what norms add to the variance."""
  return float(c.norm_epsilon or blocks.EPSILON[c.norm])
