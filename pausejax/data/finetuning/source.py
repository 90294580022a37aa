"""Finetuning batches: examples of one task or of a mixture, packed into rows.

The examples come in blocks. A block of a single task is one epoch. A block of a
mixture has as many draws, by rate, as the mixture has examples, and each task
has its own epochs. The order of a block is a function of (seed, block), and its
examples are packed into rows in that order. Batch s starts at row
s * batch_size of all blocks, so it is a function of the step, also with
later batch sizes.

A row holds several examples, each with its own segment id and positions, and
without attention between them (`model.segment_attention`). A row is full when
its positions are used or when it has K counted targets, so that the head is
computed at only K positions of every row (`data.batch.packed_batch`).

B rows, T positions of a row, K maximum number of counted targets of a row.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from pausejax import errors, pause
from pausejax.config import DataConfig, FinetuneConfig
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import batch
from pausejax.data.finetuning import prompts
from pausejax.data.finetuning.examples import Examples
from pausejax.data.pretraining.source import (
  require_divisible,
  sizes_fingerprint,
  step_rows,
)
from pausejax.data.tokenizers import PauseTokenizer

_OPEN_ROWS = 64  # Rows that may still be filled while packing.

# K is a multiple of the first, and the second times the mean number of counted
# targets of a full row: none of eight tasks needed more rows than without K.
_COUNTED_MULTIPLE = 32
_COUNTED_MARGIN = 1.25


@dataclasses.dataclass(frozen=True)
class Sequence_:
  """One example as ids.

  Attributes:
    ids_T: int32, from BOS to EOS, one more than its positions in a row.
    num_prompt: number of ids up to the one that predicts the first target.
    hint_ids: targets of the positions just before that one.
  """

  ids_T: np.ndarray
  num_prompt: int
  hint_ids: list[int]

  @property
  def num_positions(self) -> int:
    """The number of positions of the example in a row."""
    return len(self.ids_T) - 1

  @property
  def num_counted(self) -> int:
    """The number of counted targets, including hints."""
    return len(self.ids_T) - self.num_prompt + len(self.hint_ids)


class TaskSequences:
  """All sequences of one split of a task, ready to be packed."""

  def __init__(
    self,
    examples: Examples,
    format_: prompts.Format,
    config: FinetuneConfig,
    seq_len: int,
  ):
    """Encodes the examples.

    Args:
      examples: the examples of one split.
      format_: converts them to ids.
      config: determines whether hints are targets.
      seq_len: maximum number of positions of an example.

    Raises:
      UsageError: pauses and target of an example do not fit into `seq_len`.
    """
    self.name = format_.task.name
    self.examples = examples
    self.format = format_
    self.hints = config.hints
    targets = examples.target_ids or format_.targets(examples.rows)
    # The last id, EOS, is a target but never an input.
    lengths = [seq_len + 1 - len(target) for target in targets]
    self.prompts = format_.prompts(examples.rows, lengths, examples.prefix_ids)
    self.rows = [
      Sequence_(
        np.concatenate([prompt_T, np.asarray(target, np.int32)]),
        len(prompt_T),
        format_.hints(example) if config.hints and example.hints else [],
      )
      for prompt_T, target, example in zip(
        self.prompts.rows, targets, examples.rows, strict=True
      )
    ]
    for row, example in zip(self.rows, examples.rows, strict=True):
      if len(row.hint_ids) >= row.num_prompt:
        raise errors.UserError(
          f"example {example.id!r}: {len(row.hint_ids)} hints, but only "
          f"{row.num_prompt - 1} positions before the answer"
        )

  def summary(self) -> str:
    """Returns one line with the counts, including truncated prefixes."""
    line = f"{self.name} {self.examples.summary()}"
    cut = self.prompts
    if cut.num_cut:
      line += (
        f"; {cut.num_cut:,} prefixes lost {cut.num_cut_tokens:,} tokens on the "
        "left"
      )
    return line


class FinetuneSource:
  """Builds the batch of any step from the sequences of some tasks."""

  def __init__(
    self,
    tasks: Sequence[TaskSequences],
    rates: Sequence[float],
    *,
    data: DataConfig,
    packing: bool,
    tokenizer: PauseTokenizer,
    batch_size: int,
    seed: int,
    later_batch_sizes: str = "",
    host: tuple[int, int] = (0, 1),
  ):
    """Stores the tasks; packing starts with the first batch.

    Args:
      tasks: the sequences of each task.
      rates: relative numbers of examples drawn from each.
      data: `seq_len`, the positions of a row, and `prefetch`.
      packing: whether a row holds several examples, or one.
      tokenizer: defines the padding id.
      batch_size: rows of the global batch from step 0 on, and in evaluations.
      seed: determines the order.
      later_batch_sizes: those of later steps, as in the config.
      host: (index, count) of this process, which builds only its own rows.
    """
    self._sizes = batch_sizes(batch_size, later_batch_sizes)
    require_divisible(self._sizes, host)
    self.data = data
    self._tasks = tasks
    self._rates = np.asarray(rates, float) / sum(rates)
    self._packing = packing
    self._tokenizer = tokenizer
    self._batch_size = batch_size
    self._seed = seed
    self._host = host
    self._num_examples = sum(len(t.rows) for t in tasks)
    self._max_counted = self._most_counted()
    # Rows, and examples drawn from each task, up to the end of each block.
    self._ends = [0]
    self._drawn = [np.zeros(len(tasks), np.int64)]
    self._latest: tuple[int, list[list[tuple[int, int]]]] = (-1, [])

  def training_batch(self, step: int) -> batch.Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    places = step_rows(self._sizes, step, self._host)
    return self._batch([self._row(int(p)) for p in places])

  def evaluation_batches(self, num_batches: int) -> Iterator[batch.Batch]:
    """Yields every example once, in order; the last rows may be padding.

    Args:
      num_batches: maximum number of batches; 0 for all.
    """
    order = [
      (t, i)
      for t, task in enumerate(self._tasks)
      for i in range(len(task.rows))
    ]
    rows = self._pack(order)
    available = -(-len(rows) // self._batch_size)
    sizes = batch_sizes(self._batch_size, "")
    for step in range(min(num_batches or available, available)):
      places = step_rows(sizes, step, self._host)
      yield self._batch([rows[p] if p < len(rows) else [] for p in places])

  def fingerprint(self) -> dict:
    """Returns what determines the batches; compared when a run resumes."""
    return {
      "pipeline": "finetune",
      "tasks": {
        task.name: {
          "rate": float(rate),
          "examples_sha256": task.examples.sha256,
          "num_examples": len(task.rows),
          **task.format.pauses.condition(),
          "pauses_in_prefix": task.format.pauses.in_prefix,
          "hints": task.hints,
        }
        for task, rate in zip(self._tasks, self._rates, strict=True)
      },
      **self._tokenizer.fingerprint(),
      "seq_len": self.data.seq_len,
      "packing": self._packing,
      "max_counted": self._max_counted,
      "batch_size": self._batch_size,
      **sizes_fingerprint(self._sizes),
      "seed": self._seed,
    }

  def summary(self) -> str:
    """Returns one line with the rows of a block and how full they are."""
    rows = self._block(0)
    used = sum(
      self._tasks[t].rows[i].num_positions for row in rows for t, i in row
    )
    fraction = used / (len(rows) * self.data.seq_len)
    return (
      f"{sum(map(len, rows)):,} examples in {len(rows):,} rows of "
      f"{self.data.seq_len}, {fraction:.1%} full"
    )

  def _most_counted(self) -> int:
    """Returns K, enough for any one example and for a row of average ones."""
    sizes = [
      np.array([(row.num_counted, row.num_positions) for row in task.rows])
      for task in self._tasks
    ]
    most = max(int(size_N2[:, 0].max()) for size_N2 in sizes)
    if self._packing:
      means = np.array([size_N2.mean(axis=0) for size_N2 in sizes])
      counted, positions = self._rates @ means
      average = self.data.seq_len * counted / positions
      most = max(most, math.ceil(_COUNTED_MARGIN * average))
    rounded = -(-most // _COUNTED_MULTIPLE) * _COUNTED_MULTIPLE
    return min(rounded, self.data.seq_len)

  def _row(self, position: int) -> list[tuple[int, int]]:
    """Returns the (task, example) pairs of a row, numbered over all blocks."""
    while self._ends[-1] <= position:
      self._block(len(self._ends) - 1)
    block = int(np.searchsorted(self._ends, position, side="right")) - 1
    return self._block(block)[position - self._ends[block]]

  def _block(self, block: int) -> list[list[tuple[int, int]]]:
    """Returns the packed rows of a block; all earlier blocks must be packed."""
    if self._latest[0] == block:
      return self._latest[1]
    rng = np.random.default_rng([self._seed % 2**64, block])
    size = self._num_examples
    drawn_N = np.zeros(size, np.int64)
    if len(self._tasks) > 1:
      drawn_N = rng.choice(len(self._tasks), size, p=self._rates)
    places_N = np.zeros(size, np.int64)
    for t, before in enumerate(self._drawn[block]):
      is_t_N = drawn_N == t
      places_N[is_t_N] = self._examples_of(t, int(before), int(is_t_N.sum()))
    rows = self._pack(
      list(zip(drawn_N.tolist(), places_N.tolist(), strict=True))
    )
    if len(self._ends) == block + 1:
      counts = np.bincount(drawn_N, minlength=len(self._tasks))
      self._ends.append(self._ends[-1] + len(rows))
      self._drawn.append(self._drawn[-1] + counts)
    self._latest = (block, rows)
    return rows

  def _examples_of(self, t: int, start: int, count: int) -> np.ndarray:
    """Returns the examples of the draws start .. start + count of a task."""
    size = len(self._tasks[t].rows)
    draws = np.arange(start, start + count)
    shown = np.empty(count, np.int64)
    for epoch in range(start // size, (start + count - 1) // size + 1):
      rng = np.random.default_rng([self._seed % 2**64, t, epoch])
      here = draws // size == epoch
      shown[here] = rng.permutation(size)[draws[here] % size]
    return shown

  def _pack(self, order: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Puts each example into the first open row in which it fits."""
    if not self._packing:
      return [[pair] for pair in order]
    empty = np.array([[self.data.seq_len, self._max_counted]])
    rows: list[list[tuple[int, int]]] = []
    # Free positions and counted targets of the last rows, which are open.
    free_N2 = np.zeros((0, 2), np.int64)
    for t, i in order:
      row = self._tasks[t].rows[i]
      needs = row.num_positions, row.num_counted
      fits = np.flatnonzero((free_N2 >= needs).all(axis=1))
      if not len(fits):
        rows.append([])
        free_N2 = np.concatenate([free_N2, empty])[-_OPEN_ROWS:]
        fits = [len(free_N2) - 1]
      rows[len(rows) - len(free_N2) + fits[0]].append((t, i))
      free_N2[fits[0]] -= needs
    return rows

  def _batch(self, rows: list[list[tuple[int, int]]]) -> batch.Batch:
    """Returns the arrays of `data.batch.packed_batch` for these rows."""
    filled = [
      [self._placed(self._tasks[t], self._tasks[t].rows[i]) for t, i in row]
      for row in rows
    ]
    return batch.packed_batch(
      filled,
      seq_len=self.data.seq_len,
      max_counted=self._max_counted,
      pad_id=self._tokenizer.pad_id,
    )

  def _placed(self, task: TaskSequences, row: Sequence_) -> batch.Packed:
    n, prompt = row.num_positions, row.num_prompt
    targets_T, counts_T = pause.answer_targets(row.ids_T, prompt, row.hint_ids)
    in_prefix_T = np.zeros(n, bool)
    in_prefix_T[:prompt] = task.format.pauses.prefix_mask(prompt)
    return batch.Packed(row.ids_T[:-1], targets_T, counts_T, in_prefix_T)
