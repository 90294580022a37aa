"""Metrics and samples of a run as JSON lines, and in trackers on request.

`metrics.jsonl` has one line per logged step. Numbers are written so that
reading them back gives the same bits. Numbers that are not finite are written
as strings, since JSON cannot represent them. `samples.jsonl` has one line per
prompt and evaluation. Trackers (`trackers.py`) receive the same rows.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax.config import LogConfig
from pausejax.runtime import distributed, metric_rows
from pausejax.runtime.step_lines import StepLines
from pausejax.runtime.trackers import Guarded, run_trackers

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"

Number = int | float


class Silent:
  """The writer of every process other than process 0; writes nothing."""

  def notes(self) -> list[str]:
    """Returns an empty list."""
    return []

  def num_lost_steps(self, before: int) -> int:
    """Returns `before`."""
    return before

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Does nothing."""

  def write_samples(
    self, step: int, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""

  def end(self, exit_code: int) -> None:
    """Does nothing."""


def open_writer(
  workdir: pathlib.Path,
  step: int,
  log: LogConfig,
  values: Mapping[str, Any],
  *,
  evaluation_due: bool,
  every: int,
  continues: bool = False,
) -> "MetricWriter | Silent":
  """Returns a `MetricWriter` in process 0 and a `Silent` in the others.

  Args:
    workdir: the run's folder.
    step: the step resumed from, 0 if none.
    log: names the trackers.
    values: all fields of the run's config, for the trackers.
    evaluation_due: as for `MetricWriter`.
    every: as for `MetricWriter`.
    continues: as for `MetricWriter`.
  """
  if distributed.process_index() > 0:
    return Silent()
  writer = MetricWriter(
    workdir,
    step,
    evaluation_due=evaluation_due,
    every=every,
    continues=continues,
  )
  writer.trackers = run_trackers(
    workdir,
    log,
    values,
    step,
    evaluation_due=evaluation_due,
    dropped=writer.dropped(),
  )
  for tracker in writer.trackers:
    tracker.replay(
      metric_rows.scan(workdir / METRICS)[0], read_samples(workdir)
    )
  return writer


class MetricWriter:
  """Appends to `<workdir>/metrics.jsonl`, without repeated steps on resume.

  Attributes:
    num_dropped: number of dropped rows of steps that run again. A run that
      starts over moves them to `metrics.jsonl.replaced`.
    num_unreadable: number of lines moved to `metrics.jsonl.unreadable`.
    gaps: (first, last) of each range of steps whose rows are missing.
    trackers: receive what is written.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    *,
    evaluation_due: bool = False,
    every: int = 1,
    continues: bool = False,
  ):
    """Opens the files.

    Args:
      workdir: the run's folder.
      step: the step resumed from, 0 if none; rows of later steps are dropped,
        since those steps run again.
      evaluation_due: the held-out loss of `step` is measured again, so its row
        is dropped, too.
      every: the largest number of steps between two rows so far.
      continues: whether another run has the rows of the first steps.
    """

    def is_again(row: Mapping[str, Any]) -> bool:
      is_evaluation = "eval_loss" in row or "prompt" in row
      is_repeated = evaluation_due and row["step"] == step and is_evaluation
      return row["step"] > step or is_repeated

    def lines(name: str, parse) -> StepLines:
      path = workdir / name
      return StepLines(path, parse, is_again, starts_over=step == 0)

    self._step = step
    self._lines = lines(METRICS, metric_rows.parse_row)
    self._open_samples = lambda: lines(SAMPLES, metric_rows.parse_sample)
    there = (workdir / SAMPLES).exists()
    self._samples = self._open_samples() if there else None
    self.num_dropped = len(self._lines.dropped)
    self.num_unreadable = self._lines.num_unreadable
    rows = metric_rows.scan(workdir / METRICS)[0]
    gaps = metric_rows.gaps(rows, step, every)
    self.gaps = [g for g in gaps if not (continues and g[0] == 1)]
    self.trackers: list[Guarded] = []

  def dropped(self) -> list[dict[str, Any]]:
    """Returns the rows of both files that the run writes again."""
    samples = self._samples.dropped if self._samples else []
    return self._lines.dropped + samples

  def num_lost_steps(self, before: int) -> int:
    """Returns the number of steps that were computed and run again.

    Args:
      before: their number up to the checkpoint that the run resumes from.
    """
    rows = [row for row in self._lines.dropped if "loss" in row]
    if not rows:
      return before
    counted = max(int(row.get("lost_steps", 0)) for row in rows)
    return max(counted, before) + max(r["step"] for r in rows) - self._step

  def notes(self) -> list[str]:
    """Returns at most one line per file: which rows it lacks, and why."""
    notes = self._lines.notes()
    if self.gaps:
      steps = ", ".join(
        f"{a} to {b}" if a < b else f"{a}" for a, b in self.gaps
      )
      notes.append(f"the rows of these steps are missing: {steps}")
    found = {METRICS: notes}
    if self._samples:
      found[SAMPLES] = self._samples.notes()
    return [f"{name}: {'; '.join(n)}" for name, n in found.items() if n]

  def write(self, step: int, metrics: Mapping[str, Number]) -> None:
    """Writes the metrics of a step as one line.

    While the disk is full, lines are kept in memory until the next call.

    Raises:
      UserError: the file was deleted or replaced.
    """
    finite = {k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}
    self._lines.write({"step": step, **finite})
    for tracker in self.trackers:
      tracker.send(lambda t: t.scalars(step, metrics))

  def write_samples(
    self, step: int, samples: Sequence[Mapping[str, Any]]
  ) -> None:
    """Writes the continuations of prompts, one line each.

    Args:
      step: the step of the model.
      samples: for each prompt its `prompt`, `num_pauses` and `text`.

    Raises:
      UserError: the file was deleted or replaced.
    """
    if not samples:
      return
    self._samples = self._samples or self._open_samples()
    for sample in samples:
      self._samples.write({"step": step, **sample})
    for tracker in self.trackers:
      tracker.send(lambda t: t.texts(step, samples))

  def close(self) -> None:
    """Writes everything to disk.

    Raises:
      UserError: some lines could not be written.
    """
    self._lines.close()
    if self._samples:
      self._samples.close()

  def end(self, exit_code: int) -> None:
    """Ends the trackers, however the run ends.

    Args:
      exit_code: that of the run.
    """
    for tracker in self.trackers:
      tracker.close(exit_code)


def read_samples(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the readable lines of a run's samples.jsonl, if there is one."""
  path = workdir / SAMPLES
  lines = path.read_bytes().split(b"\n") if path.exists() else []
  parsed = (metric_rows.parse_sample(line) for line in lines if line.strip())
  return [sample for sample in parsed if sample is not None]
