"""The hierarchical bootstrap and the power of a study, in simulations."""

import dataclasses
import pathlib

import numpy as np
import pytest
from scipy import special

from benchmarks import intervals as simulation
from pausejax.evaluation import bootstrap, intervals

SMALL = dataclasses.replace(simulation.PAPER, num_examples=200)
NULL = dataclasses.replace(
  SMALL, baseline=(36.4, 1.0), candidates=((36.4, 1.0), (36.4, 1.0))
)
# A study's standard error of a share near `p` among `n` studies, twice.
NUM_STUDIES = 100


def bound(share: float, sign: int) -> float:
  return share + sign * 2 * (share * (1 - share) / NUM_STUDIES) ** 0.5


@pytest.mark.parametrize(
  "study",
  [
    SMALL,
    pytest.param(
      dataclasses.replace(SMALL, num_seeds=3), marks=pytest.mark.slow
    ),
    pytest.param(
      dataclasses.replace(SMALL, num_pretrainings=4, num_seeds=2),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_bootstrap_covers_at_least_95_percent(study):
  found = simulation.simulate(study, NUM_STUDIES, NUM_STUDIES)
  assert found["bootstrap"] >= bound(0.95, -1)
  assert found["covered"] >= bound(0.95, -1)


def test_the_best_of_two_equal_arms_is_called_better_in_few_studies():
  rng = np.random.default_rng(0)
  false = {"formula": 0, "bootstrap": 0}
  for _ in range(NUM_STUDIES):
    baseline_PSN, *arms = simulation._answers(NULL, rng)
    drawn = bootstrap.hierarchical_bootstrap(
      np.array(arms), baseline_PSN[None], num_draws=300
    )
    best = max(arms, key=np.mean)
    ours = intervals.of_difference(
      (best - baseline_PSN)[0], num_candidates=(2, 1)
    )
    false["bootstrap"] += not drawn[0] <= 0 <= drawn[1]
    false["formula"] += not ours[0] <= 0 <= ours[1]
  for count in false.values():
    assert count / NUM_STUDIES <= bound(0.05, 1)


def test_several_candidates_lower_the_limit_of_the_best_only():
  rng = np.random.default_rng(0)
  baseline, one, other = rng.integers(0, 2, (3, 1, 1, 5, 100)).astype(float)
  best, second = sorted((one, other), key=np.mean, reverse=True)
  alone = bootstrap.hierarchical_bootstrap(best, baseline)
  chosen = bootstrap.hierarchical_bootstrap(
    np.concatenate([second, best]), baseline
  )
  assert chosen[0] < alone[0] and chosen[1] == alone[1]
  against = bootstrap.hierarchical_bootstrap(
    baseline, np.concatenate([second, best])
  )
  assert against == pytest.approx((-chosen[1], -chosen[0]))


def test_pairing_examples_narrows_both_intervals():
  """The same answers, but those of one arm are of other examples."""
  rng = np.random.default_rng(0)
  easy_N = rng.normal(size=300)
  arm, baseline = (
    easy_N + 0.3 * rng.normal(size=(1, 1, 4, 300)) > shift for shift in (0, 0.1)
  )
  shuffled = baseline[..., rng.permutation(300)]
  for of in (
    lambda a, b: bootstrap.hierarchical_bootstrap(a.astype(float), b * 1.0),
    lambda a, b: intervals.of_difference((a * 1.0 - b)[0, 0]),
  ):
    paired, apart = (np.diff(of(arm, other)) for other in (baseline, shuffled))
    assert paired < 0.8 * apart


def test_pairing_seeds_narrows_both_intervals():
  rng = np.random.default_rng(0)
  skill_S1 = np.linspace(-1, 1, 5)[:, None]
  arm, baseline = (
    rng.normal(size=(1, 1, 5, 400)) + shift < skill_S1 for shift in (0, 0.1)
  )
  reversed_ = baseline[:, :, ::-1]
  for of in (
    lambda a, b: bootstrap.hierarchical_bootstrap(a.astype(float), b * 1.0),
    lambda a, b: intervals.of_difference((a * 1.0 - b)[0, 0]),
  ):
    paired, apart = (np.diff(of(arm, other)) for other in (baseline, reversed_))
    assert paired < 0.5 * apart


@pytest.mark.parametrize("num_seeds", [5, 10])
def test_an_effect_of_the_minimum_size_is_found_in_80_percent(num_seeds):
  study = dataclasses.replace(
    SMALL, num_seeds=num_seeds, num_examples=500, candidates=((36.4, 1.0),)
  )
  effect = 100 * simulation.simulate(study, 400)["MDE"]
  mean = study.baseline[0] + effect
  real = dataclasses.replace(study, candidates=((mean, 1.0),))
  found = simulation.simulate(real, 400)["found"]
  assert 0.72 <= found <= 0.9


@pytest.mark.parametrize(("num_seeds", "power"), [(2, 72), (3, 76), (5, 79)])
def test_the_power_if_seeds_dominate_is_the_documented_one(num_seeds, power):
  differences_SN = np.tile(np.arange(num_seeds)[:, None], (1, 10))
  error = intervals.standard_error(differences_SN)
  effect = intervals.detectable_difference(differences_SN)
  degrees = num_seeds - 1
  limit = special.stdtrit(degrees, 0.975)
  missed = special.nctdtr(degrees, effect / error.variance**0.5, limit)
  assert round(100 * (1 - missed)) == power
  text = (pathlib.Path(__file__).parent.parent / "docs/study.md").read_text()
  assert f"{power}% with {num_seeds}" in text.replace("\n ", "")


def test_a_study_without_an_interval_has_no_minimum_effect():
  assert intervals.detectable_difference(np.zeros((1, 10))) is None
  one = np.zeros((1, 1, 1, 10))
  assert bootstrap.hierarchical_bootstrap(one, one) is None
