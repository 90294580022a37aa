"""The report of an estimate, as text."""

from collections.abc import Sequence

from pausejax.preflight.attention_kernels import KERNEL_EFFICIENCY
from pausejax.preflight.estimate import Estimate, Operation
from pausejax.preflight.estimated_step import NUM_DEAREST, EstimatedStep


def estimate_lines(step: EstimatedStep) -> list[str]:
  """Returns the lines of the report."""
  lines = ["estimated time of a step, by libtpu's cost model (not measured)"]
  lines += [*_parts(step.times), *_totals(step), ""]
  lines += _most_expensive(step.times.dearest[:NUM_DEAREST])
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
    f"{kind} {1e3 * seconds:.3g}"
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
    f"  {'':33}  ms     tokens/s   MFU causal   whole square   of products"
  ]
  for name, seconds in rows.items():
    mfu = step.utilizations(seconds)
    rate = step.tokens_per_step / seconds
    lines.append(
      f"  {name:27}{_ms(seconds)}  {rate:11,.0f}   {mfu['causal']:10.1%}"
      f"   {mfu['whole']:12.1%}   {mfu['causal_calibrated']:11.1%}"
    )
  return lines


def _most_expensive(operations: Sequence[Operation]) -> list[str]:
  lines = [
    "most expensive operations outside the products",
    "         ms  times",
  ]
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
    f"  attention kernels at {KERNEL_EFFICIENCY:.1%} of the peak, head_dim "
    f"padded to {rates.matrix_unit}, whole blocks of queries and keys",
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
  return f"{1e3 * seconds:10,.3f}"
