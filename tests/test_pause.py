"""Pauses in pretraining text: where they are, how many, and what is refused."""

import ast
import itertools
import math
import pathlib

import numpy as np
import pytest

from pausejax import errors, pause, prompt_pauses

PAUSE = 999
UNIFORM = ("insert_trim", "exact")
CASES = [
  (seq_len, fraction, mode)
  for seq_len in (7, 64, 65)
  for fraction in (0.0, 0.1, 0.5, 0.9)
  for mode in UNIFORM
]


def tokens(num_rows, num_text):
  """Distinct ids, none of them the pause."""
  ids = np.arange(num_rows * num_text, dtype=np.int32)
  return 1000 + ids.reshape(num_rows, num_text)


def spec(fraction, mode="insert_trim"):
  return pause.PauseSpec(fraction=fraction, mode=mode)


def insert(seq_len, fraction, mode, seed=0, positions=range(4), text=None):
  positions = np.asarray(positions)
  if text is None:
    text = tokens(len(positions), spec(fraction, mode).num_text_tokens(seq_len))
  return text, spec(fraction, mode).insert(
    text,
    seq_len=seq_len,
    pause_id=PAUSE,
    seed=seed,
    rows_B=positions,
  )


def masks(seed, positions, seq_len, fraction, mode):
  return spec(fraction, mode).mask(seed, np.asarray(positions), seq_len)


def chi_square(counts, expected):
  return float(np.sum((counts - expected) ** 2 / expected))


def upper_quantile(dof):
  """The 99.99% quantile of chi-square (Wilson and Hilferty, 1931)."""
  return dof * (1 - 2 / (9 * dof) + 3.72 * math.sqrt(2 / (9 * dof))) ** 3


@pytest.mark.parametrize(
  ("dtype", "num_rows"), [(np.int8, 2), (np.int32, 3), (np.int32, 1)]
)
def test_segments_that_cannot_hold_the_pauses_are_refused(dtype, num_rows):
  with pytest.raises(errors.UsageError, match="do not fit"):
    spec(0.25, "insert_trim").insert(
      np.ones((2, 8), dtype),
      seq_len=8,
      pause_id=300,
      seed=0,
      rows_B=np.arange(num_rows),
    )


@pytest.mark.parametrize(("seq_len", "fraction", "mode"), CASES)
def test_text_without_its_pauses_is_a_prefix(seq_len, fraction, mode):
  text, shown = insert(seq_len, fraction, mode, positions=range(50))
  assert shown.shape == (50, seq_len)
  assert shown.dtype == text.dtype
  for before, after in zip(text, shown, strict=True):
    kept = pause.remove_pauses(after, PAUSE)
    np.testing.assert_array_equal(kept, before[: len(kept)])
    if mode == "exact":
      assert len(kept) == len(before)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_exact_mode_has_exactly_k_pauses(fraction):
  is_pause = masks(1, range(500), 64, fraction, "exact")
  k = spec(fraction).way.num_inserted(64)
  assert set(is_pause.sum(axis=1)) == {k}


@pytest.mark.parametrize(
  ("seq_len", "fraction", "count"),
  [(2048, 0.1, 205), (2048, 0.0, 0), (10, 0.05, 1), (10, 0.25, 3), (1, 0.4, 0)],
)
def test_the_number_inserted_rounds_halves_up(seq_len, fraction, count):
  assert spec(fraction).way.num_inserted(seq_len) == count


def test_survivors_of_the_trim_are_hypergeometric():
  num_rows, seq_len, k = 4000, 2048, 205
  counts = masks(7, range(num_rows), seq_len, 0.1, "insert_trim").sum(axis=1)
  slots = seq_len + k
  mean = k * seq_len / slots
  variance = mean * (1 - seq_len / slots) * (slots - k) / (slots - 1)
  assert round(mean, 1) == 186.3
  error = math.sqrt(variance / num_rows)
  assert abs(counts.mean() - mean) < 4 * error  # 1 seed in 16,000 is worse.
  # The relative error of a variance of n normal values is sqrt(2 / n).
  assert abs(counts.var() / variance - 1) < 4 * math.sqrt(2 / num_rows)
  assert counts.max() <= k


@pytest.mark.parametrize("mode", UNIFORM)
def test_every_slot_is_equally_likely(mode):
  num_rows, seq_len, fraction = 20_000, 40, 0.25
  is_pause = masks(3, range(num_rows), seq_len, fraction, mode)
  k = spec(fraction).way.num_inserted(seq_len)
  slots = seq_len + k * (mode == "insert_trim")
  p = k / slots
  # Each count is binomial. That slots exclude each other makes the largest
  # eigenvalue of their correlation slots / (slots - 1), so this scaled sum is
  # at most chi-square with a degree of freedom a slot.
  statistic = chi_square(is_pause.sum(axis=0), num_rows * p) / (1 - p)
  assert statistic * (slots - 1) / slots < upper_quantile(seq_len)


@pytest.mark.parametrize(("n", "k"), [(6, 3), (7, 2)])
def test_all_subsets_are_equally_likely(n, k):
  num_rows = 20_000
  is_pause = masks(5, range(num_rows), n, k / n, "exact")
  codes, counts = np.unique(is_pause @ (1 << np.arange(n)), return_counts=True)
  subsets = {
    sum(1 << i for i in chosen)
    for chosen in itertools.combinations(range(n), k)
  }
  assert set(codes.tolist()) == subsets
  assert chi_square(counts, num_rows / len(subsets)) < upper_quantile(
    len(subsets) - 1
  )


def test_all_subsets_before_the_trim_are_equally_likely():
  # n = 4, k = 2: of the 15 pairs of 6 slots, those that look alike after the
  # trim count together.
  num_rows = 30_000
  is_pause = masks(11, range(num_rows), 4, 0.5, "insert_trim")
  found = np.bincount(is_pause @ (1 << np.arange(4)), minlength=16)
  expected = np.zeros(16)
  for chosen in itertools.combinations(range(6), 2):
    expected[sum(1 << i for i in chosen if i < 4)] += num_rows / 15
  possible = expected > 0
  assert not found[~possible].any()
  statistic = chi_square(found[possible], expected[possible])
  assert statistic < upper_quantile(possible.sum() - 1)


@pytest.mark.parametrize("offset", [1, 2, 256])
def test_neighboring_positions_are_uncorrelated(offset):
  rows = np.arange(2000)
  assert_uncorrelated(
    masks(0, rows, 128, 0.25, "exact"),
    masks(0, rows + offset, 128, 0.25, "exact"),
  )


@pytest.mark.parametrize("seeds", [(0, 1), (0, -1), (1, 2), (0, 2**32)])
def test_neighboring_seeds_are_uncorrelated(seeds):
  rows = np.arange(2000)
  first, second = (masks(s, rows, 128, 0.25, "exact") for s in seeds)
  assert_uncorrelated(first, second)
  # Nor is a seed another one with its positions moved.
  assert_uncorrelated(first[1:], second[:-1])
  assert_uncorrelated(first[:-1], second[1:])


def assert_uncorrelated(a, b):
  correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
  assert abs(correlation) < 4 / math.sqrt(a.size)


@pytest.mark.parametrize("mode", UNIFORM)
def test_rows_do_not_depend_on_the_batch_they_are_in(mode):
  positions = np.arange(1000, 1024)
  whole = masks(9, positions, 64, 0.2, mode)
  for size in (1, 5, 8, 24):
    parts = [
      masks(9, positions[i : i + size], 64, 0.2, mode)
      for i in range(0, 24, size)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  backwards = masks(9, positions[::-1], 64, 0.2, mode)
  np.testing.assert_array_equal(backwards[::-1], whole)


def test_the_integer_type_of_the_positions_does_not_matter():
  positions = np.arange(20)
  for dtype in (np.int32, np.int64, np.uint64):
    np.testing.assert_array_equal(
      masks(2, positions.astype(dtype), 32, 0.3, "exact"),
      masks(2, positions, 32, 0.3, "exact"),
    )


@pytest.mark.parametrize(
  "seed", [-1, -(2**63), 2**63, 2**64 - 1, 10**30, -(10**30)]
)
@pytest.mark.parametrize("mode", UNIFORM)
def test_any_int_is_a_seed(seed, mode):
  is_pause = masks(seed, range(200), 64, 0.25, mode)
  np.testing.assert_array_equal(
    is_pause, masks(seed, range(200), 64, 0.25, mode)
  )
  assert not np.array_equal(is_pause, masks(0, range(200), 64, 0.25, mode))
  assert is_pause.any() and not is_pause.all()


def test_late_positions_of_a_long_run_get_their_own_pauses():
  positions = np.array([0, 2**31, 2**32, 2**40, 2**62])
  rows = masks(0, positions, 256, 0.2, "exact")
  assert len(np.unique(rows, axis=0)) == len(positions)


@pytest.mark.parametrize("mode", UNIFORM)
@pytest.mark.parametrize("fraction", [0.0, 0.001])
def test_no_pause_is_the_identity(mode, fraction):
  text, shown = insert(64, fraction, mode)
  np.testing.assert_array_equal(shown, text)


def test_inputs_are_not_modified():
  text, _ = insert(64, 0.5, "exact")
  before = text.copy()
  insert(64, 0.5, "exact", text=text)
  np.testing.assert_array_equal(text, before)


def test_a_batch_may_be_empty():
  _, shown = insert(16, 0.25, "exact", positions=[])
  assert shown.shape == (0, 16)


def test_the_pauses_of_a_text_are_found_by_their_id():
  ids = np.array([[5, PAUSE, PAUSE, 0], [PAUSE, PAUSE + 1, 2, PAUSE]])
  for fraction in (0.0, 0.1):
    np.testing.assert_array_equal(
      spec(fraction).is_pause(ids, PAUSE),
      [[False, True, True, False], [True, False, False, True]],
    )


def test_an_unknown_mode_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'insert_trim'"):
    spec(0.1, "insert-trim")
  with pytest.raises(errors.UsageError, match="did you mean 'exact'"):
    masks(0, [0], 8, 0.1, "exakt")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, math.nan, math.inf])
def test_an_impossible_fraction_is_an_error(fraction):
  with pytest.raises(errors.UsageError, match="pause_fraction: must be"):
    masks(0, [0], 8, fraction, "exact")


def test_pauses_that_leave_no_text_are_an_error():
  for seq_len, fraction in ((1, 0.5), (4, 0.9)):
    assert spec(fraction).num_text_tokens(seq_len) == seq_len
    with pytest.raises(errors.UsageError, match="no position for text"):
      spec(fraction, "exact").num_text_tokens(seq_len)


@pytest.mark.parametrize("num_pauses", [0, 1, 9])
def test_a_mask_with_other_places_than_promised_is_an_error(
  num_pauses, monkeypatch
):
  def mask(self, seed, rows_B, seq_len, ends_BN=None):
    return np.tile(np.arange(seq_len) < num_pauses, (len(rows_B), 1))

  monkeypatch.setattr(pause.pause_places.Exact, "mask", mask)
  with pytest.raises(errors.UsageError, match=f"leaves {10 - num_pauses} pos"):
    insert(10, 0.5, "exact")


@pytest.mark.parametrize("mode", UNIFORM)
def test_segments_of_another_length_are_an_error(mode):
  num_text = spec(0.25, mode).num_text_tokens(16)
  for wrong in (num_text - 1, num_text + 1):
    with pytest.raises(errors.UsageError, match=f"{num_text} tokens"):
      insert(16, 0.25, mode, text=tokens(4, wrong))


@pytest.mark.parametrize("mode", UNIFORM)
def test_the_expected_number_of_pauses_is_that_of_many_segments(mode):
  num_rows, seq_len = 4000, 64
  counts = masks(13, range(num_rows), seq_len, 0.25, mode).sum(axis=1)
  mean, variance = spec(0.25, mode).expected_pauses(seq_len)
  assert abs(counts.mean() - mean) <= 4 * math.sqrt(variance / num_rows)
  # The relative error of a variance of n normal values is sqrt(2 / n).
  bound = 4 * math.sqrt(2 / num_rows) * variance
  assert abs(counts.var() - variance) <= bound


def test_only_pause_py_names_pause_modes_and_positions():
  """Neither a mode nor a position is compared, or listed, anywhere else."""
  names = {*pause.MODES, *prompt_pauses.POSITIONS}
  package = pathlib.Path(pause.__file__).parent
  found = []
  for path in sorted(package.rglob("*.py")):
    if path.name in ("pause_places.py", "prompt_pauses.py"):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if _asks(node, names):
        found.append(f"{path.relative_to(package)}:{node.lineno}")
  assert found == []


def _asks(node, names):
  """Whether a comparison, a key of a dict or a case names a way of pausing."""
  if isinstance(node, ast.Compare):
    parts = [node.left, *node.comparators]
  elif isinstance(node, ast.Dict):
    parts = [key for key in node.keys if key]
  elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
    parts = node.elts
  elif isinstance(node, ast.MatchValue | ast.Subscript):
    parts = [node.value if isinstance(node, ast.MatchValue) else node.slice]
  else:
    return False
  values = [n.value for p in parts for n in ast.walk(p) if _is_text(n)]
  return bool(names & {*values})


def _is_text(node):
  return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
  "line",
  [
    "x.pause_mode == 'exact'",
    "x in ('append', 'both')",
    "{'append': 1}[x]",
    "table['prepend']",
    "match x:\n  case 'insert_trim': pass",
  ],
)
def test_a_comparison_with_a_pause_mode_is_detected(line):
  nodes = ast.walk(ast.parse(line))
  names = {*pause.MODES, *prompt_pauses.POSITIONS}
  assert any(_asks(node, names) for node in nodes)
