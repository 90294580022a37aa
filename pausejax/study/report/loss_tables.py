"""Tables of the losses, speed and devices of each run."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pausejax.runtime import tables
from pausejax.study.report import markup
from pausejax.study.report.contents import Report
from pausejax.study.report.curves import Curve
from pausejax.study.report.markup import Html, tag
from pausejax.study.report.runs import StudyRun

_Rows = Sequence[dict[str, Any]]


def held_out(it: Report) -> Html:
  """Returns the held-out losses of every run that measured any."""
  body = [row for c in it.curves if (row := _held_out(c))]
  if not body:
    return tag("p", "No held-out loss was measured.", class_="missing")
  head = [
    "run",
    "step",
    "loss, final",
    "after text",
    "after pauses",
    "perplexity",
    "without pauses",
    "best (step)",
  ]
  caption = (
    "Nats per counted target. Compare runs with different pauses by the column "
    "without pauses: the same text, without any pause. After text and after "
    "pauses: split by the input token of the position. Best refers to the "
    "column without pauses if present, else to the loss."
  )
  return markup.html_table(caption, head, body)


def text_scores(it: Report) -> Html:
  """Returns the scores of plain text, if there are any."""
  body = [
    [
      run.id,
      score["text"],
      f"{score['step']:,}",
      f"{score['pause_fraction']:g}",
      f"{score['seq_len']:,}",
      f"{score['nats_per_token']:.4f}",
      tables.compact(score["perplexity"]),
      f"{score['bits_per_byte']:.4f}",
      f"{score['num_tokens']:,}",
    ]
    for run in it.runs
    for score in run.text_scores
  ]
  if not body:
    return markup.join()
  head = ["run", "text", "step", "pause fraction", "window", "nats per token"]
  head += ["perplexity", "bits per byte", "tokens"]
  caption = "Plain text, scored by pausejax evaluate --text."
  return markup.html_table(caption, head, body)


def last_steps(it: Report) -> Html:
  """Returns the last training step of every run, and its speed."""
  body = [_training(c) for c in it.curves if c.rows]
  if not body:
    return tag("p", "No run has taken a step yet.", class_="missing")
  head = ["run", "step", "loss", "after text", "after pauses"]
  head += ["learning rate", "gradient norm", "tokens/s", "of peak", "skipped"]
  caption = (
    "The last step of metrics.jsonl; tokens per second and the fraction of "
    "the devices' peak (MFU) are medians over all rows."
  )
  notes = [
    tag("p", f"{c.run.id}: {c.num_unreadable:,} unreadable lines left out")
    for c in it.curves
    if c.num_unreadable
  ]
  return markup.join(markup.html_table(caption, head, body), *notes)


def machines(it: Report) -> Html:
  """Returns devices, versions and commit of every run."""
  if not it.runs:
    return tag("p", "No run has started yet.", class_="missing")
  body = [[run.id, *machine(run)] for run in it.runs]
  head = ["run", "devices", "commit", "versions"]
  caption = "From each run's newest checkpoint."
  return markup.html_table(caption, head, body, class_="configs")


def machine(run: StudyRun) -> list[str]:
  """Returns devices, commit and versions of a run, "unknown" if missing."""
  devices = run.meta.get("devices") or {}
  text = "unknown"
  if devices:
    text = f"{devices.get('count')} x {devices.get('kind')}"
    if devices.get("processes", 1) > 1:
      text += f", {devices['processes']} processes"
  versions = run.meta.get("versions") or {}
  spelled = ", ".join(f"{name} {v}" for name, v in versions.items())
  return [text, run.meta.get("commit") or "unknown", spelled or "unknown"]


def _held_out(curve: Curve) -> list[str]:
  rows = curve.evaluations
  if not rows:
    return []
  last = rows[-1]
  plain = "eval_loss_without_pauses"
  key = plain if plain in last else "eval_loss"
  finite = [r for r in rows if math.isfinite(float(r.get(key, "nan")))]
  best = min(finite, key=lambda r: float(r[key]), default=None)
  return [
    curve.run.id,
    f"{last['step']:,}",
    _number(last, "eval_loss"),
    _number(last, "eval_loss_after_real"),
    _number(last, "eval_loss_after_pause"),
    _number(last, "eval_perplexity", tables.compact),
    _number(last, plain),
    f"{float(best[key]):.4f} ({best['step']:,})" if best else "none is finite",
  ]


def _training(curve: Curve) -> list[str]:
  last = curve.rows[-1]
  planned = curve.run.config.get("num_steps")
  skipped = sum(row.get("skipped", 0) for row in curve.rows)
  return [
    curve.run.id,
    f"{last['step']:,}" + (f" of {planned:,}" if planned else ""),
    _number(last, "loss"),
    _number(last, "loss_after_real"),
    _number(last, "loss_after_pause"),
    _number(last, "learning_rate", "{:.3g}".format),
    _number(last, "grad_norm", "{:.3g}".format),
    _median(curve.rows, "tokens_per_second", lambda x: f"{x:,.0f}"),
    _median(curve.rows, "mfu", lambda x: f"{x:.1%}"),
    f"{skipped:,}",
  ]


def _number(
  row: dict[str, Any],
  key: str,
  show: Callable[[float], str] = "{:.4f}".format,
) -> str:
  """Returns a number of a row, also "nan" and "inf"; "" if missing."""
  return show(float(row[key])) if key in row else ""


def _median(rows: _Rows, key: str, show: Callable[[float], str]) -> str:
  values = [float(row[key]) for row in rows if key in row]
  values = [value for value in values if math.isfinite(value)]
  return show(statistics.median(values)) if values else ""
