"""The SeqIO vocabulary has the ids of the tokenizer, and no text is a pause."""

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax.data import tokenizers  # noqa: E402
from pausejax.data.seqio import vocabulary  # noqa: E402
from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import TEXTS, message  # noqa: E402

# Fixtures that several test files share.
bpe = seqio_streams.bpe
spec = seqio_streams.spec


def test_vocabulary_is_the_tokenizer_id_for_id(spec):
  twin, tokenizer = vocabulary.vocabulary(spec), tokenizers.load_tokenizer(spec)
  assert twin.vocab_size == tokenizer.vocab_size
  for name in ("pause_id", "eos_id", "pad_id"):
    assert getattr(twin, name) == getattr(tokenizer, name)
  for ids, document in zip(tokenizer.encode(TEXTS), TEXTS, strict=True):
    assert list(twin.encode(document)) == ids
    assert twin.encode_tf(tf.constant(document)).numpy().tolist() == ids


def test_no_text_becomes_a_pause(spec):
  twin = vocabulary.vocabulary(spec)
  for document in ("<pause>", " <pause> ", "a<pause>b", "<extra_id_0>"):
    assert twin.pause_id not in twin.encode(document)
    assert twin.pause_id not in twin.encode_tf(tf.constant(document)).numpy()


def test_decoding_drops_pauses(spec):
  twin = vocabulary.vocabulary(spec)
  document = "Think, then speak."
  ids = list(twin.encode(document))
  paused = [twin.pause_id, *ids[:3], twin.pause_id, *ids[3:], twin.pause_id]
  assert twin.decode(paused) == twin.decode(np.array(paused)) == document
  assert twin.decode_tf(tf.constant(paused)).numpy().decode() == document
  rows = [paused, [twin.pause_id] * len(paused)]
  decoded = tf.function(twin.decode_tf)(tf.constant(rows)).numpy()
  assert [d.decode() for d in decoded] == [document, ""]
  assert twin.decode([*ids, twin.eos_id, twin.pause_id, *ids]).startswith(
    document
  )


def test_vocabularies_are_equal_when_their_bases_are(bpe):
  same = [vocabulary.vocabulary(bpe), vocabulary.vocabulary(bpe)]
  assert same[0] == same[1] and len(set(same)) == 1
  assert same[0] != vocabulary.vocabulary("bytes")
  assert same[0] != same[0].base


def test_vocabulary_errors_are_one_line(tmp_path):
  assert message(vocabulary.vocabulary, "tokenizer.json") == (
    "data.tokenizer: a tokenizer.json has no TensorFlow version; use "
    "data.pipeline=segments"
  )
  assert "no file" in message(vocabulary.vocabulary, "missing.model")
  base = seqio.ByteVocabulary(extra_ids=1)
  assert "extra_ids" in message(vocabulary.PauseVocabulary, base)
