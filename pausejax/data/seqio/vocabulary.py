"""`pausejax.data.tokenizers` as a SeqIO vocabulary, id for id.

SentencePiece runs as TensorFlow Text's op. A BPE model gives the same ids
there as in Python; a unigram model may split equal-scoring pieces differently
(T5's: 4 of 1,000 C4 documents), so a run keeps its pipeline.
"""

from collections.abc import Iterable, Sequence

import seqio
import tensorflow as tf

from pausejax import errors
from pausejax.data import tokenizers


class PauseVocabulary(seqio.Vocabulary):
  """A base vocabulary and `<pause>`, whose id is the base's vocabulary size.

  Encoding is exactly the base's, so no text becomes a pause. Decoding drops
  the pauses first; to the base they would be unknown ids.
  """

  def __init__(self, base: seqio.Vocabulary):
    """Wraps `base`, which must have no extra ids: a text can encode to them."""
    errors.require(
      base.extra_ids == 0,
      f"a pause vocabulary needs a base without extra_ids, got {base}",
    )
    super().__init__(extra_ids=0)
    self.base = base

  @property
  def pause_id(self) -> int:
    """The id after the last of the base."""
    return self.base.vocab_size

  @property
  def bos_id(self) -> int | None:
    """The base's, None or -1 if it has none."""
    return self.base.bos_id

  @property
  def eos_id(self) -> int | None:
    """The base's."""
    return self.base.eos_id

  @property
  def pad_id(self) -> int:
    """The base's, 0 for every SeqIO vocabulary."""
    return self.base.pad_id

  @property
  def unk_id(self) -> int | None:
    """The base's."""
    return self.base.unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self.base.vocab_size + 1

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of the ids up to the first EOS, without the pauses."""
    return self._decode([int(i) for i in ids])

  def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """Returns string [] for int32 [T], string [B] for int32 [B, T]."""
    return self._decode_tf(ids)

  def _encode(self, s: str) -> Sequence[int]:
    return self.base.encode(s)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return self.base.encode_tf(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self.base.decode([i for i in ids if i != self.pause_id])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    is_text = ids != self.pause_id
    if ids.shape.rank == 1:
      return self.base.decode_tf(tf.boolean_mask(ids, is_text))
    kept = tf.ragged.boolean_mask(ids, is_text)
    return self.base.decode_tf(kept.to_tensor(default_value=self.pad_id))

  def __eq__(self, other: object) -> bool:
    return isinstance(other, PauseVocabulary) and self.base == other.base

  def __hash__(self) -> int:
    return hash((type(self).__name__, self.vocab_size))

  def __str__(self) -> str:
    return f"PauseVocabulary({self.base}, pause_id={self.pause_id})"


def vocabulary(tokenizer_spec: str) -> PauseVocabulary:
  """Returns the SeqIO equivalent of `load_tokenizer(tokenizer_spec)`.

  Raises:
    UsageError: a tokenizer.json, which TensorFlow cannot run.
    UserError: what `tokenizers.load_tokenizer` raises.
  """
  errors.require(
    not tokenizer_spec.endswith(".json"),
    "data.tokenizer: a tokenizer.json has no TensorFlow version; use "
    "data.pipeline=segments",
  )
  tokenizers.load_tokenizer(tokenizer_spec)
  if tokenizer_spec == "bytes":
    return PauseVocabulary(seqio.ByteVocabulary(extra_ids=0))
  return PauseVocabulary(
    seqio.SentencePieceVocabulary(tokenizer_spec, extra_ids=0)
  )
