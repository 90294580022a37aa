"""Losses of a run against steps, tokens and FLOPs, thinned."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from pausejax.study.report.runs import StudyRun

# Axes of the loss charts -> their labels.
AXES = {
  "steps": "steps",
  "total_tokens": "tokens, including pauses",
  "real_tokens": "tokens of text",
  "flops": "FLOPs",
}
# Quantities with a chart against the steps -> their labels.
QUANTITIES = {
  "loss_after_real": "loss after text, nats",
  "loss_after_pause": "loss after pauses, nats",
  "learning_rate": "learning rate",
  "grad_norm": "gradient norm",
  "tokens_per_second": "tokens per second",
}
# Points of all lines of a page together, and bounds for one line; a line has a
# sixth as many markers.
_NUM_POINTS, _FEWEST, _MOST = 3_000, 12, 60
_POINTS_PER_MARKER = 6


@dataclasses.dataclass(frozen=True)
class Sample:
  """A loss in nats, and its value on each axis."""

  loss: float
  x: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Curve:
  """The losses of one run.

  Attributes:
    run: the run.
    loss: training losses, each the mean of some lines.
    held_out: held-out losses as measured; the last one and some others.
    num_lines_averaged: lines of metrics.jsonl in each point of `loss`.
    rows: rows of training steps, as in metrics.jsonl.
    evaluations: rows of held-out losses, as in metrics.jsonl.
    num_unreadable: lines of metrics.jsonl that cannot be read.
  """

  run: StudyRun
  loss: tuple[Sample, ...]
  held_out: tuple[Sample, ...]
  num_lines_averaged: int
  rows: list[dict[str, Any]]
  evaluations: list[dict[str, Any]]
  num_unreadable: int

  def quantity(self, name: str) -> tuple[tuple[float, float], ...]:
    """Returns (step, mean value) of one of `QUANTITIES`, thinned as `loss`."""
    samples = [
      Sample(float(row[name]), {"steps": row["step"]})
      for row in self.rows
      if name in row
    ]
    thinned = _thinned(samples, self.num_lines_averaged)
    return tuple((s.x["steps"], s.loss) for s in thinned)


def read_curves(runs: Sequence[StudyRun]) -> list[Curve]:
  """Returns the curves of runs; the more runs, the fewer points each."""
  most = _NUM_POINTS // max(len(runs), 1)
  most = min(max(most, _FEWEST), _MOST)
  return [_curve(run, most) for run in runs]


def _curve(run: StudyRun, most: int) -> Curve:
  rows, num_unreadable = run.metrics()
  trained, held_out, x = [], [], None
  for row in rows:
    if "loss" in row and _has_axes(row):
      x = _axes(row)
      trained.append(Sample(float(row["loss"]), x))
    elif "eval_loss" in row and x is not None:
      held_out.append(Sample(float(row["eval_loss"]), x))
  size = max(math.ceil(len(trained) / most), 1)
  held_out = _finite(held_out)
  stride = max(math.ceil(len(held_out) * _POINTS_PER_MARKER / most), 1)
  last_first = held_out[::-1][::stride]
  loss = tuple(_thinned(trained, size))
  return Curve(
    run,
    loss,
    tuple(last_first[::-1]),
    size,
    rows=[row for row in rows if "loss" in row],
    evaluations=[row for row in rows if "eval_loss" in row],
    num_unreadable=num_unreadable,
  )


def _has_axes(row: dict[str, Any]) -> bool:
  """Returns whether a row has the numbers that `_axes` reads."""
  names = ("total_tokens", "real_tokens", "model_flops_per_second")
  numbers = [row.get(n) for n in names] + [row.get("tokens_per_second") or None]
  return all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)


def _axes(row: dict[str, Any]) -> dict[str, float]:
  """Returns the values of a row on each axis; FLOPs per token are constant."""
  flops_per_token = row["model_flops_per_second"] / row["tokens_per_second"]
  return {
    "steps": row["step"],
    "total_tokens": row["total_tokens"],
    "real_tokens": row["real_tokens"],
    "flops": row["total_tokens"] * flops_per_token,
  }


def _thinned(samples: Sequence[Sample], size: int) -> list[Sample]:
  """Returns one sample per `size`: mean loss, at the last one's axis values."""
  thinned = []
  for start in range(0, len(samples), size):
    some = _finite(samples[start : start + size])
    if some:
      mean = sum(s.loss for s in some) / len(some)
      thinned.append(Sample(mean, some[-1].x))
  return thinned


def _finite(samples: Sequence[Sample]) -> list[Sample]:
  return [s for s in samples if math.isfinite(s.loss)]
