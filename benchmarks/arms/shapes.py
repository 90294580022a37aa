"""The shapes and batches of all arms.

B batch, T tokens.
"""

import dataclasses

import numpy as np

from pausejax import pause
from pausejax.data import batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """A decoder and its batch; "llama" has gated feed-forwards of 2/3 width."""

  num_layers: int
  d_model: int
  num_heads: int
  seq_len: int
  vocab_size: int  # A multiple of 128, so that all arms have the same rows.
  batch_size: int
  tied: bool = False

  @property
  def num_tokens(self) -> int:
    """Positions of a batch."""
    return self.batch_size * self.seq_len

  @property
  def pause_id(self) -> int:
    """The last id."""
    return self.vocab_size - 1

  def d_ff(self, kind: str) -> int:
    """Returns the width of the feed-forward of a "gpt" or a "llama"."""
    if kind == "gpt":
      return 4 * self.d_model
    return -(-8 * self.d_model // 3 // 128) * 128


SHAPES = {
  "toy": Shape(
    num_layers=1,
    d_model=32,
    num_heads=2,
    seq_len=32,
    vocab_size=128,
    batch_size=8,
  ),
  "tiny": Shape(
    num_layers=6,
    d_model=384,
    num_heads=6,
    seq_len=256,
    vocab_size=8192,
    batch_size=8,
  ),
  "gpt2": Shape(
    num_layers=12,
    d_model=768,
    num_heads=12,
    seq_len=256,
    vocab_size=50_304,
    batch_size=2,
    tied=True,
  ),
  "130m": Shape(
    num_layers=12,
    d_model=768,
    num_heads=12,
    seq_len=1024,
    vocab_size=32_128,
    batch_size=1,
  ),
  "1b": Shape(
    num_layers=24,
    d_model=2048,
    num_heads=32,
    seq_len=2048,
    vocab_size=32_128,
    batch_size=1,
  ),
}


def batches(
  shape: Shape, count: int, *, pause_fraction: float = 0.0
) -> list[batch.Batch]:
  """Returns batches of random ids, with pauses if requested."""
  rng = np.random.default_rng(0)
  rows = (shape.batch_size, shape.seq_len)
  pauses = pause.PauseSpec(fraction=pause_fraction)
  made = []
  for step in range(count):
    ids_BT = rng.integers(3, shape.pause_id, rows, dtype=np.int32)
    ids_BT = pauses.insert(
      ids_BT,
      seq_len=shape.seq_len,
      pause_id=shape.pause_id,
      seed=0,
      rows_B=step * shape.batch_size + np.arange(shape.batch_size),
    )
    made.append(
      batch.language_model_batch(
        ids_BT, pauses=pauses, bos_id=1, pad_id=0, pause_id=shape.pause_id
      )
    )
  return made
