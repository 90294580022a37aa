"""Small decoders and batches that several test files share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pausejax import pause
from pausejax.config import ModelConfig, default
from pausejax.data.batch import Batch, language_model_batch
from pausejax.model import decoder
from pausejax.train_state import TrainState, fresh_state

VOCAB_SIZE = 101  # `<pause>` is the last id.
PAUSE_ID = VOCAB_SIZE - 1


def model_config(**changes) -> ModelConfig:
  """Two layers, d_model 16, every other choice from the base config."""
  small = dict(
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=4,
    d_ff=32,
    max_seq_len=32,
    dtype="float32",
    remat="none",
  )
  fields = default().model
  fields.update({**small, **changes})
  return ModelConfig(vocab_size=VOCAB_SIZE, **fields.to_dict())


# Every choice of the model at least once.
VARIANTS = {
  "paper": {},
  "llama": dict(
    position="rope",
    norm="rmsnorm",
    mlp="swiglu",
    bias=False,
    num_kv_heads=2,
    tied_embeddings=True,
  ),
  "other": dict(
    qk_norm=True, segment_attention=True, remat="names", scan_unroll=2
  ),
}

# Choices that open models add, each at least once.
_RMS = dict(position="rope", norm="rmsnorm", mlp="swiglu", bias=False)
ARCHITECTURES = {
  "qwen": _RMS | dict(qkv_bias=True, head_dim=6, qk_norm=True),
  "olmo": _RMS
  | dict(norm_placement="post", qk_norm=True, qk_norm_span="all_heads"),
  "neox": dict(
    position="rope",
    rope_fraction=0.5,
    norm_epsilon=1e-2,
    residual="parallel",
    mlp="gelu_exact",
    mix_bias=False,
  ),
  "phi": dict(
    position="rope",
    rope_scaling="llama3",
    rope_original_seq_len=16,
    no_rope_every=2,
    residual="parallel_one_norm",
    norm_bias=False,
    mlp_bias=False,
    head_bias=True,
    window=5,
  ),
  "gemma": _RMS
  | dict(
    num_layers=3,
    rope_scaling="linear",
    local_rope_theta=50.0,
    window=4,
    global_every=2,
    norm="rmsnorm_zero_centered",
    norm_placement="sandwich",
    mlp="geglu",
    tied_embeddings=True,
    embedding_scale=4.0,
    query_scale=0.7,
  ),
}

# The stack applied three times; layers with and without window and rotation.
LOOPED = dict(num_loops=3, position="rope", no_rope_every=2, window=5)


def model(seed: int = 0, **changes) -> decoder.Decoder:
  """A random decoder of `model_config(**changes)`."""
  return random_model(model_config(**changes), seed)


def random_model(config: ModelConfig, seed: int) -> decoder.Decoder:
  """A decoder whose every parameter is random, biases and scales too.

  Drawn by numpy: compiling `decoder.init` takes seconds.
  """
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: decoder.init(config, 0))

  def draw(path, x):
    center = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
    return jnp.asarray(rng.normal(center, 0.1, x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def train_state(optimizer, **changes) -> TrainState:
  """The state before the first step, of `model(**changes)`."""
  fresh = model(**changes)
  return fresh_state(fresh, optimizer)


def batch(
  step: int = 0,
  *,
  batch_size: int = 8,
  seq_len: int = 32,
  pause_fraction: float = 0.2,
) -> Batch:
  """Random text with pauses, another one for every step."""
  rng = np.random.default_rng(step)
  text_BT = rng.integers(3, PAUSE_ID, (batch_size, seq_len))
  pauses = pause.PauseSpec(fraction=pause_fraction)
  targets_BT = pauses.insert(
    text_BT,
    seq_len=seq_len,
    pause_id=PAUSE_ID,
    seed=0,
    rows_B=step * batch_size + np.arange(batch_size),
  )
  return language_model_batch(
    targets_BT, pauses=pauses, bos_id=0, pad_id=0, pause_id=PAUSE_ID
  )


@jax.jit
def apply(decoder_: decoder.Decoder, batch_: Batch) -> jax.Array:
  """The decoder's vectors for a batch."""
  return decoder_(
    batch_["tokens"],
    positions_BT=batch_["positions"],
    segment_ids_BT=batch_["segment_ids"],
    in_prefix_BT=batch_.get("in_prefix"),
  )


@jax.jit
def logits(decoder_: decoder.Decoder, batch_: Batch) -> jax.Array:
  """The decoder's logits for a batch."""
  return decoder_.logits(apply(decoder_, batch_))


def rows(
  rows_: Sequence[Sequence[int]], prefix_lengths: Sequence[int]
) -> Batch:
  """A batch of 32 positions: the rows from the left, a prefix in each."""
  tokens_BT = np.zeros((len(rows_), 32), np.int32)
  for tokens_T, row in zip(tokens_BT, rows_, strict=True):
    tokens_T[: len(row)] = row
  places_BT = np.broadcast_to(np.arange(32), tokens_BT.shape)
  return {
    "tokens": tokens_BT,
    "positions": places_BT,
    "segment_ids": np.ones_like(tokens_BT),
    "in_prefix": places_BT < np.array(prefix_lengths)[:, None],
  }
