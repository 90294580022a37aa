"""A hierarchical bootstrap of the difference of two arms.

An arm is the best of several candidates, the choice being made on the score
that is compared. In every draw, pretrainings are drawn, then finetuning seeds
of each, then groups of examples, with replacement and the same ones for all
candidates of both arms. An example is drawn for all runs at once, because all
of them answer the same examples (Owen, The pigeonhole bootstrap, 2007).

B draws, K candidates, P pretrainings, S finetuning seeds of each, U runs of all
candidates, N examples, G groups.
"""

from collections.abc import Iterator

import numpy as np

from pausejax.evaluation import intervals

NUM_DRAWS = 2000
SEED = 0


def hierarchical_bootstrap(
  arm_KPSN: np.ndarray,
  baseline_KPSN: np.ndarray,
  groups_N: intervals.Groups | None = None,
  *,
  num_draws: int = NUM_DRAWS,
) -> intervals.Interval | None:
  """Returns a 95% interval of the difference of the best candidates' means.

  With the mean score of a candidate, and its deviation in a draw from that of
  the predictions, the interval is

    low  = difference - c * 97.5th percentile of (max_K arm - baseline)
    high = difference - c * 2.5th percentile of (arm - max_K baseline)

  where "max_K" is the largest deviation of all candidates and the others are
  those of the best ones. So the limit that a choice affects accounts for it
  (White, A reality check for data snooping, 2000). c = t' / 1.96 corrects for
  few seeds: t' is the t of `intervals.Error`, each quantile times
  sqrt(n / (n - 1)) with its n of seeds or of groups.

  Counting the chance of single answers in each resampled dimension, a bootstrap
  of seeds and examples is too wide (McCullagh, Resampling and exchangeable
  arrays, 2000); `benchmarks/intervals.py` measures by how much.

  Args:
    arm_KPSN: scores in [0, 1] of the candidates of one arm.
    baseline_KPSN: those of the other, with the same seeds and examples.
    groups_N: group of each example; None if each is its own.
    num_draws: number of draws.

  Returns:
    (low, high) in [-1, 1]; None where `intervals.of_difference` has none.
  """
  both = np.concatenate([arm_KPSN, baseline_KPSN])
  means_K = both.mean(axis=(1, 2, 3))
  is_arm = np.arange(len(both)) < len(arm_KPSN)
  arm = int(np.argmax(np.where(is_arm, means_K, -np.inf)))
  baseline = int(np.argmax(np.where(is_arm, -np.inf, means_K)))
  units_UN = intervals.independent_runs(both[arm] - both[baseline])
  error = intervals.standard_error(units_UN, groups_N)
  if error is None:
    return None
  drawn_BK = np.stack([*_means(both, groups_N, num_draws)]) - means_K
  up_B = drawn_BK[:, is_arm].max(axis=1) - drawn_BK[:, baseline]
  down_B = drawn_BK[:, arm] - drawn_BK[:, ~is_arm].max(axis=1)
  tail = (1 - intervals.LEVEL) / 2
  scale = error.bootstrap_scale()
  difference = means_K[arm] - means_K[baseline]
  low = difference - scale * np.quantile(up_B, 1 - tail)
  high = difference - scale * np.quantile(down_B, tail)
  return max(-1.0, float(low)), min(1.0, float(high))


def _means(
  values_KPSN: np.ndarray, groups_N: intervals.Groups | None, num_draws: int
) -> Iterator[np.ndarray]:
  """Yields the mean [K] of each candidate in each draw."""
  K, P, S, N = values_KPSN.shape
  groups_N, G = intervals.number_groups(groups_N, N)
  totals = [np.bincount(groups_N, row, G) for row in values_KPSN.reshape(-1, N)]
  totals_UG = np.stack(totals)
  sizes_G = np.bincount(groups_N, minlength=G)
  rng = np.random.default_rng(SEED)
  for _ in range(num_draws):
    drawn_P = rng.integers(P, size=P) if P > 1 else np.zeros(1, int)
    drawn_PS = rng.integers(S, size=(P, S))
    counts_G = np.bincount(rng.integers(G, size=G), minlength=G)
    means_KPS = (totals_UG @ counts_G).reshape(K, P, S) / (sizes_G @ counts_G)
    yield means_KPS[:, drawn_P[:, None], drawn_PS].mean(axis=(1, 2))
