"""Do the pauses matter? Intervals of what a lesion costs, and the rule.

A drop is the value without a lesion minus the value under it, on the same
examples, so that a positive drop is a loss. Its 95% interval is the percentile
bootstrap over examples (Efron, 1979); examples that share a text are drawn
together.

The rule compares intervals with a margin, as equivalence tests do (Schuirmann,
1987; Lakens, 2017): a drop that was not detected is no proof that there is
none, and a drop that was detected may be too small to matter.

N examples, G groups of them, K lesions, R resamples.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

LEVEL = 0.95
MARGINS = {"accuracy": 1.0, "log_likelihood": 0.05}  # Points, nats.
UNITS = {"accuracy": "points", "log_likelihood": "nats"}
# The lesions that decide: these remove what a pause computed from its example,
# and leave a pause such as the model has always seen; and this removes it.
CONTENT, PRESENCE = ("mean", "transplant"), "cut"

USES, IGNORES = "uses its pauses", "ignores its pauses"
IGNORES_CONTENT = "ignores what its pauses hold"
UNKNOWN = "cannot tell"

RULE = (
  "Three lesions of all probed pauses in all layers decide. Mean and "
  "transplant remove what the pauses computed from their own example; cut "
  "removes the pauses. A lesion matters if the 95% interval of its drop lies "
  f"above the margin ({MARGINS['accuracy']:g} point of accuracy, or "
  f"{MARGINS['log_likelihood']:g} nats of log-likelihood), and does not matter "
  "if both intervals lie within plus and minus their margins. All three "
  f"matter: {USES}. Each of the three does not matter: {IGNORES}. Mean and "
  f"transplant do not matter, and cut may: {IGNORES_CONTENT}. Otherwise: "
  f"{UNKNOWN}."
)

_NUM_RESAMPLES = 2_000
_AT_A_TIME = 100
# With no event in n trials, the 95% limit of its probability is 3 / n (Hanley
# and Lippman-Hand, 1983). A bootstrap of equal values would have no width.
_RULE_OF_THREE = 3.0


@dataclasses.dataclass(frozen=True)
class Drop:
  """What a lesion costs.

  Attributes:
    mean: the mean drop over examples.
    low: lower end of its interval.
    high: upper end of its interval.
  """

  mean: float
  low: float
  high: float

  def is_above(self, margin: float) -> bool:
    """Returns whether the whole interval exceeds the margin."""
    return self.low > margin

  def is_within(self, margin: float) -> bool:
    """Returns whether the whole interval is within plus and minus it."""
    return -margin <= self.low and self.high <= margin


Effect = Mapping[str, Drop]  # "accuracy" and "log_likelihood".


def drops(
  before_N: np.ndarray,
  after_KN: np.ndarray,
  groups_N: Sequence[Hashable],
  *,
  scale: float = 1.0,
  is_binary: bool = False,
) -> list[Drop]:
  """Returns the drop of each lesion.

  Args:
    before_N: values without a lesion.
    after_KN: values under each lesion.
    groups_N: the group of each example.
    scale: multiplies the result, 100 for percentage points.
    is_binary: values are 0 or 1: an interval reaches at least 3 / G to both
      sides, since equal values show only that a change is rare.
  """
  numbers = {group: i for i, group in enumerate(dict.fromkeys(groups_N))}
  group_N = np.array([numbers[group] for group in groups_N])
  drops_KN = before_N - after_KN
  samples_RK = _resampled_means(drops_KN, group_N, len(numbers))
  tail = (1 - LEVEL) / 2
  low_K, high_K = np.quantile(samples_RK, (tail, 1 - tail), axis=0)
  mean_K = drops_KN.mean(axis=1)
  if is_binary:
    reach = _RULE_OF_THREE / len(numbers)
    low_K = np.minimum(low_K, mean_K - reach)
    high_K = np.maximum(high_K, mean_K + reach)
  limits = (scale * x_K for x_K in (mean_K, low_K, high_K))
  return [Drop(*map(float, one)) for one in zip(*limits, strict=True)]


def decide(effects: Mapping[str, Effect]) -> tuple[str, str]:
  """Returns the verdict by `RULE`, and its reason.

  Args:
    effects: lesion -> what it costs at all pauses in all layers.
  """
  decisive = (*CONTENT, PRESENCE)
  matters = {name: _matters(effects[name]) for name in decisive}
  is_equal = {name: _is_equal(effects[name]) for name in decisive}
  costs = "; ".join(f"{n} costs {_spelled(effects[n])}" for n in decisive)
  if all(matters.values()):
    return USES, costs
  if all(is_equal.values()):
    return IGNORES, costs
  if all(is_equal[n] for n in CONTENT) and _may_matter(effects[PRESENCE]):
    presence = "must" if matters[PRESENCE] else "may have to"
    return IGNORES_CONTENT, f"{costs}; the pauses {presence} be there"
  return UNKNOWN, f"{costs}; {_doubt(effects, matters, is_equal)}"


def _doubt(
  effects: Mapping[str, Effect],
  matters: Mapping[str, bool],
  is_equal: Mapping[str, bool],
) -> str:
  """Returns why the rule does not decide."""
  if all(matters[name] for name in CONTENT) and is_equal[PRESENCE]:
    return "the answer follows the pauses, but is as good without them"
  harmful = [n for n in matters if any(_is_better(effects[n]))]
  if harmful:
    return f"answers are better under {' and '.join(harmful)}"
  return "an interval contains a margin; more examples make it narrower"


def _is_better(effect: Effect) -> list[bool]:
  """Returns for each metric whether the lesion improves it."""
  return [drop.high < -MARGINS[name] for name, drop in effect.items()]


def _matters(effect: Effect) -> bool:
  return any(drop.is_above(MARGINS[name]) for name, drop in effect.items())


def _may_matter(effect: Effect) -> bool:
  return any(drop.high > MARGINS[name] for name, drop in effect.items())


def _is_equal(effect: Effect) -> bool:
  return all(drop.is_within(MARGINS[name]) for name, drop in effect.items())


def _spelled(effect: Effect) -> str:
  return " and ".join(
    f"{format_drop(drop)} {UNITS[name]}" for name, drop in effect.items()
  )


def format_drop(drop: Drop) -> str:
  """Returns "7.22 [6.98, 7.45]"."""
  mean, low, high = (
    f"{round(x, 2) + 0.0:.2f}" for x in (drop.mean, drop.low, drop.high)
  )
  return f"{mean} [{low}, {high}]"


def _resampled_means(
  values_KN: np.ndarray, group_N: np.ndarray, num_groups: int
) -> np.ndarray:
  """Returns [R, K], means over examples of groups drawn with replacement."""
  sums_GK = np.zeros((num_groups, len(values_KN)))
  np.add.at(sums_GK, group_N, values_KN.T)
  sizes_G = np.bincount(group_N, minlength=num_groups)
  rng = np.random.default_rng(0)
  means = []
  for _ in range(0, _NUM_RESAMPLES, _AT_A_TIME):
    counts_RG = rng.multinomial(
      num_groups, np.full(num_groups, 1 / num_groups), size=_AT_A_TIME
    ).astype(np.float64)
    means.append(counts_RG @ sums_GK / (counts_RG @ sizes_G)[:, None])
  return np.concatenate(means)
