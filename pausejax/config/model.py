"""The decoder's fields."""

import dataclasses
from typing import ClassVar

from pausejax import errors
from pausejax.config.fields import ConfigGroup, Follows, field

VOCAB_MULTIPLE = 128  # Embedding rows are padded to this, to shard evenly.

# The paper's shapes (its table 5); "tiny" is for laptops.
SIZES = {
  "tiny": dict(num_layers=4, d_model=128, num_heads=4),
  "130m": dict(num_layers=12, d_model=768, num_heads=12),
  "1b": dict(num_layers=24, d_model=2048, num_heads=32),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ConfigGroup):
  """A decoder: its shape and architecture choices (`model/decoder.py`).

  Attributes:
    vocab_size: ids that exist, including `<pause>`; the tokenizer decides it,
      so it is not a field of the config.
  """

  GROUP: ClassVar[str] = "model"

  vocab_size: int
  num_layers: int = field(
    12, "Transformer blocks.", minimum=1, architecture=True
  )
  d_model: int = field(
    768, "Width of the residual stream.", minimum=1, architecture=True
  )
  num_heads: int = field(
    12, "Query heads; divides d_model.", minimum=1, architecture=True
  )
  num_kv_heads: int = field(
    Follows("model.num_heads"),
    "Key and value heads; divides num_heads. Fewer is grouped-query attention.",
    minimum=1,
    architecture=True,
  )
  d_ff: int = field(
    Follows("model.d_model", times=4),
    "Width of the feed-forward layer.",
    minimum=1,
    architecture=True,
  )
  max_seq_len: int = field(
    Follows("data.seq_len"),
    "Longest sequence that learned positions allow, pauses included.",
    minimum=1,
    architecture=True,
  )
  position: str = field(
    "learned",
    "Position encoding.",
    choices=("learned", "rope"),
    architecture=True,
  )
  rope_theta: float = field(
    10_000.0,
    "Base of the rotary wavelengths.",
    minimum=1.0,
    architecture=True,
  )
  norm: str = field(
    "layernorm",
    "Normalization before each half of a block.",
    choices=("layernorm", "rmsnorm"),
    architecture=True,
  )
  mlp: str = field(
    "gelu",
    "Activation of the feed-forward layer.",
    choices=("gelu", "swiglu"),
    architecture=True,
  )
  qk_norm: bool = field(
    False, "RMS norm of queries and keys, per head.", architecture=True
  )
  bias: bool = field(
    True, "Biases in linear layers and layer norms.", architecture=True
  )
  tied_embeddings: bool = field(
    False, "One matrix for embedding and head.", architecture=True
  )
  segment_attention: bool = field(
    False, "Attend within equal segment_ids only (packed examples)."
  )
  prefix_attention: str = field(
    "causal",
    "Attention inside the prefix; bidirectional: each position attends to "
    "the whole prefix.",
    choices=("causal", "bidirectional"),
  )
  attention: str = field(
    "auto",
    "Attention kernel: auto by backend, splash on TPUs, cudnn on GPUs in "
    "bfloat16.",
    choices=("auto", "xla", "splash", "cudnn"),
    may_change=True,
  )
  dtype: str = field(
    "auto",
    "Compute dtype; auto: float32 on CPUs, else bfloat16. Parameters are "
    "always float32.",
    choices=("auto", "float32", "bfloat16"),
    may_change=True,
  )
  remat: str = field(
    "names",
    "Recomputed in the backward pass: nothing, the named parts (norms, GELU, "
    "softmax), or everything.",
    choices=("none", "names", "full"),
    may_change=True,
  )
  scan_unroll: int = field(
    1,
    "Layers unrolled per iteration of the scan over layers.",
    minimum=1,
    may_change=True,
  )

  def __post_init__(self):
    errors.require_in_range("model.vocab_size", self.vocab_size, 1)
    super().__post_init__()
    for large, small in (
      ("d_model", "num_heads"),
      ("num_heads", "num_kv_heads"),
    ):
      a, b = getattr(self, large), getattr(self, small)
      errors.require(
        a % b == 0, f"model.{large} {a} is not divisible by model.{small} {b}"
      )
    errors.require(
      self.position != "rope" or self.head_dim % 2 == 0,
      f"model.position 'rope' needs an even head size, got {self.head_dim} "
      "(d_model / num_heads)",
    )

  @property
  def head_dim(self) -> int:
    """H, the size of one attention head."""
    return self.d_model // self.num_heads

  @property
  def num_vocab_rows(self) -> int:
    """V, the vocabulary padded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
