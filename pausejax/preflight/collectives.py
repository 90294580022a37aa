"""The collectives of a compiled step, parsed from its HLO text.

  text = jax.jit(step).lower(*shapes).compile().as_text()
  for each in collectives(text): print(each.kind, each.count, each.arrays)

The text contains a loop's body once, so every count is multiplied by the trip
counts of the loops around it. The parser reads the output of the CPU, GPU and
TPU compilers of jax 0.10 to 0.12. The TPU compiler repeats one asynchronous
collective in each fusion that it overlaps (all with one chain) and writes a
reduce-scatter as a fusion around an all-reduce; each is counted once, under its
own name. Collectives of different layers may share a channel. Between slices of
TPUs it writes a send to the host.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pausejax.preflight import hlo

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
  "send",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One collective of a compiled program.

  Attributes:
    kind: one of `KINDS`.
    arrays: (dtype, shape) of the whole arrays: the output of an all-gather, the
      input of an all-reduce, reduce-scatter or all-to-all, per device; dtypes
      as in HLO ("bf16", "f32", "s32").
    groups: the devices that communicate, by their index in the mesh; for a
      collective-permute, (from, to) pairs. Empty: all devices.
    count: number of times it runs in one call of the program.
    is_lower_bound: whether it is in a loop of unknown trip count, which counts
      as one iteration.
  """

  kind: str
  arrays: tuple[tuple[str, tuple[int, ...]], ...]
  groups: tuple[tuple[int, ...], ...]
  count: int
  is_lower_bound: bool = False

  @property
  def num_bytes(self) -> int:
    """Bytes of its arrays times `count`."""
    sizes = (
      math.prod(shape) * hlo.itemsize(dtype) for dtype, shape in self.arrays
    )
    return self.count * sum(sizes)


def collectives(hlo_text: str) -> list[Collective]:
  """Returns the collectives of an optimized HLO module, in program order."""
  module = hlo.Module(hlo_text)
  return list(_walk(module, module.entry, 1, set(), []))


def totals(each: Iterable[Collective]) -> dict[str, tuple[int, int]]:
  """Returns kind -> (count, bytes of its arrays) of one call."""
  sums = dict.fromkeys(KINDS, (0, 0))
  for one in each:
    count, num_bytes = sums[one.kind]
    sums[one.kind] = (count + one.count, num_bytes + one.num_bytes)
  return {kind: sizes for kind, sizes in sums.items() if sizes[0]}


def _walk(
  module: hlo.Module,
  name: str,
  count: int,
  met: set[str],
  given: Sequence[hlo.Known],
) -> Iterator[Collective]:
  """Yields the collectives of a computation and of those that it calls.

  Args:
    module: the module.
    name: name of the computation.
    count: number of times it runs.
    met: chains of fusions that had their collective in this iteration of the
      loop around it; updated.
    given: known values of the computation's parameters.
  """
  for one in module.computations[name].values():
    kind = one.op.removesuffix("-start")
    if kind in KINDS:
      chain = one.attribute(r'chain_id="(\d+)"')
      if chain is None or chain not in met:
        yield _collective(module.computations[name], name, one, kind, count)
      if chain is not None:
        met.add(chain)
    elif one.op == "while":
      trips, same = module.loop(name, one, given)
      body = one.attribute(r"body=%?([\w.\-]+)") or ""
      inside = _walk(module, body, count * (trips or 1), set(), [same])
      if trips is None:
        inside = (dataclasses.replace(c, is_lower_bound=True) for c in inside)
      if trips != 0:
        yield from inside
    elif one.called:
      # Each branch of a conditional has its own operand.
      is_call = one.op != "conditional"
      values = module.parameters(name, one, given) if is_call else []
      for called in one.called:
        yield from _walk(module, called, count, met, values)


def _collective(
  scope: dict[str, hlo.Instruction],
  computation: str,
  one: hlo.Instruction,
  kind: str,
  count: int,
) -> Collective:
  types = [one.type]
  if kind == "reduce-scatter":
    types = [scope[name].type for name in one.operands]
  elif one.op.endswith("-start") and kind != "all-reduce":
    types = hlo.elements(one.type)[1:2]  # (input, output, ...).
  elif kind == "send":
    types = hlo.elements(one.type)[:1]  # (array, context, token).
  if computation.startswith("all-reduce-scatter"):
    kind = "reduce-scatter"
  return Collective(
    kind=kind,
    arrays=tuple(hlo.array_shapes(" ".join(types))),
    groups=_groups(one.rest),
    count=count,
  )


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
  """Returns the groups of devices, from any of their three notations."""
  listed = re.search(
    r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)+)\}", rest
  )
  if listed:
    return tuple(
      tuple(map(int, ids.split(",")))
      for ids in re.findall(r"\{([\d,]+)\}", listed[1])
    )
  # [groups,size]<=[dims]T(order): device numbers in dims, transposed.
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
  )
  if iota:
    shape, dims, order = (_ints(part) for part in iota.groups(default=""))
    return _rows(_transposed(dims, order).reshape(shape))
  # mesh['x'=4,'y'=2] {'x'}: groups along the axes in braces; the mesh may be
  # of other ids than 0, 1, 2, ..., with device_ids=([dims]T(order)).
  named = re.search(
    r"replica_groups=mesh\[([^\]]+)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}",
    rest,
  )
  if named:
    sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", named[1])}
    within = re.findall(r"'(\w+)'", named[4])
    order = [list(sizes).index(a) for a in sizes if a not in within]
    order += [list(sizes).index(a) for a in within]
    dims = _ints(named[2] or "") or list(sizes.values())
    ids = _transposed(dims, _ints(named[3] or "")).reshape(list(sizes.values()))
    width = math.prod(sizes[a] for a in within)
    return _rows(ids.transpose(order).reshape(-1, width))
  return ()


def _transposed(dims: list[int], order: list[int]) -> np.ndarray:
  ids = np.arange(math.prod(dims)).reshape(dims)
  return ids.transpose(order) if order else ids


def _ints(text: str) -> list[int]:
  return [int(part) for part in text.split(",") if part]


def _rows(ids: np.ndarray) -> tuple[tuple[int, ...], ...]:
  return tuple(tuple(row) for row in ids.tolist())
