"""Documents in, records of segments out: one split of one unit."""

import hashlib
import itertools
from collections.abc import Callable

import numpy as np

from pausejax import errors
from pausejax.data import record_store, tokenizers

_DOCUMENTS_AT_ONCE = 256


class Cutter:
  """Tokenises documents of one split, joins them, cuts and writes them."""

  def __init__(
    self,
    tokenizer: tokenizers.PauseTokenizer,
    segment_len: int,
    dtype: np.dtype,
    writer: record_store.Writer,
    report: Callable[[int, int], None],
  ):
    """Begins a split.

    Args:
      tokenizer: turns documents into ids.
      segment_len: ids of a segment.
      dtype: of the ids in a record.
      writer: takes the records.
      report: called with numbers of documents and tokens as they come.
    """
    self._tokenizer = tokenizer
    self._segment_len = segment_len
    self._dtype = dtype
    self._writer = writer
    self._report = report
    self._texts: list[str] = []  # Not tokenised yet.
    self._rest = np.zeros(0, dtype)  # Ids behind the last full segment.
    self._digest = hashlib.sha256()
    self._counts = np.zeros(tokenizer.vocab_size, np.int64)
    self._num_documents = 0

  def add(self, text: str) -> None:
    """Takes a document; writes segments now and then."""
    self._texts.append(text)
    if len(self._texts) >= _DOCUMENTS_AT_ONCE:
      self._write()

  def close(self) -> dict:
    """Writes the last segments; returns what the note says of the split."""
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
    """Writes the full segments of all documents that were taken."""
    texts, self._texts = self._texts, []
    ids = self._tokenised(texts)
    self._report(len(texts), len(ids))
    joined = np.concatenate([self._rest, ids])
    end = len(joined) - len(joined) % self._segment_len
    for start in range(0, end, self._segment_len):
      self._writer.write(joined[start : start + self._segment_len].tobytes())
    self._rest = joined[end:]

  def _tokenised(self, texts: list[str]) -> np.ndarray:
    """Returns the ids of many documents, each ended by EOS."""
    for text in texts:
      # The length in front keeps the digest from running texts together.
      data = text.encode("utf-8")
      self._digest.update(len(data).to_bytes(8, "little") + data)
    eos = [self._tokenizer.eos_id]
    ids = itertools.chain.from_iterable(
      doc + eos for doc in self._tokenizer.encode(texts)
    )
    ids = np.fromiter(ids, np.int64)
    if problem := self._tokenizer.wrong_id(ids):
      raise errors.UserError(
        f"data.tokenizer: {problem}, but it came from a document"
      )
    self._num_documents += len(texts)
    self._counts += np.bincount(ids, minlength=len(self._counts))
    return ids.astype(self._dtype)
