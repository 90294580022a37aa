"""The report of an estimate, as text and as plain values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pausejax.preflight.estimate import KERNEL_EFFICIENCY, Estimate, Operation
from pausejax.runtime.chips import Chip

_NUM_DEAREST = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatedStep:
  """An estimate, and the work that the step does in this time.

  Attributes:
    times: the estimate for one device.
    chip: the device.
    num_devices: number of devices.
    tokens_per_step: of the global batch.
    flops_per_token: with causal attention at half the square.
    whole_flops_per_token: with attention over the whole square.
  """

  times: Estimate
  chip: Chip
  num_devices: int
  tokens_per_step: int
  flops_per_token: float
  whole_flops_per_token: float

  def utilizations(self, seconds: float) -> dict[str, float]:
    """Returns the MFU of a step that takes this time, by convention.

    Keys: "causal" counts attention at half the square, "whole" at the whole
    square as nanochat and llm-foundry do, both of the peak of the data sheet;
    "causal_calibrated" is of the rate of a plain product in the cost model.
    """
    assert self.chip.cost_model is not None
    work = self.tokens_per_step / self.num_devices / seconds
    peak = self.chip.peak_flops
    causal = work * self.flops_per_token / peak
    return {
      "causal": causal,
      "whole": work * self.whole_flops_per_token / peak,
      "causal_calibrated": causal / self.chip.cost_model.product_share,
    }

  def as_data(self) -> dict[str, Any]:
    """Returns it as plain values, for JSON."""
    overlapped, serial = self.times.bounds
    return {
      **dataclasses.asdict(self.times),
      "dearest": [
        dataclasses.asdict(one) for one in self.times.dearest[:_NUM_DEAREST]
      ],
      "step_seconds": overlapped,
      "step_seconds_without_overlap": serial,
      "tokens_per_second": self.tokens_per_step / overlapped,
      "mfu": self.utilizations(overlapped),
      "mfu_without_overlap": self.utilizations(serial),
      "cost_model": dataclasses.asdict(self.chip)["cost_model"],
      "kernel_efficiency": KERNEL_EFFICIENCY,
    }


def estimate_lines(step: EstimatedStep) -> list[str]:
  """Returns the lines of the report."""
  lines = ["estimated time of a step, by libtpu's cost model (not measured)"]
  lines += [*_parts(step.times), *_totals(step), ""]
  lines += _dearest(step.times.dearest[:_NUM_DEAREST])
  return [*lines, "", *_assumptions(step)]


def _parts(times: Estimate) -> list[str]:
  total = times.computing_seconds
  unpriced = ", ".join(f"{k} {n}" for k, n in times.num_unpriced.items())
  rows = [
    ("matrix products", times.product_seconds, ""),
    ("attention kernels", times.attention_seconds, "modelled"),
    ("other operations", times.other_seconds, ""),
    ("without an estimate", times.unpriced_seconds, unpriced),
  ]
  lines = [
    f"  {name:20}{_ms(seconds)} ms {seconds / total:6.1%}  {note}".rstrip()
    for name, seconds, note in rows
  ]
  each = ", ".join(
    f"{kind} {1e3 * seconds:.1f}"
    for kind, seconds in times.collective_seconds.items()
  )
  links = sum(times.collective_seconds.values())
  return [
    *lines,
    f"  {'collectives':20}{_ms(links)} ms         {each}".rstrip(),
  ]


def _totals(step: EstimatedStep) -> list[str]:
  overlapped, serial = step.times.bounds
  rows = {
    "collectives overlapped": overlapped,
    "collectives not overlapped": serial,
  }
  if serial == overlapped:
    rows = {"one device": serial}
  lines = [
    f"  {'':27}       ms     tokens/s   MFU causal   whole square   of products"
  ]
  for name, seconds in rows.items():
    mfu = step.utilizations(seconds)
    rate = step.tokens_per_step / seconds
    lines.append(
      f"  {name:27}{_ms(seconds)}  {rate:11,.0f}   {mfu['causal']:10.1%}"
      f"   {mfu['whole']:12.1%}   {mfu['causal_calibrated']:11.1%}"
    )
  return lines


def _dearest(operations: Sequence[Operation]) -> list[str]:
  lines = ["dearest operations outside the products", "        ms  times"]
  for one in operations:
    where = one.where or "no source line"
    lines.append(f"  {_ms(one.seconds)}  {one.count:5,}  {one.name}  {where}")
  return lines


def _assumptions(step: EstimatedStep) -> list[str]:
  rates = step.chip.cost_model
  assert rates is not None
  peak = step.chip.peak_flops / 1e12
  lines = [
    "assumptions",
    f"  clock {rates.clock / 1e9:.3f} GHz; memory "
    f"{rates.hbm_bandwidth / 1e9:,.0f} GB/s; links to other chips "
    f"{rates.ici_bandwidth / 1e9:,.0f} GB/s sent, all of them in use",
    f"  attention kernels at {KERNEL_EFFICIENCY:.0%} of the peak, head_dim "
    f"padded to {rates.matrix_unit}, keys that a query sees only",
    "  instructions without an estimate: operands and results once through "
    "memory",
    f"  copies between memories, {1e3 * step.times.copy_seconds:.1f} ms, "
    "overlap with the computation",
    f"  calibration: a plain bfloat16 product of 8192 x 8192 gets "
    f"{rates.product_share:.1%} of the peak {peak:,.0f} TFLOP/s in this model",
    "  MFU: causal attention at half the square, and the whole square (as "
    "nanochat and llm-foundry count), of the peak; causal, of the product rate",
  ]
  if step.times.far_bytes:
    lines.append(
      f"  not counted: {step.times.far_bytes / 1e9:.2f} GB sent between "
      "slices, whose bandwidth is not published for this chip"
    )
  if step.times.num_uncounted:
    lines.append(
      f"  at least: {step.times.num_uncounted} loops of unknown trip count "
      "are counted once"
    )
  return lines


def _ms(seconds: float) -> str:
  return f"{1e3 * seconds:9,.{2 if seconds < 1 else 0}f}"
