"""Mixes corpora by rate: assigns each position of a run to a corpus.

Positions come in blocks of `BLOCK`. Of the first n positions of a stage, where
n ends a block, corpus t has

  floor(n R_t) - floor(n R_(t-1)),    R_t = r_0 + ... + r_t, the rates' sums,

which is within one of n r_t, adds up to n, and can be computed for any n.
Inside a block, a seeded permutation mixes them. So a position determines its
corpus and the number of earlier draws from it, without state, on any host; the
draws of a corpus go through its own epochs (`SegmentSource.record`).

A stage starts at a step and keeps its rates until the next stage; the counts of
draws continue across stages.

B rows of a batch, K positions of a block.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from pausejax import errors
from pausejax.config import mixtures

BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class _Stage:
  """Positions that share rates.

  Attributes:
    start: its first position.
    sums: R_t of each corpus.
    before: draws of each corpus before the stage.
  """

  start: int
  sums: tuple[Fraction, ...]
  before: tuple[int, ...]

  def drawn(self, num_blocks: int) -> np.ndarray:
    """Returns the draws of each corpus after `num_blocks` blocks."""
    floors = [int(num_blocks * BLOCK * total) for total in self.sums]
    return np.diff([0, *floors]) + np.array(self.before)


class Mixture:
  """Assigns positions to corpora."""

  def __init__(
    self,
    names: Sequence[str],
    stages: Sequence[mixtures.Stage],
    *,
    first_row: Callable[[int], int],
    seed: int,
  ):
    """Checks the rates.

    Args:
      names: names of the corpora.
      stages: rates of the corpora, by step, the first at 0; a corpus without
        a rate is not drawn.
      first_row: step -> number of positions before it.
      seed: determines the order inside blocks.

    Raises:
      UsageError: a rate below one in `BLOCK` of the sum.
    """
    self._seed = seed
    self._stages: list[_Stage] = []
    for stage in stages:
      start = first_row(stage.first_step)
      before = self._drawn_before(start) if start else (0,) * len(names)
      self._stages.append(_Stage(start, _sums(names, stage), before))
    self._starts = [stage.start for stage in self._stages]

  def assign(self, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int64 [B] each: the corpus of a position, and its draw number.

    Args:
      rows_B: int64 [B], numbers of rows in the whole run, from 0.
    """
    stages_B = np.searchsorted(self._starts, rows_B, side="right") - 1
    inside_B = rows_B - np.array(self._starts)[stages_B]
    assigned_B = np.empty((2, len(rows_B)), np.int64)
    blocks_B = inside_B // BLOCK
    for stage, block in sorted(set(zip(stages_B, blocks_B, strict=True))):
      in_block_B = (stages_B == stage) & (blocks_B == block)
      block_K = _block(self._stages[stage], int(block), self._seed)
      assigned_B[:, in_block_B] = block_K[:, inside_B[in_block_B] % BLOCK]
    return assigned_B[0], assigned_B[1]

  def _drawn_before(self, position: int) -> tuple[int, ...]:
    """Returns the draws of each corpus before a position of the last stage."""
    stage = self._stages[-1]
    block, place = divmod(position - stage.start, BLOCK)
    corpora = _block(stage, block, self._seed)[0, :place]
    counts = np.bincount(corpora, minlength=len(stage.sums))
    return tuple((stage.drawn(block) + counts).tolist())


@functools.lru_cache(maxsize=8)
def _block(stage: _Stage, block: int, seed: int) -> np.ndarray:
  """Returns int64 [2, K]: corpus and draw of each position of a block."""
  first, end = stage.drawn(block), stage.drawn(block + 1)
  sequence = np.random.SeedSequence([seed % 2**64, stage.start, block])
  # Raw bits are the same in all versions of numpy, permutations may differ.
  order_K = np.argsort(np.random.PCG64(sequence).random_raw(BLOCK))
  corpora_K = np.repeat(np.arange(len(first)), end - first)[order_K]
  draws_K = np.empty(BLOCK, np.int64)
  for t, (low, high) in enumerate(zip(first, end, strict=True)):
    draws_K[corpora_K == t] = np.arange(low, high)
  return np.stack([corpora_K, draws_K])


def _sums(names: Sequence[str], stage: mixtures.Stage) -> tuple[Fraction, ...]:
  """Returns R_t as exact fractions: 0.1 is 1/10."""
  rates = stage.rates
  total = sum(Fraction(str(rate)) for rate in rates.values())
  sums, reached = [], Fraction(0)
  for name in names:
    share = Fraction(str(rates.get(name, 0))) / total
    errors.require(
      not share or share * BLOCK >= 1,
      f"data.task: {name} has {float(share):.2g} of the rates {str(stage)!r}, "
      f"at least one in {BLOCK:,} is needed",
    )
    reached += share
    sums.append(reached)
  return tuple(sums)
