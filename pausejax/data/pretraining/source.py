"""Batches as a pure function of the step: the `segments` pipeline.

Row r of step s has the number p in the whole run: the rows of all earlier
steps, plus r. In a mixture, `mixing.py` assigns p to draw d of one store; with
a single store, d = p. Epoch and index are divmod(d, number of segments); a
seeded permutation of the epoch maps the index to a record, and the pauses are a
function of (seed, p). There is no iterator state: the batch of any step can be
computed directly, on any number of hosts and workers, and a resumed run needs
only its step number.

B rows of this host, T positions.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from pausejax import errors
from pausejax.config import DataConfig, mixtures
from pausejax.config.batch_sizes import BatchSizes, batch_sizes
from pausejax.config.batch_skips import BatchSkips
from pausejax.data import text_units, tokenizers
from pausejax.data.batch import PADDING, Batch, language_model_batch
from pausejax.data.pretraining import mixing, segments

# Evaluation draws other pauses than training at the same positions.
EVALUATION_SEED = 0x5EED


class Batches(Protocol):
  """An iterator of batches whose position can be saved; both pipelines."""

  def __next__(self) -> Batch: ...

  def fingerprint(self) -> dict:
    """Returns what determines the batches; compared when a run resumes."""
    ...

  def describe(self, step: int) -> str:
    """Returns the examples of the batch of a step, counted from 1."""
    ...

  def state(self) -> dict[str, bytes]:
    """Returns the position after the batches taken so far, as files."""
    ...

  def restore(self, state: dict[str, bytes]) -> None:
    """Continues at the position in `state`."""
    ...


class StepSource(Protocol):
  """Builds the batch of any step from segments or finetuning examples."""

  @property
  def data(self) -> DataConfig:
    """The config of the data; `prefetch` is used here."""
    ...

  def training_batch(self, step: int) -> Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    ...

  def examples(self, step: int) -> str:
    """Returns what the global batch of `step` holds, counted from 0."""
    ...

  def fingerprint(self) -> dict:
    """Returns what determines the batches."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentSource:
  """Builds the batch of any step from a store of segments.

  Attributes:
    data: length and pauses.
    store: the segments of one split.
    tokenizer: defines the ids of BOS, padding and `<pause>`.
    sizes: rows of the global batch at every step; the first in evaluations.
    seed: determines order and pauses.
    host: (index, count) of this process, which builds its contiguous rows.
  """

  data: DataConfig
  store: segments.Segments
  tokenizer: tokenizers.PauseTokenizer
  sizes: BatchSizes
  seed: int
  host: tuple[int, int] = (0, 1)

  def __post_init__(self):
    require_divisible(self.sizes, self.host)

  def training_batch(self, step: int) -> Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    rows_B = self.rows(step)
    return self.batch(self.text(rows_B), rows_B)

  def examples(self, step: int) -> str:
    """Returns the indices of the segments of the global batch of `step`."""
    return self.segments(step_rows(self.sizes, step, (0, 1)))

  def segments(self, draws_B: np.ndarray) -> str:
    """Returns the indices of the segments of these draws as text."""
    records = ", ".join(str(self.record(int(d))) for d in draws_B)
    return f"{self.data.task} segments {records}"

  def rows(self, step: int) -> np.ndarray:
    """Returns int64 [B], the numbers of this host's rows in the whole run."""
    return step_rows(self.sizes, step, self.host)

  def text(self, draws_B: np.ndarray) -> np.ndarray:
    """Returns int32 [B, segment_len], the segments of these draws."""
    records = [self.record(int(d)) for d in draws_B]
    return self.store.read(records, PADDING)

  def record(self, draw: int) -> int:
    """Returns the index of the segment of a draw."""
    import grain

    num_segments = len(self.store)
    epoch, place = divmod(draw, num_segments)
    return grain.experimental.index_shuffle(
      place,
      max_index=num_segments - 1,
      seed=_epoch_seed(self.seed, epoch),
      rounds=4,
    )

  def evaluation_batches(self, num_batches: int) -> Iterator[Batch]:
    """Yields this host's rows of the store, every segment once, in order.

    Every host yields equally many batches; rows beyond the end are padding.

    Args:
      num_batches: at most so many; 0 for all of them.
    """
    sizes = batch_sizes(self.sizes.rows(0))
    available = -(-len(self.store) // sizes.rows(0))
    for step in range(min(num_batches or available, available)):
      rows_B = step_rows(sizes, step, self.host)
      exists_B = rows_B < len(self.store)
      text_BT = self.store.read(np.where(exists_B, rows_B, 0), PADDING)
      text_BT[~exists_B] = PADDING
      yield self.batch(self._filled(text_BT), rows_B, EVALUATION_SEED)

  def without_pauses(self) -> "SegmentSource":
    """Returns the source of the same segments with no pauses among them."""
    data = dataclasses.replace(self.data, pause_fraction=0.0)
    return dataclasses.replace(self, data=data)

  def _filled(self, text_BT: np.ndarray) -> np.ndarray:
    """Returns segments padded with `PADDING` to the length in the config.

    With "exact", stored segments are shorter than those of a standard run.
    """
    missing = self.data.num_text_tokens - text_BT.shape[1]
    return np.pad(text_BT, ((0, 0), (0, missing)), constant_values=PADDING)

  def fingerprint(self) -> dict:
    """Returns corpus, tokenizer, lengths, batch size, seed and pauses."""
    return {
      "pipeline": "segments",
      "task": self.data.task,
      "documents_sha256": self.store.index[self.store.split][
        "documents_sha256"
      ],
      **self.tokenizer.fingerprint(),
      "seq_len": self.data.seq_len,
      **sizes_fingerprint(self.sizes),
      "seed": self.seed,
      **self.data.pauses.fingerprint(),
    }

  @functools.cached_property
  def _units(self) -> text_units.TextUnits | None:
    """Finds the units of text that pauses follow, if they follow any."""
    unit = self.data.pauses.unit
    return text_units.TextUnits(self.tokenizer, unit) if unit else None

  def batch(
    self, text_BT: np.ndarray, rows_B: np.ndarray, salt: int = 0
  ) -> Batch:
    """Returns the batch of some segments, with pauses inserted."""
    pauses = self.data.pauses
    targets_BT = pauses.insert(
      text_BT,
      seq_len=self.data.seq_len,
      pause_id=self.tokenizer.pause_id,
      seed=self.seed ^ salt,
      rows_B=rows_B,
      ends_BN=self._units.ends(text_BT) if self._units else None,
    )
    return language_model_batch(
      targets_BT,
      pauses=pauses,
      bos_id=self.tokenizer.bos_id,
      pad_id=self.tokenizer.pad_id,
      pause_id=self.tokenizer.pause_id,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedSource:
  """Makes the batch of any step from several stores, by rate.

  Attributes:
    sources: task -> its source; they differ only in their stores.
    stages: the rates of the tasks over the run.
  """

  sources: Mapping[str, SegmentSource]
  stages: Sequence[mixtures.Stage]

  @property
  def data(self) -> DataConfig:
    """The settings that the sources share."""
    return self._first.data

  @functools.cached_property
  def _mixture(self) -> mixing.Mixture:
    first = self._first
    return mixing.Mixture(
      list(self.sources),
      self.stages,
      first_row=first.sizes.first_row,
      seed=first.seed,
    )

  @property
  def _first(self) -> SegmentSource:
    return next(iter(self.sources.values()))

  def training_batch(self, step: int) -> Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    rows_B = self._first.rows(step)
    stores_B, draws_B = self._mixture.assign(rows_B)
    shape = len(rows_B), self._first.store.segment_len
    text_BT = np.empty(shape, np.int32)
    for number, source in enumerate(self.sources.values()):
      here_B = stores_B == number
      text_BT[here_B] = source.text(draws_B[here_B])
    return self._first.batch(text_BT, rows_B)

  def examples(self, step: int) -> str:
    """Returns the segments of the global batch of `step`, task by task."""
    rows_B = step_rows(self._first.sizes, step, (0, 1))
    stores_B, draws_B = self._mixture.assign(rows_B)
    return "; ".join(
      source.segments(draws_B[stores_B == number])
      for number, source in enumerate(self.sources.values())
      if (stores_B == number).any()
    )

  def evaluation_batches(self, num_batches: int) -> Iterator[Batch]:
    """Yields the batches of each task's source, one task after another."""
    for source in self.sources.values():
      yield from source.evaluation_batches(num_batches)

  def without_pauses(self) -> "MixedSource":
    """Returns the source of the same segments with no pauses among them."""
    sources = {n: s.without_pauses() for n, s in self.sources.items()}
    return dataclasses.replace(self, sources=sources)

  def fingerprint(self) -> dict:
    """Returns the fingerprint of the sources, and the rates."""
    parts = {name: s.fingerprint() for name, s in self.sources.items()}
    return {
      **self._first.fingerprint(),
      "task": [[s.first_step, dict(s.rates)] for s in self.stages],
      "documents_sha256": {
        name: part["documents_sha256"] for name, part in parts.items()
      },
    }


class StepBatches:
  """The training batches of a source, prepared in advance by a thread."""

  def __init__(self, source: StepSource, skips: BatchSkips | None = None):
    self._source = source
    self._skips = skips or BatchSkips()
    self._start(0)

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    self._step += 1
    return batch

  def fingerprint(self) -> dict:
    """Returns the source's."""
    return self._source.fingerprint()

  def describe(self, step: int) -> str:
    """Returns the examples of the batch of a step, counted from 1."""
    number = self._skips.batch(step)
    return f"batch {number}: {self._source.examples(number - 1)}"

  def state(self) -> dict[str, bytes]:
    """Returns the number of the next step, the only state."""
    return {"position.json": json.dumps({"step": self._step}).encode()}

  def restore(self, state: dict[str, bytes]) -> None:
    """Continues at the step in `state`."""
    self._start(json.loads(state["position.json"])["step"])

  def _start(self, step: int) -> None:
    import grain

    self._step = step
    steps = grain.MapDataset.range(step, 2**40)
    # One thread: batches are numpy work, which more threads only slow down.
    options = grain.ReadOptions(
      num_threads=1, prefetch_buffer_size=self._source.data.prefetch
    )
    batches = steps.map(self._batch)
    self._iterator = iter(batches.to_iter_dataset(options))

  def _batch(self, step: int) -> Batch:
    """Returns the batch of a step, counted from 0."""
    return self._source.training_batch(self._skips.batch(step + 1) - 1)


def step_rows(
  sizes: BatchSizes, step: int, host: tuple[int, int]
) -> np.ndarray:
  """Returns int64 [B], a host's rows of a step, numbered over the whole run."""
  index, count = host
  rows = sizes.rows(step) // count
  return sizes.first_row(step) + np.arange(index * rows, (index + 1) * rows)


def sizes_fingerprint(sizes: BatchSizes) -> dict[str, int | str]:
  """Returns the first batch size, and the later ones if there are any."""
  later = sizes.later()
  return {
    "batch_size": sizes.rows(0),
    **({"later_batch_sizes": later} if later else {}),
  }


def require_divisible(sizes: BatchSizes, host: tuple[int, int]) -> None:
  """Raises UsageError unless every host has equally many rows."""
  for rows in sizes.sizes:
    errors.require(
      rows % host[1] == 0,
      f"{sizes.field(rows)} {rows} is not divisible by the {host[1]} hosts; "
      f"use a multiple of {host[1]}",
    )


@functools.lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
  """Returns a 32-bit seed of the order of an epoch."""
  sequence = np.random.SeedSequence([seed % 2**64, epoch])
  return int(sequence.generate_state(1)[0])
