"""Segments: a corpus tokenised and cut once, without pauses, on disk.

  train-00000.array_record ...       one record a segment: raw token ids
  validation-00000.array_record ...
  index.json                         what is in there, and from what

Documents are tokenised, each followed by EOS, and joined; every
`segment_len` ids make a segment, and what is left at the end makes a shorter
last one, so that no token is lost. Pauses are put in when a segment is read
(`batches.py`): one store serves the standard and the pause run.

Shards are written under a temporary name and the store appears with one
rename, so a store that exists is whole.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from pausejax import errors, tasks
from pausejax.data import corpora, tokenizers
from pausejax.settings import DataConfig

FORMAT = 1
_INDEX = "index.json"
_RECORDS_PER_SHARD = 16384
_DOCUMENTS_AT_ONCE = 256

Report = Callable[[str, int, int], None]


def identity(data: DataConfig, tokenizer: tokenizers.PauseTokenizer) -> dict:
  """Returns what a run expects of a store.

  A store that was named by `segments_dir` may have been made on another
  machine, so only one that the run makes for itself must name its source.
  """
  expected = {
    "format": FORMAT,
    "task": data.task,
    "segment_len": data.num_text_tokens,
    **tokenizer.fingerprint(),
  }
  if not data.segments_dir:
    expected["source"] = tasks.pretraining(data.task).source(data).describe()
  return expected


def write(
  data: DataConfig,
  tokenizer: tokenizers.PauseTokenizer,
  out: pathlib.Path,
  report: Report,
) -> dict:
  """Prepares the task of `data` as a store of segments and returns its index.

  Args:
    data: task, source and length; pauses matter only for the length.
    tokenizer: turns documents into ids.
    out: folder to make; it must not exist.
    report: called with (split, documents, tokens) as the work goes on.

  Raises:
    UserError: `out` exists or cannot be made, a document cannot be read, or a
      split is empty.
  """
  if out.exists():
    raise errors.UserError(
      f"{out} exists already; remove it or choose another --out"
    )
  source = tasks.pretraining(data.task).source(data)
  temporary = out.with_name(out.name + ".partial")
  shutil.rmtree(temporary, ignore_errors=True)
  try:
    temporary.mkdir(parents=True)
  except OSError as e:
    raise errors.UserError(f"{out}: cannot be made: {e}") from e
  dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
  index = {
    **identity(data, tokenizer),
    "source": source.describe(),
    "dtype": dtype.name,
  }
  for split in corpora.SPLITS:
    documents = corpora.require_documents(source, split)
    cutter = _Cutter(tokenizer, data.num_text_tokens, dtype, split, report)
    shards = _write_shards(cutter.segments(documents), temporary, split)
    index[split] = {**cutter.statistics(), "shards": shards}
  (temporary / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
  temporary.rename(out)
  return index


@dataclasses.dataclass(frozen=True)
class Segments:
  """One split of a store, read record by record.

  Attributes:
    index: the store's `index.json`.
    split: "train" or "validation".
    segment_len: ids in every segment but the last.
  """

  index: dict
  split: str
  segment_len: int
  _records: Any
  _dtype: np.dtype

  def __len__(self) -> int:
    return len(self._records)

  def read(self, records: Iterable[int], padding: int) -> np.ndarray:
    """Returns int32 [B, segment_len], a short segment filled up."""
    raw = self._records.__getitems__([int(r) for r in records])
    rows = np.full((len(raw), self.segment_len), padding, np.int32)
    for row, data in zip(rows, raw, strict=True):
      ids = np.frombuffer(data, self._dtype)
      row[: len(ids)] = ids
    return rows


def load(
  folder: pathlib.Path,
  split: str,
  data: DataConfig,
  tokenizer: tokenizers.PauseTokenizer,
) -> Segments:
  """Opens one split of a store and checks that it is what `data` asks for.

  Raises:
    UserError: no store there, or one of another corpus, tokenizer or length;
      the message names what differs.
  """
  import grain

  path = folder / _INDEX
  if not path.is_file():
    raise errors.UserError(
      f"data.segments_dir: no segments at {str(folder)!r}; make them with "
      "`pausejax segments --config=... --out=...`"
    )
  try:
    index = dict(json.loads(path.read_text()))
  except (ValueError, TypeError) as e:
    raise errors.UserError(
      f"{path} is not the index of a store of segments: {e}"
    ) from e
  errors.require_same(
    f"the store of segments {folder}", index, identity(data, tokenizer)
  )
  files = [str(folder / shard["file"]) for shard in index[split]["shards"]]
  try:
    records = grain.sources.ArrayRecordDataSource(files)
    found = len(records)
  except RuntimeError as e:
    raise errors.UserError(
      f"segments at {folder}: a shard of split {split!r} is missing or cut "
      f"short; make them again {e}".strip()
    ) from e
  expected = index[split]["num_segments"]
  if found != expected:
    raise errors.UserError(
      f"segments at {folder}: {found} records in split {split!r}, the index "
      f"says {expected}; make them again"
    )
  dtype = np.dtype(index["dtype"])
  return Segments(index, split, data.num_text_tokens, records, dtype)


class _Cutter:
  """Tokenises documents, joins them and cuts; keeps count of what it saw."""

  def __init__(self, tokenizer, segment_len, dtype, split, report: Report):
    self._tokenizer = tokenizer
    self._segment_len = segment_len
    self._dtype = dtype
    self._split = split
    self._report = report
    self._digest = hashlib.sha256()
    self._counts = np.zeros(tokenizer.vocab_size, np.int64)
    self._num_documents = 0
    self._num_segments = 0

  def segments(self, documents: Iterator[str]) -> Iterator[bytes]:
    """Yields the raw ids of each segment, the last one maybe shorter."""
    rest = np.zeros(0, self._dtype)
    for ids in self._tokenised(documents):
      joined = np.concatenate([rest, ids])
      end = len(joined) - len(joined) % self._segment_len
      for start in range(0, end, self._segment_len):
        yield self._count(joined[start : start + self._segment_len])
      rest = joined[end:]
    if len(rest):
      yield self._count(rest)

  def statistics(self) -> dict:
    """Returns the split's part of the index."""
    num_tokens = int(self._counts.sum())
    p = self._counts[self._counts > 0] / num_tokens
    return {
      "num_documents": self._num_documents,
      "num_tokens": num_tokens,
      "num_segments": self._num_segments,
      # Nats a token of the best model that ignores all context.
      "unigram_entropy": float(-np.sum(p * np.log(p))),
      "documents_sha256": self._digest.hexdigest(),
    }

  def _tokenised(self, documents: Iterator[str]) -> Iterator[np.ndarray]:
    """Yields the ids of many documents at a time, each ended by EOS."""
    eos = [self._tokenizer.eos_id]
    while texts := list(itertools.islice(documents, _DOCUMENTS_AT_ONCE)):
      for text in texts:
        # The length in front keeps the digest from running texts together.
        data = text.encode("utf-8")
        self._digest.update(len(data).to_bytes(8, "little") + data)
      ids = itertools.chain.from_iterable(
        doc + eos for doc in self._tokenizer.encode(texts)
      )
      ids = np.fromiter(ids, self._dtype)
      self._num_documents += len(texts)
      self._counts += np.bincount(ids, minlength=len(self._counts))
      self._report(self._split, self._num_documents, int(self._counts.sum()))
      yield ids

  def _count(self, segment: np.ndarray) -> bytes:
    self._num_segments += 1
    return segment.tobytes()


def _write_shards(
  segments: Iterator[bytes], folder: pathlib.Path, split: str
) -> list[dict]:
  """Writes the segments in order and returns the index rows of the shards."""
  # The package has no type information.
  from array_record.python import array_record_module  # pyright: ignore

  shards = []
  while records := list(itertools.islice(segments, _RECORDS_PER_SHARD)):
    path = folder / f"{split}-{len(shards):05d}.array_record"
    # One record a group: a seeded order reads them one by one.
    writer = array_record_module.ArrayRecordWriter(
      str(path), "group_size:1,uncompressed"
    )
    for record in records:
      writer.write(record)
    writer.close()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    shards.append(
      {"file": path.name, "num_segments": len(records), "sha256": digest}
    )
  return shards
