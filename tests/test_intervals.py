"""Intervals cover the truth as often as they say, in simulated studies."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from benchmarks import intervals as simulation
from pausejax.evaluation import intervals


@pytest.mark.parametrize(
  "name",
  [
    *("SQuAD, 5 seeds", "SQuAD, 3 seeds", "SQuAD, 2 seeds"),
    *("CoQA, stories", "n = 64", "n = 64, 3 seeds", "n = 64, 2 seeds"),
    *("n = 64, near 0", "n = 64, near 100"),
  ],
)
def test_95_percent_intervals_cover_93_to_97_percent(name):
  study = simulation.STUDIES[name]
  is_small = study.num_examples < 1000
  found = simulation.simulate(study, 1500 if is_small else 400)
  assert 0.93 <= found["covered"] <= 0.97


def test_intervals_without_seeds_or_groups_cover_too_little():
  squad = simulation.simulate(simulation.STUDIES["SQuAD, 5 seeds"], 200)
  assert squad["examples only"] < 0.5
  little = simulation.STUDIES["CoQA, stories, little spread"]
  assert simulation.simulate(little, 200)["ungrouped"] < 0.9


def test_choosing_the_best_of_two_makes_no_more_false_claims():
  """An arm that is no better is called better in 2.5% of studies."""
  study = dataclasses.replace(
    simulation.STUDIES["no difference, best of 2, equal spread"],
    num_examples=1000,
  )
  found = simulation.simulate(study, 2000)
  assert found["too high"] <= 0.025
  assert found["covered"] >= 0.93


def test_choosing_an_arm_corrects_only_the_affected_limit():
  rng = np.random.default_rng(0)
  values_SN = rng.integers(-1, 2, (5, 200)).astype(float)
  low, high = intervals.of_difference(values_SN)
  of_two = intervals.of_difference(values_SN, num_candidates=(2, 1))
  against_two = intervals.of_difference(values_SN, num_candidates=(1, 2))
  assert of_two[0] < low and of_two[1] == high
  assert against_two[0] == low and against_two[1] > high
  swapped = intervals.of_difference(-values_SN, num_candidates=(1, 2))
  assert swapped == pytest.approx((-of_two[1], -of_two[0]))


def test_seeds_alone_give_the_paired_t_interval():
  means = np.array([0.1, 0.2, 0.4])
  low, high = intervals.of_difference(np.repeat(means[:, None], 10**6, axis=1))
  want = stats.ttest_1samp(means, 0).confidence_interval()
  assert (low, high) == pytest.approx((max(-1, want.low), want.high), abs=1e-4)


def test_equal_seeds_give_the_t_interval_over_examples():
  values = np.random.default_rng(0).integers(-1, 2, 200).astype(float)
  found = intervals.of_difference(np.stack([values] * 3))
  want = stats.ttest_1samp(values, 0).confidence_interval()
  assert found == pytest.approx((want.low, want.high))


def test_copies_in_a_group_add_nothing():
  drawn_SN = np.random.default_rng(1).normal(size=(3, 100))
  values_SN = np.sign(np.round(drawn_SN + 2 * drawn_SN[0]))
  copies_SN = np.repeat(values_SN, 4, axis=1)
  groups_N = np.repeat([f"story {i}" for i in range(100)], 4)
  assert intervals.of_difference(copies_SN, groups_N) == pytest.approx(
    intervals.of_difference(values_SN)
  )
  low, high = intervals.of_difference(copies_SN)
  apart = intervals.of_difference(values_SN)
  assert apart[0] < low < high < apart[1]


def test_one_seed_or_one_group_has_no_interval():
  values_SN = np.zeros((2, 10))
  assert intervals.of_difference(values_SN[:1]) is None
  assert intervals.of_difference(values_SN, ["a"] * 10) is None


@pytest.mark.parametrize("num_seeds", [2, 5])
@pytest.mark.parametrize("difference", [-1.0, 0.0, 1.0])
def test_an_interval_is_not_empty_when_all_predictions_agree(
  num_seeds, difference
):
  values_SN = np.full((num_seeds, 64), difference)
  low, high = intervals.of_difference(values_SN)
  assert high - low > 0.004 and -1 <= low <= difference <= high <= 1


@pytest.mark.parametrize(("right", "n"), [(0, 64), (64, 64), (30, 64), (1, 1)])
def test_the_interval_of_a_score_is_wilsons(right, n):
  values = np.arange(n) < right
  want = stats.binomtest(right, n).proportion_ci(method="wilson")
  assert intervals.of_score(values) == pytest.approx((want.low, want.high))


def test_the_interval_of_a_score_counts_groups():
  rng = np.random.default_rng(0)
  values = rng.integers(0, 2, 50)
  groups = np.repeat(np.arange(50), 4)
  low, high = intervals.of_score(np.repeat(values, 4), groups)
  apart = intervals.of_score(values)
  assert (low, high) == pytest.approx(apart, abs=0.01)
  # All are right: what they share may be the reason.
  assert intervals.of_score(np.ones(200), groups)[0] < 0.94
  low, high = intervals.of_score(rng.random(64), np.zeros(64))
  assert low < 0.1 and high > 0.9
