"""Notes of a report on a model and its compiled program, one line each."""

import re

from pausejax.config import ModelConfig
from pausejax.preflight.estimated_step import EstimatedStep

_NO_KERNEL = (
  "attention is XLA's, without a kernel: splash attention needs rows of a "
  "multiple of 128 positions, one window for all layers (no "
  "model.global_every), no bidirectional prefix, and mesh.sequence=1"
)
_FLOAT32 = (
  "the model computes in float32; MFU and the attention kernels are those of "
  "bfloat16, in which TPUs are faster: --config.model.dtype=bfloat16"
)
_WINDOWED = re.compile(r"\bbody=%?[\w.\-]*windowed_dot_general")


def tpu_notes(
  config: ModelConfig,
  hlo_text: str,
  estimate: EstimatedStep | None,
  *,
  unit: int,
  tensor: int = 1,
) -> list[str]:
  """Returns the notes on a program for TPUs, one line each.

  Args:
    config: the model.
    hlo_text: the step as libtpu compiled it; "" if it did not.
    estimate: its times, if they were estimated.
    unit: rows and columns of the chip's matrix unit.
    tensor: devices over which heads are split.
  """
  has_kernel = not hlo_text or "splash" in hlo_text
  attention = "" if config.attention == "xla" else _NO_KERNEL
  if has_kernel:
    attention = _head_dim(config, estimate, unit, tensor)
  unrolled = _scanned(config) if hlo_text else ""  # Not if it does not fit.
  lines = [
    attention,
    _windowed(hlo_text, estimate),
    unrolled,
    _FLOAT32 if config.dtype == "float32" else "",
  ]
  return [line for line in lines if line]


def gpu_notes(config: ModelConfig, *, num_devices: int) -> list[str]:
  """Returns the notes on a program for GPUs, one line each.

  Args:
    config: the model.
    num_devices: number of GPUs; only one was measured.
  """
  wanted = {"scan_unroll": config.num_layers, "remat": "none"}
  words = [
    f"--config.model.{name}={value}"
    for name, value in wanted.items()
    if getattr(config, name) != value
  ]
  if num_devices > 1 or not words:
    return []
  return [
    f"faster on one GPU, if the memory suffices: {' '.join(words)} (on one "
    "H200 both gave 9% more tokens/s at 1B and 15% at 130M than the defaults: "
    "docs/scaling.md)"
  ]


def _head_dim(
  config: ModelConfig, estimate: EstimatedStep | None, unit: int, tensor: int
) -> str:
  """Returns the note on head_dim, "" if it is a multiple of the unit."""
  size = config.head_dim
  padded = -(-size // unit) * unit
  if size == padded:
    return ""
  line = (
    f"model.head_dim={size} is padded to {padded} in the attention kernels on "
    f"this TPU, which wastes {1 - size / padded:.0%} of their arithmetic"
  )
  heads, kv_heads = (
    n * size / padded for n in (config.num_heads, config.num_kv_heads)
  )
  if heads % tensor or kv_heads % tensor:
    return line
  words = (
    f"--config.model.head_dim={padded} --config.model.num_heads={heads:g} "
    f"--config.model.num_kv_heads={kv_heads:g}"
  )
  line += f". The same parameters without padding: {words}"
  if estimate is None or not estimate.times.attention_seconds:
    return line
  now, share = estimate.times, size / padded
  saved = (1 - share) * now.attention_seconds
  return (
    f"{line}; estimated: attention kernels "
    f"{1e3 * share * now.attention_seconds:,.2f} ms in place of "
    f"{1e3 * now.attention_seconds:,.2f}, the computation of a step at most "
    f"{1e3 * (now.computing_seconds - saved):,.2f} ms in place of "
    f"{1e3 * now.computing_seconds:,.2f} (a different model: compare the "
    "losses)"
  )


def _windowed(hlo_text: str, estimate: EstimatedStep | None) -> str:
  """Returns the note on windowed einsum loops, "" if there are none."""
  count = len(_WINDOWED.findall(hlo_text))
  if not count:
    return ""
  line = (
    f"{count} windowed einsum loops: products that gather their weights piece "
    "by piece"
  )
  if estimate is not None:
    seconds = estimate.times.windowed_seconds
    share = seconds / estimate.times.computing_seconds
    line += f", {1e3 * seconds:,.2f} ms ({share:.0%} of the computation)"
  return (
    f"{line}; libtpu's option xla_jf_spmd_threshold_for_windowed_einsum_mib, "
    "raised, gathers them at once"
  )


def _scanned(config: ModelConfig) -> str:
  """Returns the note on layers in a loop, "" if all are unrolled."""
  if config.scan_unroll >= config.num_layers:
    return ""
  return (
    "estimated to be faster, for minutes of compilation and some memory: "
    f"--config.model.scan_unroll={config.num_layers} (on v5e 5% less "
    "computation at 1B and 10% at 130M: docs/scaling.md)"
  )
