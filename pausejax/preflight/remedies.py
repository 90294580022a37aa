"""Changes that make a run fit into memory, checked with the compiler.

A compiler rejects a program in seconds, but takes minutes to accept one. So the
changes are tried one by one, those best for speed first, until one fits; if
none does, they are combined. Rejected changes are not suggested; changes after
the first that fits are suggested as not checked.
"""

import dataclasses
from collections.abc import Callable, Iterator

from pausejax import errors
from pausejax.config import TrainConfig

# Batch sizes and numbers of microbatches to try, starting at the estimate.
_TRIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
  """A change of the command line.

  Attributes:
    words: arguments to add to it.
    needed_bytes: memory per device by the compiler; 0 if not checked.
  """

  words: str
  needed_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Change:
  words: str
  config: TrainConfig


def find_remedies(
  config: TrainConfig,
  ask: Callable[[TrainConfig, str], int],
  *,
  available_bytes: int,
  num_slices: int,
  num_copies: int,
  num_shards: int,
  largest_batch: int,
) -> list[Remedy]:
  """Returns a change that fits and the later ones, which were not checked.

  Args:
    config: the run, which does not fit.
    ask: (a changed run, its words) -> bytes that it needs.
    available_bytes: memory of a device.
    num_slices: slices of the topology; each must have a copy of the parameters.
    num_copies: copies of the parameters on the run's own mesh.
    num_shards: number of shards of the batch dimension.
    largest_batch: estimate of the largest batch that fits, 0 for none.
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
        fitting = [Remedy(words=change.words, needed_bytes=needed)]
        rest = [g[0] for g in groups[number + 1 :] if g]
        return fitting + [Remedy(words=change.words) for change in rest]
  for change in _together(config, num_slices, num_copies, num_shards):
    if needed := _fits(change, ask, available_bytes):
      return [Remedy(words=change.words, needed_bytes=needed)]
  return []


def _fits(change: _Change, ask, available_bytes: int) -> int:
  """Returns the memory that a changed run needs, 0 if it does not fit."""
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
  """Yields combinations of the changes, then with the smallest microbatch."""
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
