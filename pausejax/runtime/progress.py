"""Progress: a bar on a terminal, a line every 10 seconds in a log."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pausejax.runtime import phases

_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
  """Step, loss, tokens per second and time left.

  The time left is that of the steps without evaluations and saves. It is shown
  from the second step on, since the first one includes the compilation.
  """

  def __init__(self, start: int, num_steps: int, last_step: int):
    """Shows nothing yet.

    Args:
      start: the step from which the run starts or resumes.
      num_steps: steps of the whole run.
      last_step: the step after which this start of the run ends.
    """
    self._num_steps, self._last_step = num_steps, last_step
    self._last_line = time.monotonic()
    self._num_timed, self._seconds = -1, 0.0
    self._bar = Progress(
      TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
      BarColumn(),
      TextColumn("{task.description}"),
      console=Console(),
      disable=not sys.stdout.isatty(),
    )
    self._task = self._bar.add_task("", total=num_steps, completed=start)

  def __enter__(self) -> Self:
    self._bar.start()
    return self

  def __exit__(self, *error) -> None:
    self._bar.stop()

  def update(
    self, step: int, loss: float, tokens_per_second: float, seconds: float
  ) -> None:
    """Shows the current step, loss and speed.

    Args:
      step: number of the step.
      loss: its loss in nats.
      tokens_per_second: its speed.
      seconds: its time.
    """
    self._num_timed += 1
    if self._num_timed:
      self._seconds += seconds
    text = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
    text += self._time_left(self._last_step - step)
    self._bar.update(self._task, completed=step, description=text)
    now = time.monotonic()
    is_due = now - self._last_line >= _SECONDS_BETWEEN_LINES
    if self._bar.disable and (is_due or step == self._last_step):
      self._last_line = now
      self.print(f"step {step}/{self._num_steps}  {text}")

  def _time_left(self, num_steps: int) -> str:
    """Returns the text on the time of the steps left, "" if unknown or none."""
    if num_steps < 1 or self._num_timed < 1:
      return ""
    seconds = num_steps * self._seconds / self._num_timed
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
      if seconds < limit:
        return f"  {seconds / size:.0f} {unit} left"
    return f"  {seconds / 3600:.1f} h left"

  def print(self, line: str) -> None:
    """Prints a line above the bar."""
    self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class CountBar:
  """Shows items done, items in total, and time left."""

  def __init__(self, what: str, total: int):
    self._what = what
    self._total = total
    self._last_line = time.monotonic()
    self._bar = Progress(
      TextColumn(what + " {task.completed:.0f}/{task.total:.0f}"),
      BarColumn(),
      TextColumn("{task.description}"),
      TimeRemainingColumn(),
      console=Console(),
      disable=not sys.stdout.isatty(),
      transient=True,
    )
    self._task = self._bar.add_task("", total=total)

  def __enter__(self) -> Self:
    self._bar.start()
    return self

  def __exit__(self, *error) -> None:
    self._bar.stop()

  def update(self, done: int, total: int, text: str = "") -> None:
    """Shows the count and a short text; reports progress to the watchdog."""
    phases.advance()
    self._bar.update(self._task, completed=done, total=total, description=text)
    now = time.monotonic()
    if self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self._last_line = now
      print(f"  {self._what} {done:,}/{total:,}  {text}".rstrip(), flush=True)
