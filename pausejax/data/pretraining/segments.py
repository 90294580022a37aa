"""Segments: a corpus on disk, tokenized and cut once, without pauses.

  train-00000.array_record ...   full segments of each unit of the corpus
  train-rest.array_record        segments of the remainders of the units
  validation-00000.array_record ...
  index.json                     contents and settings

A record is the raw ids of one segment, `segment_len` of them. Pauses are
inserted when a segment is read (`source.py`): one store serves the standard and
the pause run. `prepare.py` builds stores, `record_store.py` reads and writes
their files.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from pausejax import errors, tasks
from pausejax.buckets import stores
from pausejax.config import DataConfig
from pausejax.data import record_store, tokenizers

FORMAT = 2
_DTYPES = {"uint16": np.uint16, "uint32": np.uint32}


def segments_identity(
  data: DataConfig, tokenizer: tokenizers.PauseTokenizer
) -> dict:
  """Returns the settings that a store must have for a run.

  A store given as `segments_dir` may come from another machine, so its source
  is not compared; a store that the run builds must have the same source.
  """
  expected = {
    "format": FORMAT,
    "task": data.only_task,
    "segment_len": data.num_text_tokens,
    **tokenizer.fingerprint(),
  }
  if not data.segments_dir:
    expected["source"] = (
      tasks.pretraining(data.only_task).source(data).describe()
    )
  return expected


def upgrade(index: dict, format: int, where: str) -> dict:
  """Returns an index of an older format as one of this format.

  Raises:
    UserError: format 1, which no released version wrote.
  """
  if format < FORMAT:
    raise errors.UserError(
      f"{where} has format {format}, this version reads format {FORMAT}; "
      "remove it and build it again with `pausejax segments`"
    )
  return index


@dataclasses.dataclass(frozen=True)
class Segments:
  """One split of a store, read record by record.

  Attributes:
    folder: folder of the store.
    index: its `index.json`.
    split: "train" or "validation".
    segment_len: ids in every segment but the last.
  """

  folder: epath.Path
  index: dict
  split: str
  segment_len: int
  _records: Any
  _dtype: np.dtype
  _tokenizer: tokenizers.PauseTokenizer

  def __len__(self) -> int:
    return len(self._records)

  def read(self, records: Iterable[int], padding: int) -> np.ndarray:
    """Returns int32 [B, segment_len], short segments filled with `padding`.

    Raises:
      UserError: a record is damaged, or has an id that is not a text id (such
        as the pause); the message names file and record.
    """
    # Without threads: a local read is faster than passing it to a thread.
    numbers = [int(r) for r in records]
    raw = [self._read(r) for r in numbers]
    ids = np.zeros((len(raw), self.segment_len), self._dtype)
    rows = np.full(ids.shape, padding, np.int32)
    for id_row, data in zip(ids, raw, strict=True):
      id_row[: len(data) // self._dtype.itemsize] = np.frombuffer(
        data, self._dtype
      )
    # One check for all of them, as wrong ids are rare.
    if self._tokenizer.wrong_id(ids):
      self._refuse(ids, numbers)
    for row, id_row, data in zip(rows, ids, raw, strict=True):
      length = len(data) // self._dtype.itemsize
      row[:length] = id_row[:length]
    return rows

  def _read(self, record: int) -> bytes:
    try:
      data = self._records[record]
      size = self._dtype.itemsize
      if 0 < len(data) <= self.segment_len * size and not len(data) % size:
        return data
      problem = f"{len(data)} bytes are not a segment"
    except (RuntimeError, ValueError, IndexError) as e:
      problem = str(e)
    raise self._damaged(record, problem)

  def _refuse(self, ids: np.ndarray, records: Sequence[int]) -> None:
    """Raises the error of the first record with an id that is not a text id."""
    for row, record in zip(ids, records, strict=True):
      if problem := self._tokenizer.wrong_id(row):
        raise self._damaged(record, problem)

  def _damaged(self, record: int, problem: str) -> errors.UserError:
    rows = self.index[self.split]["shards"]
    file, number = record_store.locate_record(rows, record)
    return errors.UserError(
      f"segments at {self.folder}: record {record} of split {self.split!r} "
      f"(record {number} of {file}) cannot be used: {problem}; `pausejax "
      f"segments --verify={self.folder}` names a damaged file; if it names "
      "none, build the store again"
    )


def open_segments(
  folder: epath.PathLike,
  split: str,
  data: DataConfig,
  tokenizer: tokenizers.PauseTokenizer,
) -> Segments:
  """Opens one split of a store and checks that it matches `data`.

  Args:
    folder: a local path, or a URL of a bucket.
    split: "train" or "validation".
    data: the data config of the run.
    tokenizer: the run's tokenizer.

  Raises:
    UserError: no store, a store of another corpus, tokenizer or length (the
      message names the differences), or a missing or damaged file.
  """
  where = f"the store of segments {folder}"
  folder = epath.Path(stores.local_store(folder, "data.segments_dir"))
  fields = {"documents_sha256": str, "unigram_entropy": float}
  index = record_store.read_index(folder, fields, format=("format", FORMAT))
  index = upgrade(index, index.get("format", 1), where)
  errors.require_same(where, index, segments_identity(data, tokenizer))
  errors.require_one_of("dtype of the segments", index.get("dtype"), _DTYPES)
  records = record_store.open_records(folder, index[split]["shards"])
  dtype = np.dtype(_DTYPES[index["dtype"]])
  return Segments(
    folder, index, split, data.num_text_tokens, records, dtype, tokenizer
  )
