"""The tasks that make their own examples: parity, 3SUM, CPython's English."""

import itertools

import numpy as np
import pytest

from pausejax import tasks
from pausejax.tasks import match3, parity, stdlib_choice, stdlib_cloze

NUM = 2000


def some(iterator):
  return list(itertools.islice(iterator, NUM))


def test_parity_and_its_hints_are_those_of_the_string():
  for bits in some(parity.bit_strings(20, "train")):
    (example,) = parity.examples(bits)
    ones = sum(map(int, example.prefix))
    assert int(example.target) == ones % 2
    # As many targets as pauses before the last one; they count the ones.
    assert len(example.hints) == len(bits) - 1
    assert example.hints.count("+") == min(ones, len(bits) - 1)
    assert "-+" not in "".join(example.hints)


def test_no_held_out_string_is_trained_on():
  train = set(parity.bit_strings(20, "train"))
  held_out = set(parity.bit_strings(20, "validation"))
  assert len(held_out) > 3500  # Of 4,096 draws.
  assert not train & held_out


def test_strings_are_reproducible_and_parity_is_balanced():
  first = some(parity.bit_strings(20, "train"))
  assert first == some(parity.bit_strings(20, "train"))
  odd = sum(bits.count("1") % 2 for bits in first)
  assert abs(odd - NUM / 2) < 4 * (NUM / 4) ** 0.5  # Four deviations.


FITS = {
  "match3": lambda digits: sum(digits) % 10 == 0,
  "match3_small": lambda digits: sum(digits) == 6,
}


def has_triple(vectors, name) -> bool:
  """The definition, by trying every triple."""
  return any(
    all(map(FITS[name], zip(*triple, strict=True)))
    for triple in itertools.combinations(vectors, 3)
  )


@pytest.mark.parametrize(("name", "size"), match3.SIZES.items())
def test_3sum_labels_are_right_and_half_of_them_true(name, size):
  found = some(match3.instances("validation", name))
  for record in found:
    vectors = np.array(record["vectors"])
    assert vectors.shape == (size.num_vectors, size.num_digits)
    assert vectors.min() >= 0 and vectors.max() < size.num_values
    assert has_triple(record["vectors"], name) == (record["answer"] == "T")
  assert sum(r["answer"] == "T" for r in found) == NUM / 2


@pytest.mark.parametrize(("name", "size"), match3.SIZES.items())
def test_the_work_of_3sum_is_right_and_as_long_as_the_pauses(name, size):
  task, shown = tasks.downstream(name), tasks.downstream(f"{name}_cot")
  pairs = list(itertools.combinations(range(size.num_vectors), 2))
  for record in some(match3.instances("validation", name))[:200]:
    vectors = record["vectors"]
    (short,) = task.examples(record)
    (long,) = shown.examples(record)
    assert short.prefix == long.prefix and short.target == long.target[-1]
    assert len(long.target) == task.num_pauses + len(short.target)
    for (i, j), at in zip(pairs, range(0, task.num_pauses, 2), strict=True):
      first, second = long.target[at : at + 2]
      a, b = vectors[i], vectors[j]
      thirds = {
        match3._LETTERS[k]
        for k, c in enumerate(vectors)
        if k not in (i, j) and has_triple([a, b, c], name)
      }
      sums = [str(x + y)[-1] for x, y in zip(a, b, strict=True)]
      if name == "match3":
        assert first in match3._LETTERS[i] + match3._LETTERS[j]
        assert second in (thirds or sums)
      else:
        assert first in (thirds or sums[0]) and second == sums[-1]


def test_3sum_is_reproducible_and_trains_on_nothing_that_is_held_out():
  train, held_out = (
    list(match3.instances(split, "match3_small"))
    for split in ("train", "validation")
  )
  assert held_out == list(match3.instances("validation", "match3_small"))
  assert not {tuple(r["vectors"]) for r in train} & {
    tuple(r["vectors"]) for r in held_out
  }


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_last_word_of_a_passage_stands_earlier_in_it(split):
  for words in some(stdlib_cloze.passages(split)):
    (example,) = stdlib_cloze.examples(words)
    assert example.target in example.prefix and example.target.isalpha()


@pytest.mark.slow
def test_the_right_line_is_among_four_different_ones():
  lines = dict(map(reversed, stdlib_choice.functions()))
  for record in some(stdlib_choice.choices("validation")):
    assert len(set(record["options"])) == 4
    right = record["options"][record["label"]]
    assert lines[right] == record["signature"]
