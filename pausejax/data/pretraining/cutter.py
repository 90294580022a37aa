"""Cuts the documents of one split of one unit into segments."""

import hashlib
import itertools
from collections.abc import Callable

import numpy as np

from pausejax import errors
from pausejax.data import record_store, tokenizers

_DOCUMENTS_AT_ONCE = 256


class Cutter:
  """Tokenizes documents of one split, joins them, and writes segments."""

  def __init__(
    self,
    tokenizer: tokenizers.PauseTokenizer,
    segment_len: int,
    dtype: np.dtype,
    writer: record_store.RecordWriter,
    report: Callable[[int, int], None],
  ):
    """Starts a split.

    Args:
      tokenizer: encodes the documents.
      segment_len: number of ids of a segment.
      dtype: dtype of the ids in a record.
      writer: writes the records.
      report: called with new numbers of documents and tokens.
    """
    self._tokenizer = tokenizer
    self._segment_len = segment_len
    self._dtype = dtype
    self._writer = writer
    self._report = report
    self._texts: list[str] = []  # Not tokenized yet.
    self._rest = np.zeros(0, dtype)  # Ids after the last full segment.
    self._digest = hashlib.sha256()
    self._counts = np.zeros(tokenizer.vocab_size, np.int64)
    self._num_documents = 0

  def add(self, text: str) -> None:
    """Adds a document; writes segments when a block is full."""
    self._texts.append(text)
    if len(self._texts) >= _DOCUMENTS_AT_ONCE:
      self._write()

  def close(self) -> dict:
    """Writes the last segments; returns the split's entry in the note."""
    if self._texts:
      self._write()
    return {
      "shards": self._writer.close(),
      "num_documents": self._num_documents,
      "documents_sha256": self._digest.hexdigest(),
      "counts": self._counts.tolist(),
      "rest": self._rest.tolist(),
    }

  def _write(self) -> None:
    """Writes the full segments of all added documents."""
    texts, self._texts = self._texts, []
    ids = self._tokenized(texts)
    self._report(len(texts), len(ids))
    joined = np.concatenate([self._rest, ids])
    end = len(joined) - len(joined) % self._segment_len
    for start in range(0, end, self._segment_len):
      self._writer.write(joined[start : start + self._segment_len].tobytes())
    self._rest = joined[end:]

  def _tokenized(self, texts: list[str]) -> np.ndarray:
    """Returns the ids of many documents, each ended by EOS."""
    for text in texts:
      # With the lengths, the digest depends on where texts end.
      data = text.encode("utf-8")
      self._digest.update(len(data).to_bytes(8, "little") + data)
    eos = [self._tokenizer.eos_id]
    ids = itertools.chain.from_iterable(
      doc + eos for doc in self._tokenizer.encode(texts)
    )
    ids = np.fromiter(ids, np.int64)
    if problem := self._tokenizer.wrong_id(ids):
      raise errors.UserError(
        f"data.tokenizer: {problem}, but the tokenizer produced it"
      )
    self._num_documents += len(texts)
    self._counts += np.bincount(ids, minlength=len(self._counts))
    return ids.astype(self._dtype)
