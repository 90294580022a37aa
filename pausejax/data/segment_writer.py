"""Makes a store of segments from a corpus, with any number of processes.

A corpus falls into units (`corpora.Source.units`): a file, some small files, or
a run of documents. The documents of a unit are tokenised, each followed by EOS,
joined, and cut into segments of `segment_len` ids. What a unit has left over
waits in its note; when every unit is made, the leftovers are joined in the
order of the units and cut in the same way. So no token is lost, one segment of
a split at most is short, and the bytes do not depend on who made what when.

  OUT/train-00000.array_record   the segments of unit 0
  OUT/units/train-00000.json     its note: what it was made of, and the rest
  OUT/units/store.json           what all units have in common
  OUT/index.json                 written last

Each file appears by a rename. A unit is done when its note is there and its
file is as long as the note says; whoever comes again, after a kill or because a
file was removed, makes the others.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pausejax import errors, json_files, locks, tasks
from pausejax.data import (
  corpora,
  record_files,
  segments,
  tokenizers,
  workers,
)
from pausejax.settings import DataConfig

_DOCUMENTS_AT_ONCE = 256
_NOTE = {
  "key": object,
  "shards": record_files.SHARDS,
  "num_documents": int,
  "documents_sha256": str,
  "counts": list,
  "rest": list,
}

Part = tuple[str, int]  # Split and number of a unit.


@dataclasses.dataclass
class Progress:
  """How far the making is.

  Attributes:
    num_units: of the whole corpus.
    num_done: units that are done, whoever made them.
    num_documents: read by this call.
    num_tokens: made of them.
  """

  num_units: int = 0
  num_done: int = 0
  num_documents: int = 0
  num_tokens: int = 0


Report = Callable[[Progress], None]


def write(
  data: DataConfig,
  tokenizer: tokenizers.PauseTokenizer,
  out: pathlib.Path,
  report: Report = lambda progress: None,
  *,
  shard: tuple[int, int] = (1, 1),
  num_workers: int = 1,
  tasks_module: str = "",
) -> dict | None:
  """Prepares the task of `data` as a store of segments; goes on where it was.

  Args:
    data: task, source and length; pauses matter only for the length.
    tokenizer: turns documents into ids; that of `data.tokenizer`.
    out: folder of the store.
    report: called as the work goes on.
    shard: (i, n), 1 <= i <= n: make every n-th unit only, from the i-th on.
    num_workers: processes; 1 stays in this one.
    tasks_module: what other processes import to know the task.

  Returns:
    The index, or None if units of other shards are not made yet.

  Raises:
    UserError: `out` holds another store or something else, or cannot be
      written to; a document cannot be read; a split is empty.
  """
  store = _Store(data, tokenizer, out)
  store.begin()
  index, count = shard
  with locks.alone(
    out / record_files.UNITS / f"lock-{index}-of-{count}",
    f"--out: shard {index}/{count} of {out} is being made already",
  ):
    todo = [part for part in store.parts if store.note(part) is None]
    progress = Progress(len(store.parts), len(store.parts) - len(todo))
    report(progress)
    mine = set(store.parts[index - 1 :: count])
    _make(
      store,
      [part for part in todo if part in mine],
      functools.partial(_advance, progress, report),
      num_workers,
      functools.partial(_maker, data, out, tasks_module),
    )
  # Shards may end together: one of them joins and tidies at a time.
  with locks.in_turn(out / "units" / "lock-index"):
    return store.finish()


def _advance(
  progress: Progress, report: Report, documents: int = 0, tokens: int = 0
) -> None:
  """Counts what was read; called without counts, a unit that is done."""
  progress.num_done += not documents
  progress.num_documents += documents
  progress.num_tokens += tokens
  report(progress)


def _make(store, parts: Sequence[Part], advance, num_workers: int, setup):
  """Makes some units, here or in other processes."""
  num_workers = min(num_workers, len(parts))
  if num_workers > 1:
    workers.run(setup, parts, num_workers, advance)
    return
  for part in parts:
    store.make(part, advance)
    advance()


def _maker(data: DataConfig, out: pathlib.Path, tasks_module: str):
  """Returns what makes a unit in a worker process."""
  tasks.import_module(tasks_module)
  return _Store(data, tokenizers.load(data.tokenizer), out).make


class _Store:
  """A store in the making."""

  def __init__(
    self,
    data: DataConfig,
    tokenizer: tokenizers.PauseTokenizer,
    out: pathlib.Path,
  ):
    self.data = data
    self.out = out
    self._tokenizer = tokenizer
    self._source = tasks.pretraining(data.task).source(data)
    self._units = {s: self._source.units(s) for s in corpora.SPLITS}
    self.parts: list[Part] = [
      (split, i)
      for split in corpora.SPLITS
      for i in range(len(self._units[split]))
    ]
    self._dtype = np.dtype(
      np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    )
    self._notes = out / record_files.UNITS
    self._head = {
      **segments.identity(data, tokenizer),
      "source": self._source.describe(),
      "dtype": self._dtype.name,
    }

  def begin(self) -> None:
    """Makes the folder, or checks that it holds the same store, begun."""
    record_files.begin(self.out, self._head)

  def note(self, part: Part) -> dict | None:
    """Returns the note of a unit that is done."""
    path = self._note_path(part)
    if not path.exists():
      return None
    try:
      note = json_files.read(path, _NOTE, "")
    except errors.UserError:
      return None  # Torn by a loss of power: the unit is made anew.
    counts, rest = (_numbers(note[name]) for name in ("counts", "rest"))
    if counts is None or len(counts) != self._tokenizer.vocab_size:
      return None
    if rest is None or note["key"] != self._unit(part).key:
      return None
    whole = all(record_files.has_size(self.out, r) for r in note["shards"])
    return note if whole else None

  def make(self, part: Part, report: Callable[[int, int], None]) -> None:
    """Makes one unit; reports documents and tokens as they come."""
    writer = record_files.Writer(self.out / f"{_name(part)}.array_record")
    cutter = _Cutter(self._tokenizer, self.data.num_text_tokens, self._dtype)
    for segment in cutter.segments(self._unit(part).documents(), report):
      writer.write(segment)
    note = {
      "key": self._unit(part).key,
      "shards": writer.close(),
      **cutter.statistics(),
      "rest": cutter.rest.tolist(),
    }
    record_files.write_json(self._note_path(part), note)

  def finish(self) -> dict | None:
    """Joins the leftovers and writes the index, once all units are done."""
    notes: dict[str, list[dict]] = collections.defaultdict(list)
    for part in self.parts:
      note = self.note(part)
      if note is None:
        return None
      notes[part[0]].append(note)
    index = dict(self._head)
    for split in corpora.SPLITS:
      index[split] = self._join(split, notes[split])
    self._tidy(index)
    record_files.write_json(self.out / record_files.INDEX, index)
    return index

  def _join(self, split: str, notes: Sequence[dict]) -> dict:
    """Returns the index of a split; writes the segments of its leftovers."""
    if not sum(note["num_documents"] for note in notes):
      raise corpora.no_documents(self._source, split)
    rest = np.concatenate([np.array(n["rest"], self._dtype) for n in notes])
    writer = record_files.Writer(self.out / f"{split}-rest.array_record")
    for start in range(0, len(rest), self.data.num_text_tokens):
      writer.write(rest[start : start + self.data.num_text_tokens].tobytes())
    shards = [row for note in notes for row in note["shards"]] + writer.close()
    counts = np.sum([note["counts"] for note in notes], axis=0)
    p = counts[counts > 0] / counts.sum()
    return {
      "num_documents": sum(note["num_documents"] for note in notes),
      "num_tokens": int(counts.sum()),
      "num_segments": sum(row["num_records"] for row in shards),
      # Nats a token of the best model that ignores all context.
      "unigram_entropy": float(-np.sum(p * np.log(p))),
      "documents_sha256": corpora.digest(n["documents_sha256"] for n in notes),
      "shards": shards,
    }

  def _tidy(self, index: dict) -> None:
    """Removes what a kill, or units that are no more, left behind."""
    kept = {row["file"] for s in corpora.SPLITS for row in index[s]["shards"]}
    kept |= {self._note_path(part).name for part in self.parts}
    kept |= {record_files.HEAD, record_files.INDEX}
    # Nothing but what this program writes.
    for folder, pattern in (
      (self.out, "*.array_record"),
      (self.out, "*.array_record.*.partial"),
      (self.out, "index.json.*.partial"),
      (self._notes, "*-*.json"),
      (self._notes, "*-*.json.*.partial"),
    ):
      for path in folder.glob(pattern):
        if path.name not in kept:
          path.unlink(missing_ok=True)

  def _unit(self, part: Part) -> corpora.Unit:
    split, number = part
    return self._units[split][number]

  def _note_path(self, part: Part) -> pathlib.Path:
    return self._notes / f"{_name(part)}.json"


def _numbers(values: list) -> np.ndarray | None:
  """Returns a list as int64 [n], None if it holds anything else."""
  try:
    found = np.asarray(values, np.int64)
  except (ValueError, TypeError, OverflowError):
    return None
  return found if found.ndim == 1 else None


def _name(part: Part) -> str:
  return f"{part[0]}-{part[1]:05d}"


class _Cutter:
  """Tokenises documents, joins them and cuts; keeps count of what it saw.

  Attributes:
    rest: the ids behind the last full segment, once all are taken.
  """

  def __init__(self, tokenizer, segment_len: int, dtype: np.dtype):
    self._tokenizer = tokenizer
    self._segment_len = segment_len
    self._dtype = dtype
    self._digest = hashlib.sha256()
    self._counts = np.zeros(tokenizer.vocab_size, np.int64)
    self._num_documents = 0
    self.rest = np.zeros(0, dtype)

  def segments(
    self, documents: Iterator[str], report: Callable[[int, int], None]
  ) -> Iterator[bytes]:
    """Yields the raw ids of each full segment."""
    while texts := list(itertools.islice(documents, _DOCUMENTS_AT_ONCE)):
      ids = self._tokenised(texts)
      report(len(texts), len(ids))
      joined = np.concatenate([self.rest, ids])
      end = len(joined) - len(joined) % self._segment_len
      for start in range(0, end, self._segment_len):
        yield joined[start : start + self._segment_len].tobytes()
      self.rest = joined[end:]

  def statistics(self) -> dict:
    """Returns what the note of a unit says of its documents."""
    return {
      "num_documents": self._num_documents,
      "documents_sha256": self._digest.hexdigest(),
      "counts": self._counts.tolist(),
    }

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
    ids = np.fromiter(ids, self._dtype)
    self._num_documents += len(texts)
    self._counts += np.bincount(ids, minlength=len(self._counts))
    return ids
