"""Trackers: copies of a run's rows in TensorBoard and Weights & Biases.

`metrics.jsonl` and `samples.jsonl` are the record; a tracker only receives what
they hold. An error of a tracker (network, full disk) never stops a run: it is
reported once, and the rows that the tracker lacks are counted. When the run
starts again, each tracker receives the rows of the files that it lacks.
"""

import contextlib
import itertools
import operator
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pausejax import errors
from pausejax.config import LogConfig
from pausejax.runtime import tensorboard_events, wandb_run
from pausejax.runtime.tensorboard_events import TensorBoard
from pausejax.runtime.wandb_run import WandbRun

NAMES = ("tensorboard", "wandb")

Row = Mapping[str, Any]


class Tracker(Protocol):
  """Receives the rows of a run.

  Attributes:
    next_step: the first step whose rows it lacks when it is opened.
  """

  next_step: int

  def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
    """Receives the metrics of a step."""

  def texts(self, step: int, samples: Sequence[Row]) -> None:
    """Receives the samples of a step: `prompt`, `num_pauses`, `text`."""

  def close(self, exit_code: int) -> None:
    """Ends it within seconds; `exit_code` is that of the run."""


class Guarded:
  """A tracker whose errors are reported once and stop nothing."""

  def __init__(self, name: str, opener: Callable[[], Tracker]):
    """Opens the tracker.

    Args:
      name: its name in messages.
      opener: opens it.
    """
    self._name = name
    self._num_missed = 0
    self._is_failed = False
    self._tracker: Tracker | None = None
    with self._reported():
      self._tracker = opener()

  def send(self, act: Callable[[Tracker], None]) -> None:
    """Sends a row, unless the tracker failed before; `act` does it."""
    self._num_missed += 1
    if self._tracker is None or self._is_failed:
      return
    with self._reported():
      act(self._tracker)
      self._num_missed -= 1

  def replay(self, rows: Sequence[Row], samples: Sequence[Row]) -> None:
    """Sends the rows that the tracker lacks.

    Args:
      rows: the rows of metrics.jsonl.
      samples: the rows of samples.jsonl.
    """
    if self._tracker is None:
      return
    first = self._tracker.next_step
    for row in rows:
      if row["step"] >= first:
        step, metrics = split_row(row)
        self.send(lambda t, s=step, m=metrics: t.scalars(s, m))
    by_step = itertools.groupby(samples, operator.itemgetter("step"))
    for step, group in by_step:
      if step >= first:
        self.send(lambda t, s=step, g=[*group]: t.texts(s, g))

  def close(self, exit_code: int) -> None:
    """Ends the tracker; prints how many rows it lacks."""
    if self._tracker is not None:
      with self._reported():
        self._tracker.close(exit_code)
    if self._num_missed:
      print(
        f"{self._name}: {self._num_missed} rows were not sent; they are in the "
        "workdir"
      )

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    """Reports the first error, and keeps all of them from the caller."""
    try:
      yield
    except Exception as e:
      if not self._is_failed:
        _warn(self._name, e, "; the run continues without it")
      self._is_failed = True


def _warn(name: str, error: Exception, more: str = "") -> None:
  what = errors.first_line(error) or type(error).__name__
  print(f"pausejax: warning: {name}: {what}{more}", file=sys.stderr, flush=True)


def split_row(row: Row) -> tuple[int, dict[str, float]]:
  """Returns (step, metrics) of a row of metrics.jsonl."""
  return row["step"], {k: float(v) for k, v in row.items() if k != "step"}


def chosen(log: LogConfig) -> tuple[str, ...]:
  """Returns the names of the trackers that a config turns on."""
  return tuple(name for name in NAMES if getattr(log, name))


def require_usable(names: Sequence[str], option: str) -> None:
  """Raises UserError unless every tracker can be used.

  Args:
    names: names of trackers.
    option: how the user turned one on, with {} for its name.
  """
  checks = {
    "tensorboard": tensorboard_events.require_installed_writer,
    "wandb": wandb_run.require_login,
  }
  for name in names:
    checks[name](option.format(name))


def run_trackers(
  workdir: pathlib.Path,
  log: LogConfig,
  values: Mapping[str, Any],
  step: int,
  *,
  evaluation_due: bool,
  dropped: Sequence[Row],
) -> list[Guarded]:
  """Opens the trackers of a run.

  Args:
    workdir: the run's folder.
    log: names the trackers.
    values: all fields of the run's config.
    step: the step that the run resumes from, 0 if none.
    evaluation_due: whether the held-out loss of that step is measured again.
    dropped: rows that an earlier start wrote and the run writes again.
  """
  first_step = step if evaluation_due else step + 1
  openers: dict[str, Callable[[], Tracker]] = {
    "tensorboard": lambda: TensorBoard(workdir / "tensorboard", first_step),
    "wandb": lambda: WandbRun(workdir, log, values, step, dropped),
  }
  return [Guarded(name, openers[name]) for name in chosen(log)]


def send_sweep(
  names: Sequence[str],
  workdir: pathlib.Path,
  log: LogConfig,
  points: Sequence[tuple[int, Mapping[str, float]]],
) -> None:
  """Sends metrics over the number of pauses; an error is a warning.

  Args:
    names: names of trackers.
    workdir: folder of the run that was evaluated.
    log: project, name, group and tags in W&B.
    points: (M, name -> value) of each condition, ascending in M.
  """
  folder = workdir / "tensorboard" / "evaluate"
  acts = {
    "tensorboard": lambda: tensorboard_events.write_sweep(folder, points),
    "wandb": lambda: wandb_run.publish_sweep(workdir, log, points),
  }
  for name in names:
    try:
      acts[name]()
    except Exception as e:
      _warn(name, e, "; the results are in the workdir")
