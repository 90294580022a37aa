"""The report of a preflight, as text.

Columns of numbers end on the right and fit any terminal, with prose between
them: format strings say so directly, without `runtime/tables.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pausejax.preflight.estimate_report import estimate_lines
from pausejax.preflight.estimated_step import EstimatedStep
from pausejax.preflight.interruptions import (
  Checkpoint,
  Interruptions,
  checkpoint_lines,
  goodput_lines,
)

if TYPE_CHECKING:
  from pausejax.preflight.remedies import Remedy
  from pausejax.training import ahead

_GIB = 2**30
_UTILIZATIONS = (0.4, 0.5, 0.6)
_TOKENS = 200e9  # Training tokens of Goyal et al. (2024).
_DAY = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
  """One run on one topology; bytes are of one device.

  Attributes:
    topology: its name.
    compiler: the target's compiler and version; "" for an estimate by the CPU
      compiler.
    device_kind: device kind as JAX reports it.
    num_devices: number of devices over all slices.
    num_slices: number of slices, connected by the data-center network.
    mesh: axis -> devices along it.
    num_parameters: parameters of the model.
    state_bytes: parameters, optimizer moments, counters.
    needed_bytes: peak memory of a step.
    available_bytes: memory that a step may use.
    batch_size: rows of the run's global batch.
    largest_batch: largest batch that fits, in rows; 0 if none does.
    verdicts: the compiler's result for each batch size.
    collectives: kind -> count, bytes, and far_bytes between slices (TPU) or
      hosts (GPU), per step; empty if the compiler rejected the step.
    num_uncounted: collectives in loops of unknown trip count, which count once.
    remedies: changes that may make it fit, best first.
    tokens_per_step: including pauses.
    flops_per_token: forward and backward pass, without rematerialization.
    peak_flops: peak of a device, dense bfloat16.
    num_steps: steps of the run.
    estimate: estimated time of a step; None if not asked for, or if the
      compiler refused the step.
    checkpoint: the size of a checkpoint.
    interruptions: how often the run is interrupted; None if not given.
    notes: one line each.
  """

  topology: str
  compiler: str
  device_kind: str
  num_devices: int
  num_slices: int
  mesh: dict[str, int]
  num_parameters: int
  state_bytes: int
  needed_bytes: int
  available_bytes: int
  batch_size: int
  largest_batch: int
  verdicts: list[dict[str, Any]]
  collectives: dict[str, dict[str, int]]
  num_uncounted: int = 0
  remedies: Sequence["Remedy"] = ()
  tokens_per_step: int
  flops_per_token: float
  peak_flops: float
  num_steps: int
  estimate: EstimatedStep | None = None
  checkpoint: Checkpoint
  interruptions: Interruptions | None = None
  notes: Sequence[str] = ()

  @property
  def fits(self) -> bool:
    """Whether a step fits in the memory of a device."""
    return self.needed_bytes <= self.available_bytes

  def step_seconds(self, utilization: float) -> float:
    """Returns the time of a step at a fraction of the peak rate."""
    rate = utilization * self.peak_flops * self.num_devices
    return self.tokens_per_step * self.flops_per_token / rate


def report_data(preflight: Preflight) -> dict[str, Any]:
  """Returns the report as plain values."""
  estimate = preflight.estimate and preflight.estimate.as_data()
  data = {**dataclasses.asdict(preflight), "estimate": estimate}
  if times := preflight.interruptions:
    data["goodput"] = {
      "stopped_by_sigterm": times.goodput_with_notice,
      "killed_without_notice": times.goodput(preflight.checkpoint.every),
    }
  return data


def verdict_line(verdict: "ahead.Verdict", change: str = "") -> str:
  """Returns the compiler's result for one batch size or one change."""
  state = "refused" if verdict.is_refused else "compiled"
  what = f"with {change}" if change else f"batch {verdict.batch_size:,}"
  return (
    f"  {what}: {state}, needs "
    f"{_gib(verdict.needed_bytes)} per device ({verdict.seconds:.0f} s)"
  )


def as_data(verdict: "ahead.Verdict") -> dict[str, Any]:
  """Returns a verdict as plain values, without its program."""
  return {
    "batch_size": verdict.batch_size,
    "needed_bytes": verdict.needed_bytes,
    "refused": verdict.is_refused,
    "seconds": round(verdict.seconds, 1),
  }


def report_text(preflight: Preflight) -> str:
  """Returns the whole report."""
  parts = [
    _machine(preflight),
    _memory(preflight),
    checkpoint_lines(preflight.checkpoint),
    _collectives(preflight),
    _times(preflight),
    estimate_lines(preflight.estimate) if preflight.estimate else [],
    _goodput(preflight),
    [f"note: {note}" for note in preflight.notes],
  ]
  parts.append([_conclusion(preflight)])
  return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _machine(preflight: Preflight) -> list[str]:
  slices = (
    f" in {preflight.num_slices} slices" if preflight.num_slices > 1 else ""
  )
  mesh = " x ".join(f"{axis} {n}" for axis, n in preflight.mesh.items())
  return [
    "",
    f"devices     {preflight.num_devices} x {preflight.device_kind}{slices}",
    f"mesh        {mesh}",
    f"parameters  {preflight.num_parameters:,}",
  ]


def _memory(preflight: Preflight) -> list[str]:
  headroom = preflight.available_bytes - preflight.needed_bytes
  share = headroom / preflight.available_bytes
  needed = "at its peak" if preflight.compiler else "at most"
  rows = {
    "state": _gib(preflight.state_bytes),
    f"the step {needed}": _gib(preflight.needed_bytes),
    "available": _gib(preflight.available_bytes),
    "headroom": f"{_gib(headroom)}  ({share:.0%})",
  }
  lines = ["memory of a device, including the state"]
  lines += [f"  {name:22}{value}" for name, value in rows.items()]
  return [*lines, f"largest batch that fits: {_largest(preflight)}"]


def _largest(preflight: Preflight) -> str:
  if not preflight.largest_batch:
    return "none"
  rows = preflight.largest_batch
  exact = {v["batch_size"] for v in preflight.verdicts if not v["refused"]}
  a, b = preflight.verdicts[0], preflight.verdicts[-1]
  how = f"on the line through {a['batch_size']:,} and {b['batch_size']:,}"
  if not exact:
    how = f"an estimate, {how}, which do not fit"
  if rows in exact:
    how = "compiled; a few more may fit"
  bound = "" if preflight.compiler else "at least "
  return f"{bound}{rows:,} rows ({how})"


def _collectives(preflight: Preflight) -> list[str]:
  if not preflight.collectives:
    return []
  where = "slices" if preflight.num_slices > 1 else "hosts"
  most = max(row["bytes"] for row in preflight.collectives.values())
  scale, prefix = _prefix(most)
  lines = [f"collectives of a step      times{prefix + 'B':>11}"]
  for kind, row in preflight.collectives.items():
    far = row["far_bytes"] / scale
    between = f"   {far:.2f} of it between {where}" if far else ""
    size = row["bytes"] / scale
    lines.append(f"  {kind:20}{row['count']:10,}{size:11.2f}{between}")
  lines.append("  (sizes of the full arrays of each device)")
  if preflight.num_uncounted:
    lines.append(
      f"  (at least: {preflight.num_uncounted} are in loops of unknown trip "
      "count, counted once)"
    )
  return lines


def _times(preflight: Preflight) -> list[str]:
  all_steps = f"{preflight.num_steps:,} steps"
  scale, prefix = _prefix(preflight.flops_per_token)
  lines = [
    f"{preflight.tokens_per_step:,} tokens per step, "
    f"{preflight.flops_per_token / scale:.2f} {prefix}FLOP per token; of the "
    f"peak {preflight.peak_flops / 1e12:,.0f} TFLOP/s per device",
    f"   MFU     s a step     tokens/s   days for 200B   days for {all_steps}",
  ]
  for utilization in _UTILIZATIONS:
    seconds = preflight.step_seconds(utilization)
    rate = preflight.tokens_per_step / seconds
    days = _TOKENS / rate / _DAY
    run = preflight.num_steps * seconds / _DAY
    lines.append(
      f"  {utilization:4.0%}  {_decimals(seconds, 3):>11}  {rate:11,.0f}"
      f"  {_decimals(days, 2):>14}  {_decimals(run, 2):>{len(all_steps) + 9}}"
    )
  return lines


def _goodput(preflight: Preflight) -> list[str]:
  if preflight.interruptions is None:
    return []
  return goodput_lines(preflight.interruptions, preflight.checkpoint)


def _prefix(value: float) -> tuple[float, str]:
  """Returns (1e9, "G"), or a smaller unit that does not show 0.00."""
  units = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
  return next(((s, p) for s, p in units if value >= 0.1 * s), (1.0, ""))


def _decimals(value: float, digits: int) -> str:
  """Returns a number with some decimals, with an exponent if all are 0."""
  is_small = 0 < value < 10.0**-digits
  return f"{value:.1e}" if is_small else f"{value:.{digits}f}"


def _conclusion(preflight: Preflight) -> str:
  if preflight.fits:
    return f"It fits {preflight.topology}."
  short = preflight.needed_bytes - preflight.available_bytes
  doubt = (
    " An upper bound: the target's own compiler may need less."
    if not preflight.compiler
    and preflight.state_bytes < preflight.available_bytes
    else ""
  )
  return (
    f"It does not fit {preflight.topology}: the step needs "
    f"{_gib(preflight.needed_bytes)} per device and "
    f"{_gib(preflight.available_bytes)} are available, {_gib(short)} "
    f"too few. {_advice(preflight)}{doubt}"
  )


def _advice(preflight: Preflight) -> str:
  """Returns the suggested changes, and which one the compiler accepted."""
  checked = [
    f"add {r.words} (needs {_gib(r.needed_bytes)}: it fits)"
    for r in preflight.remedies
    if r.needed_bytes
  ]
  others = [r.words for r in preflight.remedies if not r.needed_bytes]
  if not checked:
    checked = ["no other mesh, remat, microbatch or batch size tried here fits"]
  others.append("more devices")
  return f"Change: {checked[0]}; not checked: {', or '.join(others)}."


def _gib(num_bytes: float) -> str:
  """Returns a number of bytes in GiB, in a smaller unit below 0.1 GiB."""
  units = ((_GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
  for scale, unit in units:
    if abs(num_bytes) >= 0.1 * scale:
      return f"{num_bytes / scale:.2f} {unit}"
  return f"{num_bytes:.0f} bytes"
