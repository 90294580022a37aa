"""SeqIO preprocessors: tokenize, cut into segments, insert pauses.

Each element is a dict; B is a number of segments, T their length in tokens:

  text     string []   a document (`sources.data_source`)
  targets  int32 [T]   its ids and EOS; later a segment
  is_text  bool [T]    of a segment: neither padding nor a pause

`is_text` is needed because id 0 is a text token in some vocabularies, so that
padding cannot be recognized by its id.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from pausejax import errors
from pausejax.data.batch import PADDING
from pausejax.data.seqio import pauses as pauses_tf
from pausejax.pause import PauseSpec

_DOCUMENTS_AT_ONCE = 64  # Concatenated together; changes speed, not results.
_SEGMENTS_AT_ONCE = 64  # Given pauses together; changes speed, not results.

_NO_PAUSES = PauseSpec(fraction=0.0)

Features = Mapping[str, seqio.Feature]


def tokenize(
  dataset: tf.data.Dataset, output_features: Features
) -> tf.data.Dataset:
  """Replaces each text by its ids and one EOS."""
  vocabulary = output_features["targets"].vocabulary

  def encode(example):
    ids = vocabulary.encode_tf(example["text"])
    return {"targets": tf.concat([ids, [vocabulary.eos_id]], axis=0)}

  return dataset.map(encode, num_parallel_calls=tf.data.AUTOTUNE)


def concat_and_split(
  dataset: tf.data.Dataset,
  output_features: Features,
  sequence_length: Mapping[str, int],
  *,
  pauses: PauseSpec = _NO_PAUSES,
) -> tf.data.Dataset:
  """Concatenates the documents and cuts them into segments; loses no token.

  Args:
    dataset: `targets` of documents.
    output_features: passed by SeqIO.
    sequence_length: passed by SeqIO; "targets" is the length with pauses.
    pauses: to be added by `pause_segments`; they may need shorter segments.

  Returns:
    `targets` and `is_text` of segments. The last one is filled up with the pad
    id if the tokens run out before it is full.
  """
  num_tokens = pauses.num_text_tokens(_length(sequence_length))
  pad_id = output_features["targets"].vocabulary.pad_id
  tokens = dataset.map(lambda example: example["targets"])
  tokens = tokens.ragged_batch(_DOCUMENTS_AT_ONCE)
  tokens = tokens.map(lambda documents: documents.flat_values)
  # This padding completes a partial segment and never adds another one.
  padding = tf.fill([num_tokens - 1], PADDING)
  tokens = tokens.concatenate(tf.data.Dataset.from_tensors(padding))
  segments = tokens.scan(
    initial_state=tf.zeros([0], tf.int32),
    scan_func=lambda rest, more: _cut(tf.concat([rest, more], 0), num_tokens),
  )
  return segments.unbatch().map(lambda s_T: without_padding(s_T, pad_id))


def pause_segments(
  dataset: tf.data.Dataset,
  output_features: Features,
  sequence_length: Mapping[str, int],
  *,
  pauses: PauseSpec,
  seed: int,
  shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
  """Inserts pauses into segments; padding stays padding.

  Args:
    dataset: `targets` and `is_text` of segments.
    output_features: passed by SeqIO; the vocabulary is a `PauseVocabulary`.
    sequence_length: passed by SeqIO; "targets" is the length with pauses.
    pauses: the kind and number of pauses.
    seed: seed of their places.
    shard: (h, H), host h of H. Its element i is number i * H + h of the run, so
      that no two hosts draw the same pauses.

  Returns:
    `targets` and `is_text`, `sequence_length` long.
  """
  vocabulary = output_features["targets"].vocabulary
  host, num_hosts = shard

  def insert(index_B, example):
    tokens_BT = pauses_into_text(
      with_padding(example),
      pauses=pauses,
      seq_len=_length(sequence_length),
      pause_id=vocabulary.pause_id,
      seed=seed,
      rows_B=index_B * num_hosts + host,
    )
    paused = without_padding(tokens_BT, vocabulary.pad_id)
    is_pause_BT = tokens_BT == vocabulary.pause_id
    return {**paused, "is_text": paused["is_text"] & ~is_pause_BT}

  batches = dataset.enumerate().batch(_SEGMENTS_AT_ONCE)
  return batches.map(insert, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def pauses_into_text(
  text_BT: tf.Tensor, *, pause_id: int, **how: Any
) -> tf.Tensor:
  """Returns `insert_pauses_tf` without pauses after the text.

  Args:
    text_BT: int32 segments, `PADDING` after the end of the text.
    pause_id: id written at the pauses.
    **how: the other arguments of `insert_pauses_tf`.

  Returns:
    int32 [B, T]; a segment that was not full ends in `PADDING`.
  """
  paused_BT = pauses_tf.insert_pauses_tf(text_BT, pause_id=pause_id, **how)
  num_text_B1 = tf.math.count_nonzero(
    text_BT != PADDING, axis=1, keepdims=True, dtype=tf.int32
  )
  is_text_BT = (paused_BT != PADDING) & (paused_BT != pause_id)
  num_shown_BT = tf.cumsum(tf.cast(is_text_BT, tf.int32), axis=1)
  is_short_B1 = num_text_B1 < text_BT.shape[1]
  is_over_BT = is_short_B1 & ~is_text_BT & (num_shown_BT == num_text_B1)
  return tf.where(is_over_BT, PADDING, paused_BT)


def with_padding(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """Returns the targets, with `PADDING` instead of the id of padding."""
  return tf.where(example["is_text"], example["targets"], PADDING)


def without_padding(tokens: tf.Tensor, pad_id: int) -> dict[str, tf.Tensor]:
  """Returns `targets` with the pad id in place of `PADDING`, and `is_text`."""
  is_text = tokens != PADDING
  return {"targets": tf.where(is_text, tokens, pad_id), "is_text": is_text}


def _cut(tokens: tf.Tensor, num_tokens: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the remainder, and all full segments."""
  num_segments = tf.size(tokens) // num_tokens
  used = num_segments * num_tokens
  return tokens[used:], tf.reshape(tokens[:used], [-1, num_tokens])


def _length(sequence_length: Mapping[str, int] | None) -> int:
  errors.require(
    bool(sequence_length) and "targets" in sequence_length,
    "segments need a length: get_dataset(sequence_length={'targets': 2048})",
  )
  return sequence_length["targets"]
