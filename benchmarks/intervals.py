"""Measures how often a 95% interval of a difference covers the true one.

  python -m benchmarks.intervals                        (an hour of one core)
  python -m benchmarks.intervals --num_studies=500 --num_bootstrapped=100

In a simulated study, two arms answer the same examples with each seed. The
accuracy of a seed is drawn from a beta distribution; examples and groups of
examples differ in difficulty, and differ between arms. "covered" is the
percentage of studies whose interval contains the true difference, "too high"
that of intervals above it, which are false claims that an arm is better.
"examples only" is the coverage without the variance of the seeds, "ungrouped"
that without the groups. If an arm has several candidates, the one with the best
mean is compared. "bootstrap" is the coverage of the hierarchical bootstrap, in
the first studies only and with fewer draws than in a table, as it takes long,
"width" is the mean of its width divided by that of the interval. "MDE" is the
mean of the minimum detectable effect in points.

With several pretrainings, `num_seeds` finetunings start from each, and the
accuracy of a pretraining is drawn as well, with the same deviation.

P pretrainings, S seeds, N examples, K candidates.
"""

import argparse
import collections
import dataclasses

import numpy as np
from scipy import special

from pausejax.evaluation import bootstrap, intervals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """The distributions; accuracies and deviations over seeds are percent."""

  num_pretrainings: int = 1
  num_seeds: int = 5
  num_examples: int = 10_570
  group_size: int = 1
  baseline: tuple[float, float] = (36.4, 2.5)
  candidates: tuple[tuple[float, float], ...] = ((55.9, 1.0),)

  @property
  def groups_N(self) -> np.ndarray | None:
    """The group of each example; None if each is its own."""
    if self.group_size == 1:
      return None
    return np.arange(self.num_examples) // self.group_size


PAPER = Study()
# Name -> study. Accuracies and deviations are those of the paper's table if it
# has any; CoQA has 7,983 questions on 500 stories.
STUDIES = {
  "SQuAD, 5 seeds": PAPER,
  "SQuAD, 3 seeds": dataclasses.replace(PAPER, num_seeds=3),
  "SQuAD, 2 seeds": dataclasses.replace(PAPER, num_seeds=2),
  "SQuAD, 10 seeds": dataclasses.replace(PAPER, num_seeds=10),
  "no difference, best of 2": dataclasses.replace(
    PAPER, candidates=((36.4, 1.0), (36.4, 1.0))
  ),
  "no difference, best of 2, equal spread": dataclasses.replace(
    PAPER, baseline=(36.4, 1.0), candidates=((36.4, 1.0), (36.4, 1.0))
  ),
  "one clearly best of 2": dataclasses.replace(
    PAPER, candidates=((36.4, 1.0), (45.0, 1.0))
  ),
  "almost no spread over seeds": dataclasses.replace(
    PAPER, baseline=(36.4, 0.1), candidates=((37.4, 0.1),)
  ),
  "very unequal spread": dataclasses.replace(
    PAPER, baseline=(36.4, 5.0), candidates=((55.9, 0.2),)
  ),
  "CoQA, stories": Study(
    num_examples=7_984,
    group_size=16,
    baseline=(29.9, 1.0),
    candidates=((31.6, 0.5),),
  ),
  "CoQA, stories, little spread": Study(
    num_examples=7_984,
    group_size=16,
    baseline=(29.9, 0.1),
    candidates=((31.6, 0.1),),
  ),
  "n = 64": dataclasses.replace(PAPER, num_examples=64),
  "n = 64, 3 seeds": dataclasses.replace(PAPER, num_examples=64, num_seeds=3),
  "n = 64, 2 seeds": dataclasses.replace(PAPER, num_examples=64, num_seeds=2),
  "n = 64, near 0": Study(
    num_examples=64, baseline=(2.0, 1.0), candidates=((5.0, 1.0),)
  ),
  "n = 64, near 100": Study(
    num_examples=64, baseline=(98.0, 1.0), candidates=((99.0, 0.5),)
  ),
  "n = 64, near 0, 2 seeds": Study(
    num_examples=64,
    num_seeds=2,
    baseline=(2.0, 1.0),
    candidates=((5.0, 1.0),),
  ),
  "n = 1,000, 2 seeds": Study(
    num_examples=1000,
    num_seeds=2,
    baseline=(36.0, 2.5),
    candidates=((40.0, 1.0),),
  ),
  "n = 1,000, 3 seeds": Study(
    num_examples=1000,
    num_seeds=3,
    baseline=(36.0, 2.5),
    candidates=((40.0, 1.0),),
  ),
  "3 pretrainings": dataclasses.replace(PAPER, num_pretrainings=3),
  "5 pretrainings, 2 seeds": dataclasses.replace(
    PAPER, num_pretrainings=5, num_seeds=2
  ),
  "near 0": dataclasses.replace(
    PAPER, baseline=(0.5, 0.2), candidates=((1.0, 0.2),)
  ),
}
# Standard deviations, in probits, of the difficulty of an example for all arms,
# a group for all arms, a group for one arm, and an example for one arm.
_SHARED, _GROUP, _GROUP_OF_ARM, _OF_ARM = 0.8, 0.4, 0.35, 0.5
# Draws of a bootstrap.
_NUM_DRAWS = 500


def main(argv: list[str] | None = None) -> None:
  """Prints one line per kind of study."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--num_studies", type=int, default=4000)
  parser.add_argument("--num_bootstrapped", type=int, default=300)
  options = parser.parse_args(argv)
  columns = (
    *("covered", "too high", "examples only", "ungrouped", "bootstrap"),
    *("MDE", "width"),
  )
  print(f"{'percent of ' + format(options.num_studies, ','):40}", *columns)
  for name, study in STUDIES.items():
    simulated = simulate(study, options.num_studies, options.num_bootstrapped)
    cells = [f"{100 * simulated[c]:{len(c)}.1f}" for c in columns[:-1]]
    cells.append(f"{simulated['width']:5.2f}")
    print(f"{name:40}", *cells, flush=True)


def simulate(
  study: Study, num_studies: int, num_bootstrapped: int = 0, seed: int = 0
) -> dict[str, float]:
  """Returns the value of each column of the table, 1 for 100 percent."""
  rng = np.random.default_rng(seed)
  columns = collections.defaultdict(list)
  for number in range(num_studies):
    studied = _measured(study, rng, number < num_bootstrapped)
    for name, value in studied.items():
      columns[name].append(value)
  return {name: float(np.mean(values)) for name, values in columns.items()}


def _measured(
  study: Study, rng: np.random.Generator, is_bootstrapped: bool
) -> dict[str, float]:
  """Returns the columns of one study."""
  baseline_PSN, *arms_KPSN = _answers(study, rng)
  best = int(np.argmax([arm.mean() for arm in arms_KPSN]))
  truth = (study.candidates[best][0] - study.baseline[0]) / 100
  differences_UN = intervals.independent_runs(arms_KPSN[best] - baseline_PSN)
  groups_N, count = study.groups_N, len(arms_KPSN)
  ours, ungrouped = (
    intervals.of_difference(differences_UN, groups, num_candidates=(count, 1))
    for groups in (groups_N, None)
  )
  effect = intervals.detectable_difference(
    differences_UN, groups_N, num_candidates=count
  )
  assert ours and ungrouped and effect
  mean_N = differences_UN.mean(axis=0)
  error = abs(mean_N.mean() - truth)
  measured = {
    "covered": ours[0] <= truth <= ours[1],
    "too high": truth < ours[0],
    "examples only": error <= 1.96 * mean_N.std() / len(mean_N) ** 0.5,
    "ungrouped": ungrouped[0] <= truth <= ungrouped[1],
    "MDE": effect,
    "found": ours[0] > 0,
  }
  if is_bootstrapped:
    drawn = bootstrap.hierarchical_bootstrap(
      np.array(arms_KPSN), baseline_PSN[None], groups_N, num_draws=_NUM_DRAWS
    )
    assert drawn
    measured["bootstrap"] = drawn[0] <= truth <= drawn[1]
    measured["width"] = (drawn[1] - drawn[0]) / (ours[1] - ours[0])
  return measured


def _answers(study: Study, rng: np.random.Generator) -> list[np.ndarray]:
  """Returns whether each run of each arm answers each example: [P, S, N]."""
  normal = rng.standard_normal
  num_groups = -(-study.num_examples // study.group_size)
  group, of_group = (_GROUP, _GROUP_OF_ARM) if study.group_size > 1 else (0, 0)

  def groups_effect() -> np.ndarray:
    drawn = normal(num_groups, np.float32)
    return np.repeat(drawn, study.group_size)[: study.num_examples]

  def examples_effect() -> np.ndarray:
    return normal(study.num_examples, np.float32)

  shared_N = _SHARED * examples_effect() + group * groups_effect()
  # The remainder is drawn independently for each answer, with variance 1.
  parts = (_SHARED, group, of_group, _OF_ARM, 1.0)
  scale = sum(part**2 for part in parts) ** 0.5
  answers = []
  for mean, std in (study.baseline, *study.candidates):
    threshold_PS1 = scale * special.ndtri(
      _accuracies(study, mean / 100, std / 100, rng)[..., None]
    )
    own_N = of_group * groups_effect() + _OF_ARM * examples_effect()
    shape = (*threshold_PS1.shape[:2], study.num_examples)
    noise_PSN = normal(shape, np.float32)
    right_PSN = shared_N + own_N + noise_PSN < threshold_PS1
    answers.append(right_PSN.astype(np.float32))
  return answers


def _accuracies(
  study: Study, mean: float, std: float, rng: np.random.Generator
) -> np.ndarray:
  """Returns the accuracy [P, S] of each run."""
  if study.num_pretrainings == 1:
    return _betas(mean, std, study.num_seeds, rng)[None]
  centers_P = _betas(mean, std, study.num_pretrainings, rng)
  rows = [_betas(center, std, study.num_seeds, rng) for center in centers_P]
  return np.array(rows)


def _betas(
  mean: float, std: float, size: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns draws in (0, 1) of the given mean and deviation."""
  total = mean * (1 - mean) / std**2 - 1
  return rng.beta(mean * total, (1 - mean) * total, size)


if __name__ == "__main__":
  main()
