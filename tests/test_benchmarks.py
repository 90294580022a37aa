"""The benchmarks run at toy size, and their baselines compute what we do."""

import argparse
import sys

import pytest

from benchmarks import measure, step
from benchmarks.arms.shapes import SHAPES


def test_a_ratio_is_the_median_of_the_rounds_ratios():
  taken = {"a": [1.0, 2.0, 4.0], "b": [3.0, 2.0, 8.0]}
  (a, b) = measure.compare(taken, "a")
  assert a["ratio"] == 1.0
  assert b["ratio"] == 2.0
  assert b["median_s"] / a["median_s"] == 1.5


def test_each_arm_begins_in_turn():
  calls = []
  arms = {name: (lambda n=name: calls.append(n)) for name in "abc"}
  measure.take_turns(arms, rounds=3, warmup=0)
  assert "".join(calls) == "abcbcacab"


@pytest.fixture
def no_torch(monkeypatch):
  for name in ("torch", "transformers"):
    monkeypatch.setitem(sys.modules, name, None)


def test_step_checks_losses_and_names_what_is_missing(no_torch, capsys):
  options = argparse.Namespace(arms="", rounds=2)
  rows = step.one_kind("gpt", SHAPES["toy"], options, [])
  assert [row["name"] for row in rows if "ratio" in row] == [
    "gpt: pausejax",
    "gpt: plain jax",
  ]
  missing = [row for row in rows if "missing" in row]
  assert [row["missing"] for row in missing] == ["torch is not installed"] * 2
  measure.print_table(rows, {"ratio": ".3f"})
  assert "pytorch compiled torch is not installed" in capsys.readouterr().out


def test_losses_that_differ_stop_the_benchmark():
  class Constant:
    def __init__(self, *losses):
      self._losses = iter(losses)

    def step(self, batch):
      return next(self._losses)

  same, other = Constant(3.0, 2.0, 1.0), Constant(3.0, 2.0, 1.001)
  with pytest.raises(SystemExit, match="other: loss"):
    step.require_same_losses({"pausejax": same, "other": other}, [0, 1, 2])
