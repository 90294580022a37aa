"""95% confidence intervals of scores and of their differences.

A study runs S seeds, and each of them answers the same N examples. Both are
samples: another S seeds and another N examples would give other scores. So the
variance of a mean has a term of the seeds and a term of the examples, as in the
two-way layout of readers and cases (Dorfman, Berbaum & Metz, 1992). Examples
that share a text, such as the questions on one story, count as one sample
(Cameron, Gelbach & Miller, 2011; Miller, 2024, arXiv 2411.00640).

S seeds, N examples, G groups of examples.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

LEVEL = 0.95

Interval = tuple[float, float]
Groups = Sequence[Hashable] | np.ndarray


def of_difference(
  differences_SN: np.ndarray,
  groups_N: Groups | None = None,
  *,
  num_candidates: tuple[int, int] = (1, 1),
) -> Interval | None:
  """Returns an interval of the expected difference of two arms.

  The variance of the mean over seeds and examples is estimated by

    V = V_seeds + max(0, V_examples - V_both)

  with the sample variance of the seeds' means / S, that of the groups' totals,
  and their interaction, which both contain. The interval is the mean -/+
  t sqrt(V), where t is the mean of Student's quantiles for S - 1 and G - 1
  degrees of freedom, weighted by the two terms (Cochran & Cox, Experimental
  Designs, 1950). As differences are taken seed by seed, the arms may vary
  unequally, and with each other. Cochran's t errs on the wide side, which
  shows with 2 or 3 seeds. `benchmarks/intervals.py` measures the coverage.

  If an arm is the best of K, chosen on this score, the limit that the choice
  affects gets 1 / K of its error (Bonferroni).

  Args:
    differences_SN: score of one arm minus score of the other with the same
      seed on the same example, in [-1, 1].
    groups_N: group of each example; None if each is its own.
    num_candidates: for either arm, K of which it is the best.

  Returns:
    (low, high) in [-1, 1]; None for a single seed, which does not show the
    variation between seeds, or for a single group.
  """
  num_seeds, num_examples = differences_SN.shape
  groups_N, num_groups = _numbered(groups_N, num_examples)
  if num_seeds < 2 or num_groups < 2:
    return None
  of_seeds, of_examples = _variances(differences_SN, groups_N, num_groups)
  # If few answers differ, both terms can be 0 by chance. The minimum was set by
  # simulation; if none differs, it is that of one example.
  one_answer = 1 / num_seeds / (num_seeds - 1)
  smallest = one_answer if differences_SN.any() else 1.0
  of_examples = max(of_examples, smallest / num_examples**2)
  variance = of_seeds + of_examples
  weights = np.array([of_seeds, of_examples]) / variance
  degrees = np.array([num_seeds - 1, num_groups - 1])

  def half_width(count: int) -> float:
    t = special.stdtrit(degrees, 1 - (1 - LEVEL) / 2 / count)
    return float(weights @ t) * variance**0.5

  mean = float(differences_SN.mean())
  low, high = (half_width(count) for count in num_candidates)
  return max(-1.0, mean - low), min(1.0, mean + high)


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
  groups_N, num_groups = _numbered(groups_N, len(values_N))
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


def _numbered(groups_N: Groups | None, size: int) -> tuple[np.ndarray, int]:
  """Returns the groups as numbers from 0, and the number of groups."""
  if groups_N is None:
    return np.arange(size), size
  names, numbers_N = np.unique(np.asarray(groups_N), return_inverse=True)
  return numbers_N, len(names)
