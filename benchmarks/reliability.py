"""The cost of what keeps a run safe: of a step, and of a save.

  python -m benchmarks.reliability [--devices=8] [--config.FIELD=VALUE]

Two runs of the same small model take turns of a few steps in one process, by
the training loop itself, with its data and metrics. "off" has no watchdog and
no skipping of spikes; "on" has both, with the default limits and at 6 standard
deviations. Steps that are not finite are skipped in both: that has no
switch. The time of a turn is its median step. Then "on" saves every few
steps; the time for which a save blocks the loop is divided by that of the steps
between two saves at the default interval.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from benchmarks import measure

_FIELDS = {
  "model.num_layers": 2,
  "model.d_model": 128,
  "model.num_heads": 4,
  "model.dtype": "float32",
  "data.task": "text",
  "data.seq_len": 128,
  "batch_size": 16,
  "num_steps": 1_000_000,
  "eval.every": 0,
  "compilation_cache": "none",
}
_ON = {"optim.skip_spikes": 6.0}


@dataclasses.dataclass
class _TimedSaver:
  """Stands for the saver of a run and measures how long a save blocks.

  Attributes:
    saver: the run's.
    is_saving: whether `save` saves.
    seconds: of each save.
  """

  saver: Any
  is_saving: bool = False
  seconds: list[float] = dataclasses.field(default_factory=list)

  def require_finite_steps(self, *args) -> None:
    """Does what the run's saver does."""
    self.saver.require_finite_steps(*args)

  def save(self, *args) -> None:
    """Saves, if this is the part that saves."""
    if self.is_saving:
      self.seconds.append(measure.seconds(lambda: self.saver.save(*args)))

  def close(self) -> None:
    """Leaves the last save to the next one, as between two saves."""


class _Arm:
  """A run that trains a few steps at a time."""

  def __init__(self, run: Any, *, is_watched: bool):
    self._run = run
    self._is_watched = is_watched
    self._state = run.state
    self.saver = _TimedSaver(run.saver)

  def turn(self, num_steps: int, *, save_every: int = 0) -> float:
    """Trains; returns the median seconds of a step."""
    from pausejax.config import WatchdogConfig
    from pausejax.runtime import phases, watchdog
    from pausejax.training import loop

    self.saver.is_saving = save_every > 0
    limits = WatchdogConfig() if self._is_watched else None
    config = dataclasses.replace(
      self._run.config,
      stop_at_step=int(self._state.step) + num_steps + 1,
      checkpoint=dataclasses.replace(
        self._run.config.checkpoint, every=save_every or 1_000_000
      ),
    )
    run = dataclasses.replace(self._run, config=config, state=self._state)
    run = dataclasses.replace(run, saver=self.saver)
    watched = watchdog.watch(limits) if limits else contextlib.nullcontext()
    with watched, contextlib.redirect_stdout(io.StringIO()):
      phases.reset()
      time.sleep(0.2)  # The guard has started; without one, as long a pause.
      self._state = loop.train_loop(run)
    return phases.median_step() or 0.0


def main(argv: list[str] | None = None) -> None:
  """Runs the turns, prints both costs and writes the result."""
  parser = measure.parser(__doc__, rounds=60)
  parser.add_argument("--devices", type=int, default=1, help="virtual ones")
  parser.add_argument("--steps", type=int, default=8, help="of a turn")
  parser.add_argument("--saves", type=int, default=10)
  options, overrides = measure.parse(parser, argv)
  flags = f"--xla_force_host_platform_device_count={options.devices}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  start = measure.conditions()
  with tempfile.TemporaryDirectory() as folder:
    rows = _measured(pathlib.Path(folder), options, overrides)
  for row in rows:
    print(row["line"])
  measure.publish("reliability", options, rows, start=start)


def _measured(
  folder: pathlib.Path, options: argparse.Namespace, overrides: list[str]
) -> list[measure.Row]:
  """Returns the rows of the steps and of the saves."""
  _write_texts(folder / "texts")
  with contextlib.ExitStack() as stack:
    off, on = (
      _Arm(
        stack.enter_context(_opened(folder, name, fields, overrides)),
        is_watched=name == "on",
      )
      for name, fields in (("off", {}), ("on", _ON))
    )
    pairs = []
    for i in range(options.rounds + 1):
      first, second = (off, on) if i % 2 else (on, off)
      taken = {arm: arm.turn(options.steps) for arm in (first, second)}
      pairs.append((taken[off], taken[on]))
    del pairs[0]  # It compiled.
    # Two saves more: the first opens files, the last is that of the end.
    step = on.turn(10 * (options.saves + 1), save_every=10)
    on.saver.saver.close()
    return [_of_steps(pairs), _of_saves(step, on.saver.seconds[1:])]


def _of_steps(pairs: list[tuple[float, float]]) -> measure.Row:
  """Returns the ratio of the steps, with the quartiles of the rounds."""
  ratios = [on / off for off, on in pairs]
  low, middle, high = statistics.quantiles(ratios, n=4)
  off = statistics.median(off for off, _ in pairs)
  error = 0.93 * (high - low) / len(ratios) ** 0.5  # Of a median.
  return {
    "name": "step",
    "ratio": middle,
    "standard_error": error,
    "off_s": off,
    "line": f"step: {1e3 * off:.1f} ms off; on/off {middle:.4f} (standard "
    f"error {error:.4f}, quartiles {low:.3f} and {high:.3f} of "
    f"{len(ratios)} rounds)",
  }


def _of_saves(step: float, seconds: list[float]) -> measure.Row:
  """Returns how long a save blocks, and its share at the default interval."""
  from pausejax.config import CheckpointConfig

  every = CheckpointConfig().every
  blocked = statistics.median(seconds)
  share = blocked / (blocked + every * step)
  return {
    "name": "save",
    "blocked_s": blocked,
    "share": share,
    "line": f"save: blocks {1e3 * blocked:.0f} ms (median of {len(seconds)}, "
    f"at most {1e3 * max(seconds):.0f}), {share:.2%} of the time at one save "
    f"in {every:,} steps of {1e3 * step:.1f} ms",
  }


@contextlib.contextmanager
def _opened(
  folder: pathlib.Path, name: str, fields: dict, overrides: list
) -> Iterator[Any]:
  """Yields a run, opened as `pausejax train` does, but without a watchdog."""
  from pausejax import config
  from pausejax.programs import train_setup
  from pausejax.runtime import signals, watchdog
  from pausejax.training import inputs

  tree = config.default()
  fields = {**_FIELDS, **fields, "data.files": str(folder / "texts")}
  tree.update_from_flattened_dict(fields)
  for word in overrides:
    key, _, value = word.removeprefix("--config.").partition("=")
    tree.update_from_flattened_dict({key: int(value)})
  workdir = str(folder / name)
  inputs.inherit(tree, init_from="", workdir=workdir, is_saved=False)
  start = inputs.check_inputs(tree, workdir)
  stop = signals.StopFlag(interrupt=True)
  with contextlib.ExitStack() as stack:
    # The turns of "on" have a watchdog of their own.
    with mock.patch.object(watchdog, "watch", contextlib.nullcontext):
      opened = train_setup.open_run(start, stop, time.time())
      run = stack.enter_context(opened)
    yield run


def _write_texts(folder: pathlib.Path) -> None:
  folder.mkdir()
  draw = random.Random(0).choices
  for i in range(12):
    words = draw(["call", "me", "some", "years", "ago"], k=10**5)
    (folder / f"{i}.txt").write_text(" ".join(words))


if __name__ == "__main__":
  main()
