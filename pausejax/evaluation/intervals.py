"""95% confidence intervals of scores and of their differences.

A study runs S seeds, and each of them answers the same N examples. Both are
samples: another S seeds and another N examples would give other scores. So the
variance of a mean has a term of the seeds and a term of the examples, as in the
two-way layout of readers and cases (Dorfman, Berbaum & Metz, 1992). Examples
that share a text, such as the questions on one story, count as one sample
(Cameron, Gelbach & Miller, 2011; Miller, 2024, arXiv 2411.00640).

P pretrainings, S seeds, N examples, G groups of examples.
"""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

LEVEL = 0.95
POWER = 0.8

Interval = tuple[float, float]
Groups = Sequence[Hashable] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Error:
  """The standard error of a mean difference, and its t quantiles.

  The variance of the mean over runs and examples is estimated by

    V = V_seeds + max(0, V_examples - V_both)

  with the sample variance of the seeds' means / S, that of the groups' totals,
  and their interaction, which both contain. t is the mean of Student's
  quantiles for S - 1 and G - 1 degrees of freedom, weighted by the two terms
  (Cochran & Cox, Experimental Designs, 1950). As differences are taken seed by
  seed, the arms may vary unequally, and with each other. Cochran's t errs on
  the wide side, which shows with 2 or 3 seeds.

  Attributes:
    variance: V.
    weights: shares of V_seeds and of the term of the examples in V.
    degrees: degrees of freedom of both.
  """

  variance: float
  weights: np.ndarray
  degrees: np.ndarray

  def margin(self, probability: float) -> float:
    """Returns t sqrt(V) at a probability."""
    t = special.stdtrit(self.degrees, probability)
    return float(self.weights @ t) * self.variance**0.5

  def bootstrap_scale(self) -> float:
    """Returns the correction of a bootstrap's deviations for few samples."""
    t = special.stdtrit(self.degrees, (1 + LEVEL) / 2)
    t *= np.sqrt(1 + 1 / self.degrees)
    return float(self.weights @ t / special.ndtri((1 + LEVEL) / 2))


def standard_error(
  differences_SN: np.ndarray, groups_N: Groups | None = None
) -> Error | None:
  """Returns the standard error; arguments and None as of `of_difference`."""
  num_seeds, num_examples = differences_SN.shape
  groups_N, num_groups = number_groups(groups_N, num_examples)
  if num_seeds < 2 or num_groups < 2:
    return None
  of_seeds, of_examples = _variances(differences_SN, groups_N, num_groups)
  # If few answers differ, both terms can be 0 by chance. The minimum was set by
  # simulation; if none differs, it is that of one example.
  one_answer = 1 / num_seeds / (num_seeds - 1)
  smallest = one_answer if differences_SN.any() else 1.0
  of_examples = max(of_examples, smallest / num_examples**2)
  variance = of_seeds + of_examples
  return Error(
    variance,
    np.array([of_seeds, of_examples]) / variance,
    np.array([num_seeds - 1, num_groups - 1]),
  )


def of_difference(
  differences_SN: np.ndarray,
  groups_N: Groups | None = None,
  *,
  num_candidates: tuple[int, int] = (1, 1),
) -> Interval | None:
  """Returns an interval of the expected difference of two arms.

  It is the mean -/+ t sqrt(V), see `Error`. If an arm is the best of K, chosen
  on this score, the limit that the choice affects gets 1 / K of its error
  (Bonferroni). `benchmarks/intervals.py` measures the coverage.

  Args:
    differences_SN: score of one arm minus score of the other with the same
      seed on the same example, in [-1, 1].
    groups_N: group of each example; None if each is its own.
    num_candidates: for either arm, K of which it is the best.

  Returns:
    (low, high) in [-1, 1]; None for a single seed, which does not show the
    variation between seeds, or for a single group.
  """
  error = standard_error(differences_SN, groups_N)
  if error is None:
    return None
  mean = float(differences_SN.mean())
  low, high = (error.margin(_probability(count)) for count in num_candidates)
  return max(-1.0, mean - low), min(1.0, mean + high)


def detectable_difference(
  differences_SN: np.ndarray,
  groups_N: Groups | None = None,
  *,
  num_candidates: int = 1,
) -> float | None:
  """Returns the minimum detectable effect: the least improvement to be found.

  A study like this one, with as many seeds and examples, finds a true
  difference of this size in 80% of cases: the lower limit of its interval is
  above 0. It is (t + t_80%) sqrt(V), with the t of that limit (Bloom, Minimum
  detectable effects, 1995).

  Args:
    differences_SN: as of `of_difference`.
    groups_N: as of `of_difference`.
    num_candidates: K of which the arm is the best.
  """
  error = standard_error(differences_SN, groups_N)
  return error and error.margin(_probability(num_candidates)) + error.margin(
    POWER
  )


def independent_runs(values_PSN: np.ndarray) -> np.ndarray:
  """Returns the rows [U, N] that vary independently, as seeds do above.

  With several pretrainings they are the means over finetuning seeds, so that
  the variance of pretrainings contains that of finetunings.

  Args:
    values_PSN: P pretrainings with S finetuning seeds each.
  """
  return values_PSN.mean(axis=1) if len(values_PSN) > 1 else values_PSN[0]


def _probability(num_candidates: int) -> float:
  return 1 - (1 - LEVEL) / 2 / num_candidates


def of_score(
  values_N: Sequence[float] | np.ndarray, groups_N: Groups | None = None
) -> Interval:
  """Returns an interval of the expected score of one model: Wilson's (1927).

  It does not shrink to a point if all answers are right or all are wrong. For
  groups, n is the number of independent examples with the same variance. Values
  between 0 and 1 are treated as if they varied as much as right and wrong, so
  their interval is too wide.

  Args:
    values_N: score of each example, in [0, 1]; at least one.
    groups_N: group of each example; None if each is its own.

  Returns:
    (low, high) in [0, 1].
  """
  values_N = np.asarray(values_N, np.float64)
  groups_N, num_groups = number_groups(groups_N, len(values_N))
  mean = values_N.mean()
  totals_G = np.bincount(groups_N, values_N - mean, num_groups)
  variance = np.sum(totals_G**2) / len(values_N) ** 2
  # Equal values do not show the correlation within groups.
  n = mean * (1 - mean) / variance if variance > 1e-12 else num_groups
  n = min(n, len(values_N))
  is_grouped = num_groups < len(values_N)
  degrees = max(1, num_groups - 1) if is_grouped else np.inf
  z = special.stdtrit(degrees, (1 + LEVEL) / 2)
  center = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * np.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
  half /= 1 + z**2 / n
  return max(0.0, float(center - half)), min(1.0, float(center + half))


def _variances(
  values_SN: np.ndarray, groups_N: np.ndarray, num_groups: int
) -> tuple[float, float]:
  """Returns the terms of the variance of the mean: of seeds, of examples."""
  num_seeds, num_examples = values_SN.shape
  means_S1 = values_SN.mean(axis=1, keepdims=True)
  totals_SG = np.stack(
    [
      np.bincount(groups_N, row, num_groups) / num_examples
      for row in values_SN - means_S1
    ]
  )
  totals_G = totals_SG.mean(axis=0)
  unbiased = num_groups / (num_groups - 1)
  of_examples = unbiased * np.sum(totals_G**2)
  both = unbiased * np.sum((totals_SG - totals_G) ** 2)
  both /= (num_seeds - 1) * num_seeds
  of_seeds = means_S1.var(ddof=1) / num_seeds
  return float(of_seeds), max(0.0, float(of_examples - both))


def number_groups(groups_N: Groups | None, size: int) -> tuple[np.ndarray, int]:
  """Returns the groups as numbers from 0, sorted by name, and their number."""
  if groups_N is None:
    return np.arange(size), size
  names, numbers_N = np.unique(np.asarray(groups_N), return_inverse=True)
  return numbers_N, len(names)
