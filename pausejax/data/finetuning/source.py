"""Finetuning batches: examples of one task or of a mixture, packed into rows.

The examples come in blocks. A block of a single task is one epoch. A block of a
mixture has as many draws, by rate, as the mixture has examples, and each task
has its own epochs. The order of a block is a function of (seed, block), and its
examples are packed into rows in that order. If M is drawn, that of a draw is a
function of (seed, draw); the stage of a curriculum is one of the draw alone.
Batch s starts at row s * batch_size of all blocks, so it is a function of the
step, also with later batch sizes.

A row holds several examples, each with its own segment id and positions, and
without attention between them (`model.segment_attention`). A row is full when
its positions are used or when it has K counted targets, so that the head is
computed at only K positions of every row (`data.batch.packed_batch`).

B rows, T positions of a row, K maximum number of counted targets of a row,
N draws of a block, or examples of the open rows.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pausejax.config import DataConfig
from pausejax.config.batch_sizes import BatchSizes, batch_sizes
from pausejax.data import batch
from pausejax.data.finetuning.sequences import Drawn, TaskSequences
from pausejax.data.pretraining.source import (
  require_divisible,
  sizes_fingerprint,
  step_rows,
)
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.prompt_pauses import answer_targets

_OPEN_ROWS = 64  # Rows that may still be filled while packing.

# K is a multiple of the first, and the second times the mean number of counted
# targets of a full row: none of eight tasks needed more rows than without K.
_COUNTED_MULTIPLE = 32
_COUNTED_MARGIN = 1.25


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
    sizes: BatchSizes,
    seed: int,
    host: tuple[int, int] = (0, 1),
  ):
    """Stores the tasks; packing starts with the first batch.

    Args:
      tasks: the sequences of each task.
      rates: relative numbers of examples drawn from each.
      data: `seq_len`, the positions of a row, and `prefetch`.
      packing: whether a row holds several examples, or one.
      tokenizer: defines the padding id.
      sizes: rows of the global batch at every step; the first in evaluations.
      seed: determines the order.
      host: (index, count) of this process, which builds only its own rows.
    """
    require_divisible(sizes, host)
    self._sizes = sizes
    self.data = data
    self._tasks = tasks
    self._rates = np.asarray(rates, float) / sum(rates)
    self._packing = packing
    self._tokenizer = tokenizer
    self._seed = seed
    self._host = host
    self._num_examples = sum(len(t.rows) for t in tasks)
    self._max_counted = self._most_counted()
    # Rows, and examples drawn from each task, up to the end of each block.
    self._ends = [0]
    self._drawn = [np.zeros(len(tasks), np.int64)]
    self._latest: tuple[int, list[list[Drawn]]] = (-1, [])

  def training_batch(self, step: int) -> batch.Batch:
    """Returns this host's rows of the batch of `step`, counted from 0."""
    return self._batch(self.drawn(step))

  def drawn(self, step: int) -> list[list[Drawn]]:
    """Returns the examples in each of this host's rows of a step."""
    places = step_rows(self._sizes, step, self._host)
    return [self._row(int(p)) for p in places]

  @property
  def num_stages(self) -> int:
    """The number of stages of a curriculum; 1 without one."""
    return 1 + max(task.last_stage for task in self._tasks)

  def stage_starts(self, num_steps: int) -> list[int]:
    """Returns the first batch of each stage that begins within `num_steps`."""
    starts: list[int] = []
    for row in range(self._sizes.first_row(num_steps)):
      latest = max(drawn.stage for drawn in self._row(row))
      starts += [self._sizes.step_of(row)] * (latest + 1 - len(starts))
      if len(starts) == self.num_stages:
        break
    return starts

  def examples(self, step: int) -> str:
    """Returns the ids of the examples of the global batch of `step`."""
    names = []
    for place in step_rows(self._sizes, step, (0, 1)):
      for drawn in self._row(int(place)):
        task, index = self._tasks[drawn.task], drawn.index
        names.append(f"{task.name} {task.examples.rows[index].id or index}")
    return f"examples {', '.join(names)}"

  def evaluation_batches(self, num_batches: int) -> Iterator[batch.Batch]:
    """Yields every example once, in order; the last rows may be padding.

    M is not drawn, but the largest, and a curriculum is at its last stage.

    Args:
      num_batches: maximum number of batches; 0 for all.
    """
    order = [
      Drawn(t, i, task.format.pauses.num_pauses, task.last_stage)
      for t, task in enumerate(self._tasks)
      for i in range(len(task.rows))
    ]
    rows = self._pack(order)
    sizes = batch_sizes(self._sizes.rows(0))
    available = -(-len(rows) // sizes.rows(0))
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
          **task.fingerprint(),
          "pauses_in_prefix": task.format.pauses.in_prefix,
          "hints": task.hints,
        }
        for task, rate in zip(self._tasks, self._rates, strict=True)
      },
      **self._tasks[0].format.filler.behind.fingerprint(),
      **self._tokenizer.fingerprint(),
      "seq_len": self.data.seq_len,
      "packing": self._packing,
      "max_counted": self._max_counted,
      **sizes_fingerprint(self._sizes),
      "seed": self._seed,
    }

  def summary(self, starts: Sequence[int]) -> str:
    """Returns one line: the rows of a block, how full they are, the stages.

    Args:
      starts: `stage_starts` of the run, for which its rows are packed.
    """
    rows = self._block(0)
    used = sum(
      self._tasks[drawn.task].num_positions(*drawn[1:])
      for row in rows
      for drawn in row
    )
    fraction = used / (len(rows) * self.data.seq_len)
    line = (
      f"{sum(map(len, rows)):,} examples in {len(rows):,} rows of "
      f"{self.data.seq_len}, {fraction:.1%} full"
    )
    if self.num_stages == 1:
      return line
    batches = ", ".join(f"{start:,}" for start in starts)
    return f"{line}; stages begin at batch {batches}"

  def _most_counted(self) -> int:
    """Returns K, enough for any one example and for a row of average ones."""
    most = max(task.max_counted() for task in self._tasks)
    if self._packing:
      means = np.array([task.sizes().mean(axis=0) for task in self._tasks])
      fewer = [max(t.numbers) - np.mean(t.numbers) for t in self._tasks]
      means[:, 1] -= fewer  # Positions at the mean M.
      counted, positions = self._rates @ means
      average = self.data.seq_len * counted / positions
      most = max(most, math.ceil(_COUNTED_MARGIN * average))
    rounded = -(-most // _COUNTED_MULTIPLE) * _COUNTED_MULTIPLE
    return min(rounded, self.data.seq_len)

  def _row(self, position: int) -> list[Drawn]:
    """Returns the examples of a row, numbered over all blocks."""
    while self._ends[-1] <= position:
      self._block(len(self._ends) - 1)
    block = int(np.searchsorted(self._ends, position, side="right")) - 1
    return self._block(block)[position - self._ends[block]]

  def _block(self, block: int) -> list[list[Drawn]]:
    """Returns the packed rows of a block; all earlier blocks must be packed."""
    latest = self._latest  # Read once: a thread prepares other batches.
    if latest[0] == block:
      return latest[1]
    rng = np.random.default_rng([self._seed % 2**64, block])
    size = self._num_examples
    drawn_N = np.zeros(size, np.int64)
    if len(self._tasks) > 1:
      drawn_N = rng.choice(len(self._tasks), size, p=self._rates)
    places_N, numbers_N, stages_N = np.zeros((3, size), np.int64)
    for t, before in enumerate(self._drawn[block]):
      is_t_N = drawn_N == t
      draws = np.arange(int(before), int(before) + int(is_t_N.sum()))
      places_N[is_t_N] = self._examples_of(t, draws)
      numbers_N[is_t_N], stages_N[is_t_N] = self._tasks[t].conditions(
        self._seed + t, draws
      )
    columns = np.stack([drawn_N, places_N, numbers_N, stages_N])
    rows = self._pack(list(map(Drawn, *columns.tolist())))
    if len(self._ends) == block + 1:
      counts = np.bincount(drawn_N, minlength=len(self._tasks))
      self._ends.append(self._ends[-1] + len(rows))
      self._drawn.append(self._drawn[-1] + counts)
    self._latest = (block, rows)
    return rows

  def _examples_of(self, t: int, draws: np.ndarray) -> np.ndarray:
    """Returns the examples of some draws of a task."""
    size = len(self._tasks[t].rows)
    shown = np.empty(len(draws), np.int64)
    for epoch in np.unique(draws // size).tolist():
      rng = np.random.default_rng([self._seed % 2**64, t, epoch])
      here = draws // size == epoch
      shown[here] = rng.permutation(size)[draws[here] % size]
    return shown

  def _pack(self, order: list[Drawn]) -> list[list[Drawn]]:
    """Puts each example into the first open row in which it fits."""
    if not self._packing:
      return [[drawn] for drawn in order]
    empty = np.array([[self.data.seq_len, self._max_counted]])
    rows: list[list[Drawn]] = []
    # Free positions and counted targets of the last rows, which are open.
    free_N2 = np.zeros((0, 2), np.int64)
    for drawn in order:
      task = self._tasks[drawn.task]
      num_positions = task.num_positions(*drawn[1:])
      needs = num_positions, task.num_counted(drawn.index, drawn.stage)
      fits = np.flatnonzero((free_N2 >= needs).all(axis=1))
      if not len(fits):
        rows.append([])
        free_N2 = np.concatenate([free_N2, empty])[-_OPEN_ROWS:]
        fits = [len(free_N2) - 1]
      rows[len(rows) - len(free_N2) + fits[0]].append(drawn)
      free_N2[fits[0]] -= needs
    return rows

  def _batch(self, rows: list[list[Drawn]]) -> batch.Batch:
    """Returns the arrays of `data.batch.packed_batch` for these rows."""
    filled = [[self._placed(drawn) for drawn in row] for row in rows]
    return batch.packed_batch(
      filled,
      seq_len=self.data.seq_len,
      max_counted=self._max_counted,
      pad_id=self._tokenizer.pad_id,
    )

  def _placed(self, drawn: Drawn) -> batch.Packed:
    task = self._tasks[drawn.task]
    row = task.row(*drawn[1:])
    n, prompt = row.num_positions, row.num_prompt
    filler = task.filler(drawn.num_pauses)
    targets_T, counts_T = answer_targets(
      row.ids_T, prompt, row.hint_ids, filler.behind
    )
    in_prefix_T = np.zeros(n, bool)
    in_prefix_T[:prompt] = filler.pauses.prefix_mask(prompt)
    return batch.Packed(
      row.ids_T[:-1],
      targets_T,
      counts_T,
      filler.positions(prompt, n),
      in_prefix_T,
    )
