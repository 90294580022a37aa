"""Sources of documents, in plain Python.

The `units()` of a source are the parts of the corpus, which can be read
independently. Nothing is dropped silently: what cannot be read is an error that
names file and line, and what is left out is counted (`file_lists.py`,
`text_files.py`). The units depend on the corpus only, never on the number of
workers.

Files come as a folder, a glob or one path, comma-separated:

  .txt                 one document per file; CRLF is read as a line feed
  .jsonl, .json        one document per line, the text in `field`; blank lines
                       are skipped
  any of these + .gz   the same, compressed (C4's published shards)
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)

from pausejax import errors
from pausejax.tasks import file_lists, text_files
from pausejax.tasks.text_files import Reading

SPLITS = ("train", "validation")
# Consecutive small files form one unit of about this size.
_UNIT_BYTES = 2**24
_UNIT_DOCUMENTS = 8192  # Documents per unit of a corpus without files.

Document = tuple[str, str]  # Split and text.


@dataclasses.dataclass(frozen=True)
class Unit:
  """A part of a corpus that can be read independently.

  Attributes:
    key: identifies these documents without reading large files: an edit that
      keeps the size of a file goes unnoticed.
    splits: the splits that its documents can belong to.
    read: yields the documents of some splits and counts in a `Reading`, whose
      `documents` must start at the index of the unit's first document.
    count: returns the number of documents of all splits, faster than `read`;
      None if no split depends on the index of a document.
  """

  key: str
  splits: Sequence[str]
  read: Callable[[Reading, Collection[str]], Iterator[Document]]
  count: Callable[[], int] | None = None


class CorpusSource:
  """A corpus, read in an order that never changes."""

  def describe(self) -> str:
    """Returns a description of the source, the same in every process."""
    return repr(self)

  def units(self) -> list[Unit]:
    """Returns the parts of the corpus, in order."""
    raise NotImplementedError

  def left_out(self) -> file_lists.LeftOut:
    """Returns reason -> existing files that are left out."""
    return {}

  def documents(self, split: str) -> Iterator[str]:
    """Yields the text of each document of a split."""
    return read_documents(self.units(), split)


def read_documents(units: Iterable[Unit], split: str) -> Iterator[str]:
  """Yields the text of each document of a split, in order."""
  reading = Reading()
  for unit in units:
    if split in unit.splits:
      for _, text in unit.read(reading, (split,)):
        yield text


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource(CorpusSource):
  """Text files; without `validation`, every n-th document is held out.

  Documents are numbered from 0 through all files, in the order of the names;
  those whose number is a multiple of `holdout_every` are held out. The choice
  does not depend on the number of hosts or workers.
  """

  train: str
  validation: str
  field: str
  holdout_every: int

  def lists(self) -> dict[str, file_lists.FileList]:
    """Returns the files of each split; the same for both if some are held out.

    Raises:
      UserError: what `file_lists.expand` raises.
    """
    train = file_lists.expand(self.train)
    if not self.validation:
      return dict.fromkeys(SPLITS, train)
    validation = file_lists.expand(self.validation, "data.validation_files")
    # A folder may contain both: held-out files are not trained on.
    train = train.without(validation.files)
    file_lists.require_no_twins(sorted(train.files + validation.files))
    return {"train": train, "validation": validation}

  def left_out(self) -> file_lists.LeftOut:
    """Returns reason -> existing files that are left out."""
    reasons: dict[str, list[str]] = {}
    for listed in self.lists().values():
      for reason, paths in listed.left_out.items():
        reasons[reason] = sorted({*reasons.get(reason, []), *paths})
    return reasons

  def units(self) -> list[Unit]:
    """Returns the files; consecutive small ones share a unit."""
    lists = self.lists()
    if not self.validation:
      return [
        self._unit(group, SPLITS) for group in _together(lists["train"].files)
      ]
    return [
      self._unit(group, (split,))
      for split in SPLITS
      for group in _together(lists[split].files)
    ]

  def _unit(
    self, group: Sequence[tuple[str, int]], splits: Sequence[str]
  ) -> Unit:
    files = [f for f, _ in group]
    return Unit(
      digest([f"{pathlib.Path(f).name} {size}" for f, size in group]),
      splits,
      functools.partial(self._read, files, splits),
      None if self.validation else functools.partial(_count, files),
    )

  def _read(
    self,
    files: Sequence[str],
    splits: Sequence[str],
    reading: Reading,
    wanted: Collection[str],
  ) -> Iterator[Document]:
    for path in files:
      for number, line in text_files.records(path, reading):
        held_out = reading.documents % self.holdout_every == 0
        split = splits[held_out] if len(splits) > 1 else splits[0]
        reading.documents += 1
        if split not in wanted:
          continue
        if line is None:
          yield split, text_files.read_text(path, reading)
        else:
          yield split, text_files.parse_line(line, path, number, self.field)


def _count(files: Iterable[str]) -> int:
  """Returns the number of documents in some files."""
  return sum(1 for path in files for _ in text_files.records(path, Reading()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonSource(CorpusSource):
  """Documents from a Python function; every n-th is held out."""

  name: str
  load: Callable[[], Sequence[str]]
  holdout_every: int

  def describe(self) -> str:
    """Returns the name and the fraction that is held out."""
    return f"{self.name}, one in {self.holdout_every} held out"

  def units(self) -> list[Unit]:
    """Returns runs of documents, in the function's order."""
    texts: Mapping[str, list[str]] = {split: [] for split in SPLITS}
    for number, text in enumerate(self.load()):
      texts[SPLITS[number % self.holdout_every == 0]].append(text)
    return [
      Unit(digest(part), (split,), functools.partial(_given, split, part))
      for split in SPLITS
      for start in range(0, len(texts[split]), _UNIT_DOCUMENTS)
      for part in [texts[split][start : start + _UNIT_DOCUMENTS]]
    ]


def _given(
  split: str, texts: Sequence[str], reading: Reading, wanted: Collection[str]
) -> Iterator[Document]:
  """Yields documents in memory, if their split is requested."""
  for text in texts if split in wanted else ():
    reading.documents += 1
    yield split, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSource(CorpusSource):
  """A TensorFlow Datasets builder by name and version, text in `field`.

  `pausejax.data.opening` reads it.
  """

  name: str
  data_dir: str
  field: str


def no_documents(source: CorpusSource, split: str) -> errors.UserError:
  """Returns the error of a split without any document."""
  return errors.UserError(
    f"no document in split {split!r} of {source.describe()}; is the source "
    "empty, or smaller than data.holdout_every?"
  )


def _together(files: Sequence[str]) -> list[list[tuple[str, int]]]:
  """Groups (file, size) pairs into units of about `_UNIT_BYTES`."""
  groups, remaining = [], 0
  for path in files:
    size = pathlib.Path(path).stat().st_size
    if remaining <= 0:
      groups.append([])
      remaining = _UNIT_BYTES
    groups[-1].append((path, size))
    remaining -= size
  return groups


def digest(texts: Iterable[str]) -> str:
  """Returns the sha256 of texts and of their lengths."""
  total = hashlib.sha256()
  for text in texts:
    data = text.encode("utf-8")
    total.update(len(data).to_bytes(8, "little") + data)
  return total.hexdigest()
