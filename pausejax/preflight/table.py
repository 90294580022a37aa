"""What a preflight found, as text."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from pausejax.preflight.remedies import Remedy
  from pausejax.training import ahead

_GIB = 2**30
_UTILISATIONS = (0.4, 0.5, 0.6)
_TOKENS = 200e9  # Goyal et al. (2024) train on so many.
_DAY = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preflight:
  """One run on one topology; bytes are of one device.

  Attributes:
    topology: its name.
    compiler: the target's, with its version; "" where the CPU's estimates.
    device_kind: what the devices call themselves.
    num_devices: over all slices.
    num_slices: joined by the data-center network.
    mesh: axis -> devices along it.
    num_parameters: of the model.
    state_bytes: parameters, optimizer moments, counters.
    needed_bytes: at the worst moment of a step.
    available_bytes: that a step may use.
    batch_size: rows of the run's global batch.
    largest_batch: rows that would fit; 0 if not even the smallest batch does.
    verdicts: what the compiler said of which batch size.
    collectives: kind -> count, bytes, and far_bytes between slices (TPU) or
      hosts (GPU), a step; empty where the step was refused.
    num_uncounted: collectives in loops whose length the compiler's text does
      not tell, which count once.
    remedies: what to change where it does not fit, best first.
    tokens_per_step: pauses among them.
    flops_per_token: forward and backward pass, without rematerialisation.
    peak_flops: of a device, dense bfloat16.
    num_steps: of the run.
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

  @property
  def fits(self) -> bool:
    """Whether a device has what a step needs."""
    return self.needed_bytes <= self.available_bytes

  def step_seconds(self, utilisation: float) -> float:
    """Returns the time of a step at a fraction of the peak rate."""
    rate = utilisation * self.peak_flops * self.num_devices
    return self.tokens_per_step * self.flops_per_token / rate


def verdict_line(verdict: "ahead.Verdict", change: str = "") -> str:
  """Returns what the compiler said of one batch size, or of a change."""
  said = "refused" if verdict.is_refused else "compiled"
  what = f"with {change}" if change else f"batch {verdict.batch_size:,}"
  return (
    f"  {what}: {said}, needs "
    f"{_gib(verdict.needed_bytes)} a device ({verdict.seconds:.0f} s)"
  )


def as_data(verdict: "ahead.Verdict") -> dict[str, Any]:
  """Returns a verdict without the program that it is about."""
  return {
    "batch_size": verdict.batch_size,
    "needed_bytes": verdict.needed_bytes,
    "refused": verdict.is_refused,
    "seconds": round(verdict.seconds, 1),
  }


def text(found: Preflight) -> str:
  """Returns the whole report."""
  parts = [_machine(found), _memory(found), _collectives(found), _times(found)]
  parts.append([_conclusion(found)])
  return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _machine(found: Preflight) -> list[str]:
  slices = f" in {found.num_slices} slices" if found.num_slices > 1 else ""
  mesh = " x ".join(f"{axis} {n}" for axis, n in found.mesh.items())
  return [
    "",
    f"devices     {found.num_devices} x {found.device_kind}{slices}",
    f"mesh        {mesh}",
    f"parameters  {found.num_parameters:,}",
  ]


def _memory(found: Preflight) -> list[str]:
  room = found.available_bytes - found.needed_bytes
  share = room / found.available_bytes
  needed = "at its peak" if found.compiler else "at most"
  rows = {
    "state": _gib(found.state_bytes),
    f"the step {needed}": _gib(found.needed_bytes),
    "available": _gib(found.available_bytes),
    "headroom": f"{_gib(room)}  ({share:.0%})",
  }
  lines = ["memory of a device, with the state in it"]
  lines += [f"  {name:22}{value}" for name, value in rows.items()]
  return [*lines, f"largest batch that fits: {_largest(found)}"]


def _largest(found: Preflight) -> str:
  if not found.largest_batch:
    return "none"
  rows = found.largest_batch
  exact = {v["batch_size"] for v in found.verdicts if not v["refused"]}
  a, b = found.verdicts[0], found.verdicts[-1]
  how = f"on the line through {a['batch_size']:,} and {b['batch_size']:,}"
  if not exact:
    how = f"an estimate, {how}, which do not fit"
  if rows in exact:
    how = "compiled"
  bound = "" if found.compiler else "at least "
  return f"{bound}{rows:,} rows ({how})"


def _collectives(found: Preflight) -> list[str]:
  if not found.collectives:
    return []
  where = "slices" if found.num_slices > 1 else "hosts"
  lines = ["collectives of a step      times         GB"]
  for kind, row in found.collectives.items():
    far = row["far_bytes"] / 1e9
    between = f"   {far:.2f} of it between {where}" if far else ""
    size = row["bytes"] / 1e9
    lines.append(f"  {kind:20}{row['count']:10,}{size:11.2f}{between}")
  lines.append("  (sizes of the whole arrays, as each device sees them)")
  if found.num_uncounted:
    lines.append(
      f"  (at least: {found.num_uncounted} stand in loops of unknown length, "
      "counted as one turn)"
    )
  return lines


def _times(found: Preflight) -> list[str]:
  all_steps = f"{found.num_steps:,} steps"
  lines = [
    f"{found.tokens_per_step:,} tokens a step, "
    f"{found.flops_per_token / 1e9:.2f} GFLOP a token; of the stated "
    f"{found.peak_flops / 1e12:,.0f} TFLOP/s a device",
    f"   MFU     s a step     tokens/s   days for 200B   days for {all_steps}",
  ]
  for utilisation in _UTILISATIONS:
    seconds = found.step_seconds(utilisation)
    rate = found.tokens_per_step / seconds
    days = _TOKENS / rate / _DAY
    run = found.num_steps * seconds / _DAY
    lines.append(
      f"  {utilisation:4.0%}  {seconds:11.3f}  {rate:11,.0f}  {days:14.2f}"
      f"  {run:{len(all_steps) + 9}.2f}"
    )
  return lines


def _conclusion(found: Preflight) -> str:
  if found.fits:
    return f"It fits {found.topology}."
  short = found.needed_bytes - found.available_bytes
  doubt = (
    " An upper bound: the target's own compiler may do better."
    if not found.compiler and found.state_bytes < found.available_bytes
    else ""
  )
  return (
    f"It does not fit {found.topology}: the step needs "
    f"{_gib(found.needed_bytes)} a device and {_gib(found.available_bytes)} "
    f"are there, {_gib(short)} too few. {_advice(found)}{doubt}"
  )


def _advice(found: Preflight) -> str:
  """Returns what to change, and what of it the compiler has accepted."""
  checked = [
    f"add {r.words} (needs {_gib(r.needed_bytes)}: it fits)"
    for r in found.remedies
    if r.needed_bytes
  ]
  others = [r.words for r in found.remedies if not r.needed_bytes]
  if not checked:
    checked = ["no other mesh, remat, microbatch or batch size tried here fits"]
  others.append("more devices")
  return f"Change: {checked[0]}; not checked: {', or '.join(others)}."


def _gib(num_bytes: float) -> str:
  return f"{num_bytes / _GIB:.2f} GiB"
