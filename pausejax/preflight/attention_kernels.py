"""The time of splash attention kernels, which the compiler does not estimate.

Their FLOPs follow from their shapes: the blocks of queries and keys that the
mask does not exclude whole, and head_dim padded to the matrix unit. B batch, N
query heads, K kv heads, T query tokens, S key tokens, H head_dim.
"""

import math
from collections.abc import Mapping

from pausejax.preflight import hlo
from pausejax.runtime.chips import Chip

# Assumed share of the peak, of the FLOPs of whole blocks with a padded
# head_dim. With blocks of 512 and causal rows of 2,048, this is 50% of the
# FLOPs of the keys that a query sees. Not measured on a device.
KERNEL_EFFICIENCY = 0.625

_BLOCK = 512  # If the kernel does not say.

TARGET = r'custom_call_target="([^"]+)"'

_FLOATS = ("bf16", "f16", "f32")


def attention_seconds(
  one: hlo.Instruction,
  scope: Mapping[str, hlo.Instruction],
  chip: Chip,
  window: int,
) -> float | None:
  """Returns the time of one execution; None if it is no such kernel.

  Args:
    one: an instruction.
    scope: name -> instruction, of its computation.
    chip: the device.
    window: keys that a query sees, from itself backwards; 0: all.
  """
  products = _num_products(one)
  if not products:
    return None
  # The first floating-point operands are queries, keys and values.
  shapes = [
    shape
    for name in one.operands
    if name in scope
    for dtype, shape in hlo.array_shapes(scope[name].type)
    if dtype in _FLOATS
  ]
  if len(shapes) < 2 or min(map(len, shapes[:2])) < 3:
    return None
  (*batch_BN, num_T, size_H), (*_, num_S, _) = (
    _head_dim_last(shape, one, name)
    for name, shape in zip("qk", shapes, strict=False)
  )
  assert chip.cost_model is not None
  unit = chip.cost_model.matrix_unit
  padded = -(-size_H // unit) * unit
  flops_per_product = 2 * math.prod(batch_BN) * num_T * num_S * padded
  share = _share_of_blocks(num_T, *_block_sizes(one), window)
  flops = products * share * flops_per_product
  return flops / (KERNEL_EFFICIENCY * chip.peak_flops)


def _block_sizes(one: hlo.Instruction) -> tuple[int, int]:
  """Returns (queries, keys) of a block, as JAX's kernel records them."""
  kind = next((k for k in ("_dkv", "_dq") if k in one.name), "")
  found = (
    one.attribute(rf'block_{axis}{kind}\\": (\d+)') for axis in ("q", "kv")
  )
  queries, keys = (int(size or _BLOCK) for size in found)
  return queries, keys


def _share_of_blocks(num_T: int, num_q: int, num_kv: int, window: int) -> float:
  """Returns what a causal kernel computes of the square of T x T.

  Args:
    num_T: tokens of a row.
    num_q: queries of a block.
    num_kv: keys of a block.
    window: as in `attention_seconds`.
  """
  num_q, num_kv, count = min(num_q, num_T), min(num_kv, num_T), 0
  for first in range(0, num_T, num_q):
    first_key = max(first - window + 1, 0) if window else 0
    last_key = first + num_q - 1
    count += last_key // num_kv - first_key // num_kv + 1
  return count * num_q * num_kv / num_T**2


def _head_dim_last(
  shape: tuple[int, ...], one: hlo.Instruction, name: str
) -> tuple[int, ...]:
  """Returns the shape of "q" or "k" as [B, N, T, H]; some kernels swap T, H."""
  is_swapped = rf"{name}_layout\": 2" in one.rest
  return (*shape[:-2], *shape[:-3:-1]) if is_swapped else shape


def _num_products(one: hlo.Instruction) -> int:
  """Returns the matrix products of a splash attention kernel, or 0."""
  name = one.name + (one.attribute(r'op_name="([^"]+)"') or "")
  if one.attribute(TARGET) != "tpu_custom_call" or "splash" not in name:
    return 0
  if "_dkv" in one.name:  # With the gradients of the queries, if fused.
    is_fused = r"use_fused_bwd_kernel\": true" in one.rest
    return 5 if is_fused else 4
  return 3 if "_dq" in one.name else 2
