"""Builds a store of segments from a corpus, with any number of processes.

A corpus consists of units (`CorpusSource.units`): a file, some small files,
or a block of documents. The documents of a unit are tokenized, each followed by
EOS, joined, and cut into segments of `segment_len` ids, separately per split.
The remaining ids of a unit are kept in its note; when all units are built, the
remainders are joined in the order of the units and cut in the same way. So no
token is lost, at most one segment of a split is short, and the bytes do not
depend on the number of processes or their order.

  OUT/train-00000.array_record   the segments of unit 0
  OUT/units/unit-00000.json      its note: what it was built from, and the rest
  OUT/units/count-00000.json     its number of documents
  OUT/units/store.json           what all units have in common
  OUT/index.json                 written last

If documents are held out by their index in the corpus, a unit needs the number
of documents before it. One process counts them as it goes through the units in
order; several processes count the documents of all units first, which reads the
files once more.

Each file is written atomically. A unit is done when its note exists and its
files have the sizes in the note; a repeated command builds the other units. A
note is removed before new records are written, and the index before any unit is
built again. Of a store in a bucket, finished units need not be in OUT.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pausejax import errors, json_files, locks, tasks
from pausejax.config import DataConfig
from pausejax.data import opening, record_store, tokenizers, workers
from pausejax.data.pretraining import segments
from pausejax.data.pretraining.cutter import Cutter
from pausejax.tasks import corpora, file_lists

# Format of the state for resuming an interrupted build.
_UNITS_FORMAT = 2
_COUNT = {"key": str, "num_documents": int}
_NOTE = {
  "key": str,
  "start": int,
  "blank_lines": int,
  "crlf_files": int,
  "splits": {
    str: {
      "shards": record_store.SHARDS,
      "num_documents": int,
      "documents_sha256": str,
      "counts": list,
      "rest": list,
    }
  },
}


@dataclasses.dataclass
class Progress:
  """Progress of a build.

  Attributes:
    num_units: units of the whole corpus.
    num_done: finished units, including those of other processes.
    num_documents: documents read by this call.
    num_tokens: tokens of these documents.
  """

  num_units: int = 0
  num_done: int = 0
  num_documents: int = 0
  num_tokens: int = 0


Report = Callable[[Progress], None]


def write_segments(
  data: DataConfig,
  tokenizer: tokenizers.PauseTokenizer,
  out: pathlib.Path,
  report: Report = lambda progress: None,
  *,
  shard: tuple[int, int] = (1, 1),
  num_workers: int = 1,
  tasks_module: str = "",
  elsewhere: Mapping[str, int] | None = None,
) -> dict | None:
  """Builds the store of segments of the task of `data`; resumes a build.

  Args:
    data: task, source and length; pauses only affect the length.
    tokenizer: the tokenizer of `data.tokenizer`.
    out: folder of the store.
    report: called with the progress.
    shard: (i, n), 1 <= i <= n: build every n-th unit, starting at the i-th.
    num_workers: number of processes; 1 uses this process.
    tasks_module: module that worker processes import to register the task.
    elsewhere: the size in bytes of each file of finished units that need not be
      in `out`.

  Returns:
    The index, or None if units of other shards are not built yet.

  Raises:
    UserError: `out` has another store or other files, or cannot be
      written to; a document cannot be read; a split is empty.
  """
  store = _Store(data, tokenizer, out, elsewhere or {})
  store.begin()
  index, count = shard
  with locks.hold(
    out / record_store.UNITS / f"lock-{index}-of-{count}",
    f"--out: another process is building shard {index}/{count} of {out}",
  ):
    setup = functools.partial(_open, data, out, tasks_module)
    own = range(store.num_units)[index - 1 :: count]
    if num_workers > 1:
      _count(store, own, num_workers, setup)
    todo = [i for i in range(store.num_units) if store.note(i) is None]
    if todo:  # The index of an earlier build names other records.
      (out / record_store.INDEX).unlink(missing_ok=True)
    progress = Progress(store.num_units, store.num_units - len(todo))
    report(progress)
    todo = sorted({*own} & {*todo})
    advance = functools.partial(_advance, progress, report)
    _make(store, todo, advance, num_workers, setup)
  # Shards may finish at the same time: only one may join and clean up.
  with locks.hold_when_free(out / record_store.UNITS / "lock-index"):
    return store.finish()


def _advance(
  progress: Progress, report: Report, documents: int = 0, tokens: int = 0
) -> None:
  """Adds counts to the progress; without counts, adds a finished unit."""
  progress.num_done += not documents
  progress.num_documents += documents
  progress.num_tokens += tokens
  report(progress)


def _count(store, own: Sequence[int], num_workers: int, setup) -> None:
  """Counts the units in several processes, those of this shard first.

  Machines that start together share the work: a unit is counted only once.
  """
  # The count of the last unit is not needed.
  jobs = [i for i in range(store.num_units - 1) if store.is_uncounted(i)]
  jobs.sort(key=lambda i: i not in own)
  num_workers = min(num_workers, len(jobs))
  if num_workers:
    counter = functools.partial(_counter, setup)
    workers.run_jobs(counter, jobs, num_workers, lambda *_: None)


def _make(store, todo: Sequence[int], advance, num_workers: int, setup):
  """Builds some units, in this process or in others."""
  num_workers = min(num_workers, len(todo))
  if num_workers > 1:
    workers.run_jobs(
      functools.partial(_maker, setup), todo, num_workers, advance
    )
    return
  for number in todo:
    store.make(number, advance)
    advance()


def _open(data: DataConfig, out: pathlib.Path, tasks_module: str) -> "_Store":
  """Returns the store in a worker process."""
  tasks.import_module(tasks_module)
  return _Store(data, tokenizers.load_for(data), out, {})


def _maker(setup: Callable[[], "_Store"]):
  return setup().make


def _counter(setup: Callable[[], "_Store"]):
  store = setup()
  return lambda number, report: store.count(number)


class _Store:
  """An unfinished store."""

  def __init__(
    self,
    data: DataConfig,
    tokenizer: tokenizers.PauseTokenizer,
    out: pathlib.Path,
    elsewhere: Mapping[str, int],
  ):
    self.data = data
    self.out = out
    self._elsewhere = elsewhere
    self._tokenizer = tokenizer
    self._source = tasks.pretraining(data.only_task).source(data)
    self._units = opening.units(self._source)
    self._starts = [0]  # Documents before each unit, as far as known.
    self._dtype = np.dtype(
      np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    )
    self._notes = out / record_store.UNITS
    self._head = {
      **segments.segments_identity(data, tokenizer),
      "source": self._source.describe(),
      "dtype": self._dtype.name,
    }

  @property
  def num_units(self) -> int:
    """The number of units of the corpus."""
    return len(self._units)

  def begin(self) -> None:
    """Creates the folder, or checks that it has the same store."""
    head = {**self._head, "units_format": _UNITS_FORMAT}
    record_store.begin(self.out, head)

  def note(self, number: int) -> dict | None:
    """Returns the note of a unit, None if the unit is not done."""
    unit = self._units[number]
    note = _load(self._path("unit", number), _NOTE)
    if (
      not note or note["key"] != unit.key or {*note["splits"]} != {*unit.splits}
    ):
      return None  # Missing, or of other files.
    if note["start"] != self._start(number):
      return None  # Files before it have changed.
    parts = note["splits"].values()
    rows = [row for part in parts for row in part["shards"]]
    whole = all(map(self._is_whole, parts)) and all(map(self._is_there, rows))
    return note if whole else None

  def _is_there(self, row: dict) -> bool:
    """Returns whether the file of a row is complete, here or elsewhere."""
    is_elsewhere = self._elsewhere.get(row["file"]) == row["num_bytes"]
    return is_elsewhere or record_store.has_size(self.out, row)

  def _is_whole(self, part: dict) -> bool:
    """Returns whether the entry of a split in a note is valid."""
    counts, rest = (_numbers(part[name]) for name in ("counts", "rest"))
    num_ids = self._tokenizer.vocab_size
    return counts is not None and len(counts) == num_ids and rest is not None

  def is_uncounted(self, number: int) -> bool:
    """Returns whether the documents of a unit have yet to be counted."""
    if self._units[number].count is None:
      return False
    saved = _load(self._path("count", number), _COUNT)
    return not saved or saved["key"] != self._units[number].key

  def count(self, number: int) -> None:
    """Counts the documents of a unit, unless they are counted."""
    counted = self._units[number].count
    if counted is not None and self.is_uncounted(number):
      self._write_count(number, counted())

  def make(self, number: int, report: Callable[[int, int], None]) -> None:
    """Builds one unit; reports new documents and tokens."""
    unit, start = self._units[number], self._start(number)
    # A note is there only while the records that it describes are.
    self._path("unit", number).unlink(missing_ok=True)
    cutters = {
      split: Cutter(
        self._tokenizer,
        self.data.num_text_tokens,
        self._dtype,
        record_store.RecordWriter(
          self.out / f"{split}-{number:05d}.array_record"
        ),
        report,
      )
      for split in unit.splits
    }
    reading = corpora.Reading(documents=start)
    for split, text in unit.read(reading, unit.splits):
      cutters[split].add(text)
    note = {
      "key": unit.key,
      "start": start,
      "blank_lines": reading.blank_lines,
      "crlf_files": reading.crlf_files,
      "splits": {split: cutter.close() for split, cutter in cutters.items()},
    }
    if unit.count is not None:
      self._write_count(number, reading.documents - start)
    record_store.write_json(self._path("unit", number), note)

  def finish(self) -> dict | None:
    """Joins the remainders and writes the index, once all units are done."""
    notes = []
    for number in range(self.num_units):
      note = self.note(number)
      if note is None:
        return None
      notes.append(note)
    index = dict(self._head)
    for split in corpora.SPLITS:
      parts = [n["splits"][split] for n in notes if split in n["splits"]]
      index[split] = self._join(split, parts)
    for name in ("blank_lines", "crlf_files"):
      index[name] = sum(note[name] for note in notes)
    index["left_out"] = file_lists.left_out_reasons(self._source.left_out())
    self._remove_unit_files(index)
    record_store.write_json(self.out / record_store.INDEX, index)
    return index

  def _join(self, split: str, parts: Sequence[dict]) -> dict:
    """Returns the index of a split; writes the segments of the remainders."""
    if not sum(part["num_documents"] for part in parts):
      raise corpora.no_documents(self._source, split)
    rest = np.concatenate([np.array(p["rest"], self._dtype) for p in parts])
    writer = record_store.RecordWriter(self.out / f"{split}-rest.array_record")
    for start in range(0, len(rest), self.data.num_text_tokens):
      writer.write(rest[start : start + self.data.num_text_tokens].tobytes())
    shards = [row for part in parts for row in part["shards"]] + writer.close()
    counts = np.sum([part["counts"] for part in parts], axis=0)
    p = counts[counts > 0] / counts.sum()
    return {
      "num_documents": sum(part["num_documents"] for part in parts),
      "num_tokens": int(counts.sum()),
      "num_segments": sum(row["num_records"] for row in shards),
      # Nats per token of the best model without context.
      "unigram_entropy": float(-np.sum(p * np.log(p))),
      "documents_sha256": corpora.digest(p["documents_sha256"] for p in parts),
      "shards": shards,
    }

  def _remove_unit_files(self, index: dict) -> None:
    """Removes files of killed processes and of units that no longer exist."""
    kept = {row["file"] for s in corpora.SPLITS for row in index[s]["shards"]}
    kept |= {record_store.HEAD, record_store.INDEX}
    for number in range(self.num_units):
      kept |= {self._path(kind, number).name for kind in ("unit", "count")}
    # Only files that this program writes.
    for folder, pattern in (
      (self.out, "*.array_record"),
      (self.out, "*.array_record.*.partial"),
      (self.out, "index.json.*.tmp"),
      (self._notes, "*-*.json"),
      (self._notes, "*-*.json.*.tmp"),
    ):
      for path in folder.glob(pattern):
        if path.name not in kept:
          path.unlink(missing_ok=True)

  def _start(self, number: int) -> int:
    """Returns the index in the corpus of a unit's first document.

    Counts documents as needed; returns 0 if no split depends on indices.
    """
    if self._units[number].count is None:
      return 0
    while len(self._starts) <= number:
      before = len(self._starts) - 1
      if self.is_uncounted(before):
        self.count(before)
      count = json_files.read(self._path("count", before), _COUNT, "remove it")
      self._starts.append(self._starts[-1] + count["num_documents"])
    return self._starts[number]

  def _write_count(self, number: int, count: int) -> None:
    value = {"key": self._units[number].key, "num_documents": count}
    record_store.write_json(self._path("count", number), value)

  def _path(self, kind: str, number: int) -> pathlib.Path:
    return self._notes / f"{kind}-{number:05d}.json"


def _load(path: pathlib.Path, shape: json_files.Shape) -> dict | None:
  """Returns a note, None if it is missing or damaged."""
  try:
    return json_files.read(path, shape, "") if path.exists() else None
  except errors.UserError:
    return None


def _numbers(values: list) -> np.ndarray | None:
  """Returns a list as int64 [n], None if it has other values."""
  try:
    numbers = np.asarray(values, np.int64)
  except (ValueError, TypeError, OverflowError):
    return None
  return numbers if numbers.ndim == 1 else None
