"""Batches as a pure function of the step: the `segments` door.

Row r of step s has the position p = s * batch_size + r in the whole run.
Epoch and place are divmod(p, number of segments); the place goes through a
seeded permutation of the epoch to a record, and the pauses are a function of
(seed, p). No iterator state exists: any step can be made at once, on any
number of hosts and workers, and a resumed run needs only its step number.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pausejax import batching, errors, pause
from pausejax.data import segments, tokenizers
from pausejax.settings import DataConfig

# Evaluation draws other pauses than training at the same positions.
EVALUATION_SEED = 0x5EED


class Batches(Protocol):
  """An iterator of batches whose place can be saved: either door."""

  def __next__(self) -> batching.Batch: ...

  def fingerprint(self) -> dict:
    """Returns what decides the batches; compared when a run resumes."""
    ...

  def state(self) -> dict[str, bytes]:
    """Returns files that tell the place after the batches taken so far."""
    ...

  def restore(self, state: dict[str, bytes]) -> None:
    """Goes to the place that `state` tells."""
    ...


class StepSource(Protocol):
  """What makes the batch of any step: segments, or finetuning examples."""

  @property
  def data(self) -> DataConfig:
    """The settings; `prefetch` is read here."""
    ...

  def training_batch(self, step: int) -> batching.Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    ...

  def fingerprint(self) -> dict:
    """Returns what decides the batches."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentSource:
  """Makes the batch of any step from a store of segments.

  Attributes:
    data: length and pauses.
    store: the segments of one split.
    tokenizer: gives the ids of BOS, padding and `<pause>`.
    batch_size: rows of the global batch.
    seed: decides order and pauses.
    host: (index, count) of this process; it makes its contiguous rows only.
  """

  data: DataConfig
  store: segments.Segments
  tokenizer: tokenizers.PauseTokenizer
  batch_size: int
  seed: int
  host: tuple[int, int] = (0, 1)

  def __post_init__(self):
    _, count = self.host
    errors.require(
      self.batch_size % count == 0,
      f"batch_size {self.batch_size} is not divisible by {count} hosts",
    )

  def training_batch(self, step: int) -> batching.Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    positions_B = step * self.batch_size + self._rows()
    records = [self.record(int(p)) for p in positions_B]
    text_BT = self.store.read(records, batching.PADDING)
    return self._batch(text_BT, positions_B, self.seed)

  def record(self, position: int) -> int:
    """Returns the segment shown at a position of the run."""
    import grain

    num_segments = len(self.store)
    epoch, place = divmod(position, num_segments)
    return grain.experimental.index_shuffle(
      place,
      max_index=num_segments - 1,
      seed=_epoch_seed(self.seed, epoch),
      rounds=4,
    )

  def evaluation_batches(self, num_batches: int) -> Iterator[batching.Batch]:
    """Yields this host's rows of the store, every segment once, in order.

    Every host yields equally many batches; rows beyond the end are padding.

    Args:
      num_batches: at most so many; 0 for all of them.
    """
    available = -(-len(self.store) // self.batch_size)
    for step in range(min(num_batches or available, available)):
      positions_B = step * self.batch_size + self._rows()
      exists_B = positions_B < len(self.store)
      text_BT = self.store.read(
        np.where(exists_B, positions_B, 0), batching.PADDING
      )
      text_BT[~exists_B] = batching.PADDING
      yield self._batch(text_BT, positions_B, self.seed ^ EVALUATION_SEED)

  def fingerprint(self) -> dict:
    """Returns corpus, tokenizer, lengths, batch size, seed and pauses."""
    return {
      "door": "segments",
      "task": self.data.task,
      "documents_sha256": self.store.index[self.store.split][
        "documents_sha256"
      ],
      **self.tokenizer.fingerprint(),
      "seq_len": self.data.seq_len,
      "batch_size": self.batch_size,
      "seed": self.seed,
      "pause_mode": self.data.pause_mode,
      "pause_fraction": self.data.pause_fraction,
    }

  def _rows(self) -> np.ndarray:
    index, count = self.host
    rows = self.batch_size // count
    return np.arange(index * rows, (index + 1) * rows)

  def _batch(self, text_BT, positions_B, seed: int) -> batching.Batch:
    targets_BT = pause.insert_pauses(
      text_BT,
      seq_len=self.data.seq_len,
      pause_id=self.tokenizer.pause_id,
      pause_fraction=self.data.pause_fraction,
      mode=self.data.pause_mode,
      seed=seed,
      positions_B=positions_B,
    )
    return batching.language_model_batch(
      targets_BT,
      bos_id=self.tokenizer.bos_id,
      pad_id=self.tokenizer.pad_id,
      pause_id=self.tokenizer.pause_id,
    )


class StepBatches:
  """The training batches of a source, made ahead by a thread."""

  def __init__(self, source: StepSource):
    self._source = source
    self._start(0)

  def __next__(self) -> batching.Batch:
    batch = next(self._iterator)
    self._step += 1
    return batch

  def fingerprint(self) -> dict:
    """Returns the source's."""
    return self._source.fingerprint()

  def state(self) -> dict[str, bytes]:
    """Returns the number of the next step, which is all there is."""
    return {"position.json": json.dumps({"step": self._step}).encode()}

  def restore(self, state: dict[str, bytes]) -> None:
    """Goes on at the step that `state` tells."""
    self._start(json.loads(state["position.json"])["step"])

  def _start(self, step: int) -> None:
    import grain

    self._step = step
    steps = grain.MapDataset.range(step, 2**40)
    # One thread: batches are numpy work, which more threads only slow down.
    options = grain.ReadOptions(
      num_threads=1, prefetch_buffer_size=self._source.data.prefetch
    )
    batches = steps.map(self._source.training_batch)
    self._iterator = iter(batches.to_iter_dataset(options))


@functools.lru_cache(maxsize=64)
def _epoch_seed(seed: int, epoch: int) -> int:
  """Returns 32 bits that decide the order of an epoch."""
  sequence = np.random.SeedSequence([seed % 2**64, epoch])
  return int(sequence.generate_state(1)[0])
