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
  """A decoder: its shape and architecture choices (`pausejax/model/`).

  Attributes:
    vocab_size: ids that exist, including `<pause>`; the tokenizer decides it,
      so it is not a field of the config.
  """

  GROUP: ClassVar[str] = "model"

  vocab_size: int
  num_layers: int = field(
    12, "Transformer blocks.", minimum=1, architecture=True
  )
  num_loops: int = field(
    1,
    "Times that the stack of blocks is applied, with the same parameters.",
    minimum=1,
    architecture=True,
  )
  d_model: int = field(
    768, "Width of the residual stream.", minimum=1, architecture=True
  )
  num_heads: int = field(12, "Query heads.", minimum=1, architecture=True)
  num_kv_heads: int = field(
    Follows("model.num_heads"),
    "Key and value heads; divides num_heads. Fewer is grouped-query attention.",
    minimum=1,
    architecture=True,
  )
  head_dim: int = field(
    Follows("model.d_model", divided_by="model.num_heads"),
    "Size of an attention head.",
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
  rope_fraction: float = field(
    1.0,
    "Share of each head that rotates, from its first dimension.",
    minimum=0.0,
    maximum=1.0,
    architecture=True,
  )
  rope_scaling: str = field(
    "none",
    "Stretching of the rotary wavelengths: linear stretches all of them, "
    "llama3 the long ones.",
    choices=("none", "linear", "llama3"),
    architecture=True,
  )
  rope_scaling_factor: float = field(
    8.0, "Stretches the wavelengths.", minimum=1.0, architecture=True
  )
  rope_low_frequency_factor: float = field(
    1.0,
    "llama3: wavelengths above model.rope_original_seq_len / this are "
    "stretched by the whole factor.",
    minimum=0.0,
    architecture=True,
  )
  rope_high_frequency_factor: float = field(
    4.0,
    "llama3: wavelengths below model.rope_original_seq_len / this are kept.",
    minimum=0.0,
    architecture=True,
  )
  rope_original_seq_len: int = field(
    8192,
    "llama3: the sequence length before the wavelengths were stretched.",
    minimum=1,
    architecture=True,
  )
  no_rope_every: int = field(
    0,
    "Every n-th layer has no rotary positions (SmolLM3); 0: all have them.",
    minimum=0,
    architecture=True,
  )
  window: int = field(
    0,
    "Sliding-window attention: each position attends to itself and to the "
    "window - 1 positions before it; 0: to all.",
    minimum=0,
    architecture=True,
  )
  global_every: int = field(
    0,
    "Every n-th layer attends to all positions in spite of model.window; 0: "
    "none does.",
    minimum=0,
    architecture=True,
  )
  local_rope_theta: float = field(
    Follows("model.rope_theta"),
    "Base of the rotary wavelengths in layers with a window; they are not "
    "scaled where model.global_every is set.",
    minimum=1.0,
    architecture=True,
  )
  norm: str = field(
    "layernorm",
    "Kind of norm. rmsnorm_zero_centered multiplies by 1 + scale (Gemma).",
    choices=("layernorm", "rmsnorm", "rmsnorm_zero_centered"),
    architecture=True,
  )
  norm_epsilon: float = field(
    0.0,
    "Added to the variance; 0: 1e-5 for layernorm, 1e-6 for RMS norms.",
    minimum=0.0,
    architecture=True,
  )
  norm_placement: str = field(
    "pre",
    "Normalize the input of attention and feed-forward (pre), their output "
    "(post: OLMo 2), or both (sandwich: Gemma 3).",
    choices=("pre", "post", "sandwich"),
    architecture=True,
  )
  residual: str = field(
    "sequential",
    "The feed-forward reads the stream after attention (sequential) or beside "
    "it (parallel: GPT-NeoX), also through one norm for both (Phi).",
    choices=("sequential", "parallel", "parallel_one_norm"),
    architecture=True,
  )
  mlp: str = field(
    "gelu",
    "Activation of the feed-forward layer: GELU in its tanh form or exact, or "
    "a product of two layers with SiLU (swiglu) or tanh GELU (geglu).",
    choices=("gelu", "gelu_exact", "swiglu", "geglu"),
    architecture=True,
  )
  qk_norm: bool = field(
    False, "RMS norm of queries and keys.", architecture=True
  )
  qk_norm_span: str = field(
    "head",
    "What one norm of model.qk_norm spans: a head, or all heads together "
    "(OLMo 2).",
    choices=("head", "all_heads"),
    architecture=True,
  )
  bias: bool = field(
    True, "Biases in linear layers and layer norms.", architecture=True
  )
  qkv_bias: bool = field(
    Follows("model.bias"),
    "Biases of queries, keys and values.",
    architecture=True,
  )
  mix_bias: bool = field(
    Follows("model.bias"), "Bias of attention's output.", architecture=True
  )
  mlp_bias: bool = field(
    Follows("model.bias"), "Biases of the feed-forward.", architecture=True
  )
  norm_bias: bool = field(
    Follows("model.bias"), "Biases of layer norms.", architecture=True
  )
  head_bias: bool = field(
    False, "Bias of the head: one number per id (Phi).", architecture=True
  )
  embedding_scale: float = field(
    1.0,
    "Multiplies token embeddings at the input (Gemma: the root of d_model).",
    architecture=True,
  )
  query_scale: float = field(
    0.0,
    "Multiplies the products of queries and keys; 0: 1 / sqrt(head_dim).",
    minimum=0.0,
    architecture=True,
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
    "What the backward pass recomputes: none: the activation of the "
    "feed-forward layers; names: also norms and softmax (outputs of matrix "
    "products are saved); full: everything.",
    choices=("none", "names", "full"),
    may_change=True,
  )
  scan_unroll: int = field(
    1,
    "Layers unrolled per iteration of the scan over layers; on a GPU all of "
    "them are fastest and compile for longer.",
    minimum=1,
    may_change=True,
  )

  def __post_init__(self):
    errors.require_in_range("model.vocab_size", self.vocab_size, 1)
    super().__post_init__()
    self._require_divisible("num_heads", "num_kv_heads")
    if self.head_dim == self.d_model // self.num_heads:
      self._require_divisible("d_model", "num_heads")
    errors.require(
      self.position != "rope" or self.rotary_dim % 2 == 0,
      "model.position 'rope' needs an even number of rotating dimensions, got "
      f"{self.rotary_dim} (model.rope_fraction {self.rope_fraction} of "
      f"model.head_dim {self.head_dim})",
    )
    errors.require(
      self.rope_low_frequency_factor < self.rope_high_frequency_factor,
      "model.rope_low_frequency_factor must be below "
      f"model.rope_high_frequency_factor {self.rope_high_frequency_factor}, "
      f"got {self.rope_low_frequency_factor}",
    )

  def _require_divisible(self, large: str, small: str) -> None:
    a, b = getattr(self, large), getattr(self, small)
    errors.require(
      a % b == 0, f"model.{large} {a} is not divisible by model.{small} {b}"
    )

  @property
  def depth(self) -> int:
    """Number of blocks that a token passes through, in all loops."""
    return self.num_layers * self.num_loops

  @property
  def rotary_dim(self) -> int:
    """Number of dimensions of a head that rotate."""
    return int(self.head_dim * self.rope_fraction)

  @property
  def is_gated(self) -> bool:
    """Whether the feed-forward multiplies two layers."""
    return self.mlp in ("swiglu", "geglu")

  @property
  def num_vocab_rows(self) -> int:
    """V, the vocabulary padded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
