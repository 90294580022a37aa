"""The time that collectives take on the links between devices."""

import collections
from collections.abc import Callable, Iterable, Sequence

from pausejax.preflight.collectives import Collective
from pausejax.runtime.chips import CostModel

# Bytes that a device sends, as a share of the full array, for n devices.
_SENT: dict[str, Callable[[int], float]] = {
  "all-gather": lambda n: (n - 1) / n,
  "reduce-scatter": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "all-to-all": lambda n: (n - 1) / n,
  "ragged-all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
  "collective-broadcast": lambda n: 1.0,
  "send": lambda n: 2 * (n - 1) / n,  # The slices reduce what they send.
}


def seconds_on_links(
  operations: Iterable[Collective], slices: Sequence[int], rates: CostModel
) -> tuple[dict[str, float], float]:
  """Returns (kind -> seconds, bytes that go where the rate is not known).

  Args:
    operations: the collectives of a step.
    slices: the slice of each device; between slices is another network.
    rates: of the devices' links, all of them in use.
  """
  seconds: dict[str, float] = collections.defaultdict(float)
  unknown = 0.0
  for one in operations:
    groups = one.groups or (tuple(range(len(slices))),)
    size = len(set(slices)) if one.kind == "send" else max(map(len, groups))
    sent = _SENT[one.kind](size) * one.num_bytes if size > 1 else 0.0
    is_far = any(len({slices[i] for i in group}) > 1 for group in groups)
    if rate := rates.dcn_bandwidth if is_far else rates.ici_bandwidth:
      seconds[one.kind] += sent / rate
    else:
      unknown += sent
  return dict(seconds), unknown
