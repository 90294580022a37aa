"""Small programs in HLO, and their estimated times."""

from pausejax.preflight import collectives, estimate
from pausejax.preflight.estimate_report import estimate_lines
from pausejax.preflight.estimated_step import EstimatedStep
from pausejax.runtime import chips

V5E = chips.CHIPS["v5e"]
CYCLE = 1 / V5E.cost_model.clock


def cycles(number):
  return f'backend_config={{"window_config":{{"estimated_cycles":"{number}"}}}}'


PRODUCT = """
%fused_product (a: bf16[8,8], b: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  ROOT %c = bf16[8,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%fused_sum (a: bf16[8,8], b: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  ROOT %c = bf16[8,8]{1,0} add(%a, %b)
}
"""


def program(lines, computations="", tables=""):
  """Returns a module whose entry has these lines, and two fusions to call."""
  body = "\n".join(f"  {line}" for line in lines)
  return (
    f"HloModule m\n{tables}\n{PRODUCT}\n{computations}\n"
    "ENTRY %main (x: bf16[8,8]) -> bf16[8,8] {\n"
    f"  %x = bf16[8,8]{{1,0}} parameter(0)\n{body}\n"
    "  ROOT %r = bf16[8,8]{1,0} copy(%x), "
    f"{cycles(1)}\n}}\n"
  )


def fusion(name, of, number, metadata=""):
  note = f", metadata={{{metadata}}}" if metadata else ""
  return (
    f"%{name} = bf16[8,8]{{1,0}} fusion(%x, %x), kind=kOutput, "
    f"calls=%{of}{note}, {cycles(number)}"
  )


def priced(text, **kwargs):
  return estimate.estimate(
    text,
    V5E,
    collectives=collectives.collectives(text),
    **kwargs,
  )


def estimated_step(found, chip=V5E) -> EstimatedStep:
  return EstimatedStep(
    times=found,
    chip=chip,
    num_devices=4,
    tokens_per_step=4000,
    flops_per_token=8e9,
    whole_flops_per_token=9e9,
  )


def report(found, chip=V5E) -> str:
  return "\n".join(estimate_lines(estimated_step(found, chip)))
