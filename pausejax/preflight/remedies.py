"""What makes a run fit that does not: asked of the compiler, then offered.

A compiler that refuses does so in seconds, one that accepts takes minutes. So
the changes are tried one after the other, the best for the run's speed first,
until one is accepted; where none is, they are tried together. What was refused
is not offered; what comes after the first that fits is offered as not checked.
"""

import dataclasses
from collections.abc import Callable, Iterator

from pausejax import errors
from pausejax.config import TrainConfig

# Batch sizes and numbers of microbatches to try, from the estimate on.
_TRIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
  """A change of the command line.

  Attributes:
    words: what to add to it.
    needed_bytes: of a device, as the compiler says; 0 where it was not asked.
  """

  words: str
  needed_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Change:
  words: str
  config: TrainConfig


def find(
  config: TrainConfig,
  ask: Callable[[TrainConfig, str], int],
  *,
  available_bytes: int,
  num_slices: int,
  num_copies: int,
  num_shards: int,
  largest_batch: int,
) -> list[Remedy]:
  """Returns a change that fits and those behind it that were not checked.

  Args:
    config: the run, which does not fit.
    ask: (a changed run, its words) -> bytes that it needs.
    available_bytes: of a device.
    num_slices: of the topology; each must hold a copy of the parameters.
    num_copies: of the parameters, on the run's own mesh.
    num_shards: parts that the rows of a batch are split in.
    largest_batch: rows that would fit by an estimate, 0 for none.
  """
  groups = [
    list(_splits(config, num_slices, num_copies)),
    list(_microbatches(config, num_shards, largest_batch)),
    list(_remat(config)),
    list(_batches(config, num_shards, largest_batch)),
  ]
  for number, group in enumerate(groups):
    for change in group:
      if needed := _fits(change, ask, available_bytes):
        found = [Remedy(words=change.words, needed_bytes=needed)]
        rest = [g[0] for g in groups[number + 1 :] if g]
        return found + [Remedy(words=change.words) for change in rest]
  for change in _together(config, num_slices, num_copies, num_shards):
    if needed := _fits(change, ask, available_bytes):
      return [Remedy(words=change.words, needed_bytes=needed)]
  return []


def _fits(change: _Change, ask, available_bytes: int) -> int:
  """Returns what a changed run needs, 0 if it does not fit."""
  try:
    needed = ask(change.config, change.words)
  except errors.UserError as e:
    print(f"  with {change.words}: {e.message}", flush=True)
    return 0
  return needed if needed <= available_bytes else 0


def _splits(
  config: TrainConfig, num_slices: int, num_copies: int
) -> Iterator[_Change]:
  """Yields the mesh that splits the state over all devices of a slice."""
  if num_copies > num_slices:
    mesh = dataclasses.replace(config.mesh, data=num_slices, fsdp=-1)
    words = f"--config.mesh.data={num_slices} --config.mesh.fsdp=-1"
    yield _Change(words, dataclasses.replace(config, mesh=mesh))


def _microbatches(
  config: TrainConfig, num_shards: int, most_rows: int
) -> Iterator[_Change]:
  """Yields some numbers of microbatches, the fewest first."""
  parts = [
    n
    for n in range(
      config.optim.num_microbatches + 1, config.batch_size // num_shards + 1
    )
    if config.batch_size % (n * num_shards) == 0
  ]
  enough = [n for n in parts if config.batch_size // n <= most_rows]
  tried = enough[: _TRIES - 1] + parts[-1:]
  for n in dict.fromkeys(tried):
    optim = dataclasses.replace(config.optim, num_microbatches=n)
    yield _Change(
      f"--config.optim.num_microbatches={n}",
      dataclasses.replace(config, optim=optim),
    )


def _remat(config: TrainConfig) -> Iterator[_Change]:
  if config.model["remat"] != "full":
    model = {**config.model, "remat": "full"}
    yield _Change(
      "--config.model.remat=full", dataclasses.replace(config, model=model)
    )


def _batches(
  config: TrainConfig, num_shards: int, most_rows: int
) -> Iterator[_Change]:
  """Yields smaller batches: the estimate, then three quarters of it twice."""
  unit = num_shards * config.optim.num_microbatches
  rows = most_rows // unit * unit
  for _ in range(_TRIES):
    if not 0 < rows < config.batch_size:
      return
    yield _Change(
      f"--config.batch_size={rows}",
      dataclasses.replace(config, batch_size=rows),
    )
    rows = min(rows - unit, rows * 3 // 4 // unit * unit)


def _together(
  config: TrainConfig, num_slices: int, num_copies: int, num_shards: int
) -> Iterator[_Change]:
  """Yields the changes one upon the other, then the smallest microbatch."""
  words: list[str] = []
  for changes in (
    lambda c: _splits(c, num_slices, num_copies),
    _remat,
    lambda c: list(_microbatches(c, num_shards, 0))[-1:],
  ):
    for change in changes(config):
      words.append(change.words)
      config = change.config
      if len(words) > 1:
        yield _Change(" ".join(words), config)
