"""The numbers of a study's table, computed again as docs/study.md says.

The second computation reads the files that an evaluation writes and shares no
code with the package.
"""

import itertools
import json
import pathlib

import numpy as np
import pytest
from scipy import stats

from pausejax.study import table
from tests.studies import plan, read_all
from tests.test_table import write

SEEDS = (0, 1, 2)


def write_answers(built) -> None:
  """Pauses help; runs differ; examples differ for all arms and for each."""
  rng = np.random.default_rng(0)
  easy_N = rng.normal(size=60)
  for cell in built.finetuning_cells():
    shift = rng.normal(0, 0.1) + 0.3 * (cell.finetuning != "m0")
    values = easy_N + rng.normal(size=60) + shift > 0
    write(cell, values, ids=[str(i) for i in rng.permutation(60)])


def read_values(workdir: pathlib.Path, arm: str, pretrain_seeds):
  """Returns the answers [P, S, N] of an arm, and the groups of examples."""
  pretraining, finetuning = arm.split()
  middle = [f"-p{p}" for p in pretrain_seeds] or [""]
  runs = []
  for p, s in itertools.product(middle, SEEDS):
    name = f"finetune/{pretraining}{p}-stdlib_cloze-{finetuning}-s{s}"
    path = workdir / name / "evaluations" / "x.predictions.jsonl"
    lines = [json.loads(x) for x in path.read_text().split("\n") if x]
    lines.sort(key=lambda line: line["id"])
    runs.append([line["values"]["em"] for line in lines])
  groups = [line["group"] for line in lines]
  return np.reshape(runs, (len(middle), len(SEEDS), -1)), groups


def formula(arm, baseline, groups, num_candidates):
  """Returns the interval and the minimum detectable effect."""
  pairs = arm - baseline
  rows = pairs.mean(axis=1) if len(pairs) > 1 else pairs[0]
  S, N = rows.shape
  names = sorted(set(groups))
  G = len(names)
  means = [sum(row) / N for row in rows]
  totals = [
    [
      sum(v - m for v, g in zip(row, groups, strict=True) if g == name) / N
      for name in names
    ]
    for row, m in zip(rows, means, strict=True)
  ]
  centers = [sum(column) / S for column in zip(*totals, strict=True)]
  v_seeds = stats.tvar(means) / S
  v_examples = G / (G - 1) * sum(c * c for c in centers)
  v_both = sum(
    (t - c) ** 2 for row in totals for t, c in zip(row, centers, strict=True)
  )
  v_both *= G / (G - 1) / (S - 1) / S
  v_examples = max(v_examples - v_both, 1 / S / (S - 1) / N**2)
  total = v_seeds + v_examples

  def mixed(probability, factors=(1, 1)):
    t = [stats.t.ppf(probability, n - 1) for n in (S, G)]
    parts = zip((v_seeds, v_examples), t, factors, strict=True)
    return sum(v * quantile * f for v, quantile, f in parts) / total

  mean = sum(means) / S
  choice = mixed(1 - 0.025 / num_candidates)
  interval = mean - choice * total**0.5, mean + mixed(0.975) * total**0.5
  effect = (choice + mixed(0.8)) * total**0.5
  factors = [(n / (n - 1)) ** 0.5 for n in (S, G)]
  return interval, effect, mixed(0.975, factors) / stats.norm.ppf(0.975)


def wilson(v, groups):
  """Returns the interval of the score of a variant."""
  N, G, mean = len(v), len(set(groups)), sum(v) / len(v)
  totals = [
    sum(x - mean for x, g in zip(v, groups, strict=True) if g == name)
    for name in set(groups)
  ]
  n = min(N, mean * (1 - mean) * N**2 / sum(t * t for t in totals))
  z = stats.t.ppf(0.975, G - 1) if G < N else stats.norm.ppf(0.975)
  half = z * (mean * (1 - mean) / n + z * z / (4 * n * n)) ** 0.5
  center = mean + z * z / (2 * n)
  return [(center + sign * half) / (1 + z * z / n) for sign in (-1, 1)]


def bootstrap(arms, baseline, groups, scale):
  """Returns the interval of the hierarchical bootstrap; best arm first."""
  every = [*arms, baseline]
  P, S, _ = baseline.shape
  names = sorted(set(groups))
  members = [[i for i, g in enumerate(groups) if g == name] for name in names]
  rng = np.random.default_rng(0)
  up, down = [], []
  for _ in range(2000):
    pretrainings = rng.integers(P, size=P) if P > 1 else [0]
    seeds = rng.integers(S, size=(P, S))
    drawn = rng.integers(len(names), size=len(names))
    examples = [i for g in drawn for i in members[g]]
    deviations = []
    for values in every:
      runs = [
        values[p, s]
        for p, row in zip(pretrainings, seeds, strict=True)
        for s in row
      ]
      mean = np.mean([run[examples].mean() for run in runs])
      deviations.append(mean - values.mean())
    up.append(max(deviations[:-1]) - deviations[-1])
    down.append(deviations[0] - deviations[-1])
  difference = arms[0].mean() - baseline.mean()
  return (
    difference - scale * np.percentile(up, 97.5),
    difference - scale * np.percentile(down, 2.5),
  )


@pytest.mark.parametrize("pretrain_seeds", [(), (3, 4, 7)])
def test_the_table_can_be_recomputed_from_the_predictions(
  tmp_path, pretrain_seeds
):
  built = plan(tmp_path, seeds=SEEDS, pretrain_seeds=pretrain_seeds)
  write_answers(built)
  row = table.build(built, read_all(built))[-1]
  baseline, groups = read_values(tmp_path, "std m0", pretrain_seeds)
  arms = [
    read_values(tmp_path, f"pause {m}", pretrain_seeds)[0] for m in ("m2", "m4")
  ]
  arms.sort(key=lambda values: -values.mean())
  interval, effect, scale = formula(arms[0], baseline, groups, 2)
  assert row.difference == pytest.approx(
    100 * (arms[0].mean() - baseline.mean())
  )
  assert row.interval == pytest.approx([100 * x for x in interval])
  assert row.detectable == pytest.approx(100 * effect)
  drawn = bootstrap(arms, baseline, groups, scale)
  assert row.bootstrap == pytest.approx([100 * x for x in drawn])
  score = wilson(arms[0].mean(axis=(0, 1)), groups)
  assert row.score_interval == pytest.approx([100 * x for x in score])
  labels = [f"{p}/{s}" for p in pretrain_seeds for s in SEEDS]
  assert row.seeds == tuple(labels or SEEDS)
