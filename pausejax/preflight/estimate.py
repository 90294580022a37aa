"""Estimates the time of a compiled TPU step from libtpu's own cost model.

libtpu writes `estimated_cycles` beside nearly every instruction of a compiled
program. Their sum along the program, loops multiplied by their trip counts, is
the time in which one device computes a step. Added to it:

  attention kernels  carry no estimate. Their FLOPs follow from their shapes,
                     in whole blocks, with head_dim padded to the matrix unit;
                     they are assumed to run at a share of the peak.
  the rest           (gathers, scatters, sorts) takes the time in which its
                     operands and results pass through the memory, once each.
  collectives        take the bytes that a device sends, over the bandwidth of
                     all its links. Whether they overlap with the computation
                     is not known: both bounds are given.

Copies between the memories of a chip ("-start") overlap with the computation
and are reported separately. A conditional counts as its slowest branch.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence

from pausejax import errors
from pausejax.preflight import hlo
from pausejax.preflight.attention_kernels import TARGET, attention_seconds
from pausejax.preflight.collectives import KINDS, Collective
from pausejax.preflight.links import seconds_on_links
from pausejax.runtime.chips import Chip

_CYCLES = re.compile(r'"estimated_cycles":"?([1-9]\d*)')
_FREE = (
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "domain"),
  *("opt-barrier", "optimization-barrier", "add-dependency", "after-all"),
  *("partition-id", "replica-id", "recv"),
)
_FREE_TARGETS = (
  *("AllocateBuffer", "ConcatBitcast"),
  *("Sharding", "AssumeGatherIndicesInBound"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
  """An instruction of the compiled step, outside of its collectives.

  Attributes:
    kind: "product", "attention", "other", "unpriced" (no estimate: the time of
      its bytes) or "copy" (between memories, overlapped).
    name: its name in the compiled program; of a custom call, what it calls.
    type: dtype, shape and layout of its result, as in HLO.
    where: pass, source line and function that it comes from, as far as known.
    count: number of times it runs in a step.
    seconds: of all of them together.
    loop: name of the body of the innermost loop around it; "" outside of loops.
  """

  kind: str
  name: str
  type: str
  where: str
  count: int
  seconds: float
  loop: str

  @property
  def label(self) -> str:
    """Its name without its number."""
    return re.sub(r"[.\d]+$", "", self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Estimated times of a step on one device, in seconds.

  Attributes:
    product_seconds: matrix products, fused with what libtpu fuses into them.
    attention_seconds: Mosaic attention kernels, modelled.
    other_seconds: everything else with an estimate.
    unpriced_seconds: instructions without one, by their bytes.
    num_unpriced: name -> number of these instructions.
    windowed_seconds: of all these, in windowed einsum loops, which gather the
      weights of a product piece by piece.
    copy_seconds: copies between memories, not part of the step's time.
    collective_seconds: kind -> time of its bytes on the links.
    far_bytes: bytes sent between slices if their bandwidth is not known; not in
      `collective_seconds`.
    num_uncounted: loops of unknown trip count, which count once.
    dearest: operations outside the products, the most expensive first.
  """

  product_seconds: float
  attention_seconds: float
  other_seconds: float
  unpriced_seconds: float
  num_unpriced: dict[str, int]
  windowed_seconds: float
  copy_seconds: float
  collective_seconds: dict[str, float]
  far_bytes: float
  num_uncounted: int
  dearest: list[Operation]

  @property
  def computing_seconds(self) -> float:
    """The time of a step without its collectives."""
    return (
      self.product_seconds
      + self.attention_seconds
      + self.other_seconds
      + self.unpriced_seconds
    )

  @property
  def bounds(self) -> tuple[float, float]:
    """Seconds of a step, collectives overlapped and not overlapped."""
    links = sum(self.collective_seconds.values())
    return max(self.computing_seconds, links), self.computing_seconds + links


def require_cost_model(name: str, chip: Chip, compiler: str) -> None:
  """Checks that the step of a topology can be estimated.

  Args:
    name: of the topology.
    chip: its chip.
    compiler: the target's compiler; "" if it is not installed.
  """
  errors.require(
    chip.kind.startswith("TPU"),
    f"--estimate: it needs libtpu's cost model, and {name} is no TPU; omit it",
  )
  errors.require(
    chip.cost_model is not None,
    f"--estimate: the cost model of {chip.kind} is not calibrated; known: v4, "
    "v5e, v5p, v6e",
  )
  if not compiler:
    raise errors.UserError(
      "--estimate: libtpu is not installed: make env EXTRA=tpu, or pip install "
      "'.[tpu]' in the clone"
    )


def estimate(
  hlo_text: str,
  chip: Chip,
  *,
  window: int = 0,
  collectives: Iterable[Collective] = (),
  slices: Sequence[int] = (0,),
) -> Estimate:
  """Returns the estimate for one device.

  Args:
    hlo_text: the optimized program, as libtpu prints it.
    chip: the device, which has a cost model.
    window: keys that a query sees in an attention kernel; 0: all before it.
    collectives: those of the program (`collectives.collectives`).
    slices: the slice of each device of the mesh.

  Raises:
    UserError: the program has no estimated cycles.
  """
  if not _CYCLES.search(hlo_text):
    raise errors.UserError(
      "--estimate: this version of libtpu writes no estimated cycles into the "
      "compiled step; install the one that this version pins (make env "
      "EXTRA=tpu)"
    )
  program = _Program(hlo_text, chip, window)
  operations = program.operations(program.module.entry, 1, [], "")
  seconds: dict[str, float] = collections.defaultdict(float)
  for one in operations:
    seconds[one.kind] += one.seconds
  outside = [o for o in operations if o.kind not in ("product", "copy")]
  on_links, far_bytes = seconds_on_links(collectives, slices, program.rates)
  return Estimate(
    product_seconds=seconds["product"],
    attention_seconds=seconds["attention"],
    other_seconds=seconds["other"],
    unpriced_seconds=seconds["unpriced"],
    num_unpriced=dict(
      collections.Counter(o.label for o in outside if o.kind == "unpriced")
    ),
    windowed_seconds=sum(
      o.seconds
      for o in operations
      if "windowed_dot_general" in o.loop and o.kind != "copy"
    ),
    copy_seconds=seconds["copy"],
    collective_seconds=on_links,
    far_bytes=far_bytes,
    num_uncounted=program.num_uncounted,
    dearest=sorted(outside, key=lambda o: -o.seconds),
  )


class _Program:
  """Prices the instructions of a program."""

  def __init__(self, text: str, chip: Chip, window: int):
    assert chip.cost_model is not None
    self.module = hlo.Module(text)
    self.rates = chip.cost_model
    self.num_uncounted = 0
    self._chip = chip
    self._window = window
    self._source_lines = hlo.source_lines(text)
    self._found: dict[tuple[str, str], bool] = {}

  def operations(
    self, name: str, count: int, given: Sequence[hlo.Known], loop: str
  ) -> list[Operation]:
    """Returns what a computation runs that takes time.

    Args:
      name: of the computation.
      count: number of times that it runs.
      given: known values of its parameters.
      loop: the body of the innermost loop around it.
    """
    result = []
    for one in self.module.computations.get(name, {}).values():
      if one.op == "while":
        result += self._loop(name, one, count, given)
      elif one.op == "conditional":
        branches = [self.operations(c, count, [], loop) for c in one.called]
        result += max(branches, key=lambda b: sum(o.seconds for o in b))
      elif one.op in ("call", "call-start", "async-start"):
        values = self.module.parameters(name, one, given)
        for called in one.called:
          result += self.operations(called, count, values, loop)
      elif priced := self._price(name, one):
        kind, seconds = priced
        result.append(self._operation(one, kind, count, seconds, loop))
    return result

  def _loop(
    self, name: str, one: hlo.Instruction, count: int, given
  ) -> list[Operation]:
    trips, same = self.module.loop(name, one, given)
    self.num_uncounted += trips is None
    body = one.attribute(r"body=%?([\w.\-]+)") or ""
    if trips == 0:
      return []
    return self.operations(body, count * (trips or 1), [same], body)

  def _price(
    self, computation: str, one: hlo.Instruction
  ) -> tuple[str, float] | None:
    """Returns (kind, seconds of one execution); None if it takes no time."""
    op = one.op.removesuffix("-start")
    if op in _FREE or op in KINDS or op.endswith(("-done", "-update")):
      return None
    if cycles := one.attribute(_CYCLES.pattern):
      is_product = self._has(one, "convolution", "dot")
      kind = "product" if is_product else "other"
      return kind, int(cycles) / self.rates.clock
    if one.op == "fusion" and self._has(one, *KINDS):
      return None
    if one.attribute(TARGET) in _FREE_TARGETS:
      return None
    scope = self.module.computations[computation]
    if seconds := attention_seconds(one, scope, self._chip, self._window):
      return "attention", seconds
    return self._by_bytes(computation, one)

  def _by_bytes(
    self, computation: str, one: hlo.Instruction
  ) -> tuple[str, float] | None:
    """Returns the time in which its operands and results are copied."""
    bandwidth = self.rates.hbm_bandwidth
    if one.op.endswith("-start"):  # (destination, source, ...) or reversed.
      sizes = [hlo.type_bytes(t) for t in hlo.elements(one.type)[:2]]
      return "copy", min(sizes) / bandwidth
    if not any(shape for _, shape in hlo.array_shapes(one.type)):
      return None  # Scalars.
    scope = self.module.computations[computation]
    read = [scope[n].type for n in one.operands if n in scope]
    moved = [one.type, *read]
    if one.op == "dynamic-update-slice":  # In place: the update alone.
      moved = 2 * read[1:2]
    elif self._has(one, "gather"):  # Not the whole table.
      moved = 2 * [one.type]
    return "unpriced", sum(map(hlo.type_bytes, moved)) / bandwidth

  def _has(self, one: hlo.Instruction, *ops: str) -> bool:
    """Returns whether it is one of these, or calls one."""
    if one.op.removesuffix("-start") in ops:
      return True
    return any(self._contains(name, ops) for name in one.called)

  def _contains(self, computation: str, ops: tuple[str, ...]) -> bool:
    key = computation, ops
    if key not in self._found:
      scope = self.module.computations.get(computation, {})
      self._found[key] = any(self._has(one, *ops) for one in scope.values())
    return self._found[key]

  def _operation(
    self,
    one: hlo.Instruction,
    kind: str,
    count: int,
    seconds: float,
    loop: str,
  ) -> Operation:
    return Operation(
      kind=kind,
      name=_label(one),
      type=one.type,
      where=self._where(one),
      count=count,
      seconds=count * seconds,
      loop=loop,
    )

  def _where(self, one: hlo.Instruction) -> str:
    """Returns "backward reduce_sum, model/layers.py:60 Norm.__call__"."""
    path = one.attribute(r'op_name="([^"]+)"') or ""
    direction = next(
      (word for mark, word in _PASSES.items() if mark in path), ""
    )
    words = [direction, path.rpartition("/")[2]]
    frame = one.attribute(r"stack_frame_id=(\d+)") or ""
    if frame in self._source_lines:
      file, line, function = self._source_lines[frame]
      file = re.sub(r"^.*/(site-packages|pausejax)/", "", file)
      words[-1] += f", {file}:{line} {function.replace('.<locals>', '')}"
    return " ".join(filter(None, words))


def _label(one: hlo.Instruction) -> str:
  """Returns its name, or what a custom call with a mere number calls."""
  target = one.attribute(TARGET) if "custom-call" in one.name else None
  return target or one.name


_PASSES = {
  "rematted_computation": "recomputed",
  "transpose(jvp": "backward",
  "jvp(": "forward",
}
