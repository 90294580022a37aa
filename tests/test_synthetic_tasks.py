"""The tasks that make their own examples: parity, 3SUM, CPython's English."""

import itertools

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


def has_triple(vectors) -> bool:
  """The definition, by trying every triple."""
  return any(
    all(sum(digits) % 10 == 0 for digits in zip(*triple, strict=True))
    for triple in itertools.combinations(vectors, 3)
  )


def test_3sum_labels_are_right():
  found = some(match3.instances("validation"))
  for record in found:
    assert has_triple(record["vectors"]) == (record["answer"] == "T")
  assert sum(r["answer"] == "T" for r in found) == NUM / 2


def test_the_hints_of_3sum_are_right_and_as_long_as_the_pauses():
  task, shown = tasks.downstream("match3"), tasks.downstream("match3_cot")
  pairs = list(itertools.combinations(range(10), 2))
  for record in some(match3.instances("validation"))[:200]:
    (short,) = task.examples(record)
    (long,) = shown.examples(record)
    assert short.prefix == long.prefix and short.target == long.target[-1]
    assert len(long.target) == task.num_pauses + len(short.target)
    for (i, j), at in zip(pairs, range(0, 90, 2), strict=True):
      who, said = long.target[at : at + 2]
      a, b = record["vectors"][i], record["vectors"][j]
      assert who in match3._LETTERS[i] + match3._LETTERS[j]
      if said.isdigit():
        assert int(said) in [(x + y) % 10 for x, y in zip(a, b, strict=True)]
      else:
        c = record["vectors"][match3._LETTERS.index(said)]
        assert has_triple([a, b, c])


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
