"""A cell of a study: commands that run in one folder, in order."""

import dataclasses
import pathlib
import shlex


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """A unit of work: a pretraining, or a finetuning with its evaluations.

  Attributes:
    id: its name, and its folder below that of the study.
    pretraining: name of its pretraining, "" if it prepares data for all runs.
    pretrain_seed: seed of its pretraining; None: that of the config.
    task: "" unless it is a finetuning.
    finetuning: "" unless it is one.
    seed: seed of the finetuning.
    workdir: its folder.
    commands: words of each `pausejax` command, in order.
  """

  id: str
  pretraining: str
  task: str
  finetuning: str
  seed: int
  workdir: pathlib.Path
  commands: tuple[tuple[str, ...], ...]
  pretrain_seed: int | None = None

  @property
  def seeds(self) -> tuple[int, ...]:
    """The seeds of its runs: (pretraining, finetuning), or (finetuning,)."""
    own = (self.seed,)
    return own if self.pretrain_seed is None else (self.pretrain_seed, *own)

  @property
  def label(self) -> int | str:
    """The seeds in a table: 3, or "1/3" of the pretraining with seed 1."""
    return seeds_label(self.seeds)

  def is_done(self) -> bool:
    """Returns whether all of its commands have finished."""
    return (self.workdir / "done").exists()

  def shell(self) -> str:
    """Returns the commands as one line for a shell."""
    lines = (shlex.join(["pausejax", *words]) for words in self.commands)
    done = shlex.quote(str(self.workdir / "done"))
    return " && ".join([*lines, f"touch {done}"])


def seeds_label(seeds: tuple[int, ...]) -> int | str:
  """Returns the label of `Cell.seeds`."""
  return seeds[0] if len(seeds) == 1 else "/".join(map(str, seeds))
