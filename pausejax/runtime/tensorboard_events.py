"""TensorBoard events, written without TensorFlow.

Events are written in the calling thread: the thread of tensorboardX's
`SummaryWriter` ends at the first error, after which its queue blocks a run.
"""

import importlib.util
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import errors

_SECONDS_BETWEEN_FLUSHES = 5.0


def require_installed_writer(option: str) -> None:
  """Raises UserError unless tensorboardX is installed; `option` needs it."""
  if importlib.util.find_spec("tensorboardX") is None:
    raise errors.UserError(
      f"{option} needs the extra: make env EXTRA=tensorboard, or pip "
      "install '.[tensorboard]' in the clone"
    )


class TensorBoard:
  """An event file in a folder, which is a run in TensorBoard.

  Attributes:
    next_step: the first step whose rows the folder lacks.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    """Opens a new event file.

    TensorBoard discards the events of earlier files from `first_step` on.

    Args:
      folder: the folder; an empty or new one lacks all rows.
      first_step: the first step that will be written again.
    """
    from tensorboardX import event_file_writer, writer

    is_new = not any(folder.glob("events.*"))
    self.next_step = 0 if is_new else first_step
    folder.mkdir(parents=True, exist_ok=True)
    # Files of one second are read in the order of their suffixes.
    self._writer = event_file_writer.EventsWriter(
      str(folder / "events"), f".{time.time_ns()}"
    )
    self._last_flush = time.monotonic()
    # All but the first start of a folder discard events.
    start = writer.SessionLog(status=writer.SessionLog.START)
    self._write(self.next_step, session_log=start)

  def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of a step as one event."""
    from tensorboardX import summary

    values = [
      summary.Summary.Value(tag=name, simple_value=value)
      for name, value in metrics.items()
    ]
    self._write(step, summary=summary.Summary(value=values))

  def texts(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
    """Writes each sample as a text of its own tag, by its place."""
    from tensorboardX import summary

    for place, sample in enumerate(samples):
      text = summary.text(f"samples/{place}", _markdown(sample))
      self._write(step, summary=text)

  def close(self, exit_code: int) -> None:
    """Writes everything to disk."""
    del exit_code
    self._writer.close()

  def _write(self, step: int, **content: Any) -> None:
    """Writes an event."""
    from tensorboardX import writer

    event = writer.Event(step=step, wall_time=time.time(), **content)
    self._writer.write_event(event)
    if time.monotonic() - self._last_flush >= _SECONDS_BETWEEN_FLUSHES:
      self._writer.flush()
      self._last_flush = time.monotonic()


def _markdown(sample: Mapping[str, Any]) -> str:
  """Returns a sample as literal text, which TensorBoard reads as Markdown."""
  text = f"{sample['prompt']} [{sample['num_pauses']} pauses] {sample['text']}"
  return "\n".join("    " + line for line in text.split("\n"))


def write_sweep(
  folder: pathlib.Path, points: Sequence[tuple[int, Mapping[str, float]]]
) -> None:
  """Writes metrics over the number of pauses, in place of earlier ones.

  Args:
    folder: the folder, a run of its own in TensorBoard.
    points: (M, name -> value) of each condition, ascending in M, which takes
      the place of the step.
  """
  for path in folder.glob("events.*"):
    path.unlink()
  events = TensorBoard(folder, 0)
  for num_pauses, metrics in points:
    events.scalars(num_pauses, metrics)
  events.close(0)
