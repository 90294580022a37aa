"""The tasks of configs/study_laptop.py, against solutions of their own."""

import itertools

import pytest

from pausejax import config, errors, tasks
from pausejax.data.finetuning import examples
from pausejax.tasks import book_words, median, mod5, most_frequent

MADE = {
  "mod5": (mod5, mod5.chains),
  "most_frequent": (most_frequent, most_frequent.letters_to_count),
  "median": (median, median.letters_to_sort),
}
BOOKS = 4


def solve_mod5(chain: str) -> str:
  """Computes the value from the right: the last operation is the outermost."""
  text = chain.rstrip("=")
  if len(text) == 1:
    return text
  value = "abcde".index(solve_mod5(text[:-2]))
  number = "abcde".index(text[-1])
  values = {"+": value + number, "-": value - number, "*": value * number}
  return "abcde"[values[text[-2]] % 5]


def solve_most_frequent(prompt: str) -> str:
  letters = prompt.split()
  (best,) = [
    a
    for a in {*letters}
    if all(letters.count(a) > letters.count(b) for b in {*letters} - {a})
  ]
  return best


def solve_median(prompt: str) -> str:
  letters = prompt.split()
  return next(
    a
    for a in letters
    if sum(b < a for b in letters) <= 3 and sum(b > a for b in letters) <= 3
  )


SOLVE = {
  "mod5": solve_mod5,
  "most_frequent": solve_most_frequent,
  "median": solve_median,
}


@pytest.mark.parametrize("name", MADE)
def test_the_answer_is_right_and_the_only_reference(name):
  module, prompts = MADE[name]
  for prompt in prompts("validation"):
    (example,) = module.examples(prompt)
    assert example.prefix == prompt
    assert example.target == SOLVE[name](prompt)
    assert example.references == (example.target,)


@pytest.mark.parametrize("name", MADE)
def test_no_held_out_prompt_is_trained_on(name):
  _, prompts = MADE[name]
  train, held_out = list(prompts("train")), list(prompts("validation"))
  assert (len(train), len(held_out)) == (10_000, 1_000)
  assert not {*train} & {*held_out}
  again = itertools.islice(prompts("train"), 500)
  assert list(again) == train[:500]


def test_chains_have_one_to_three_operations_and_occur_once():
  chains = [*mod5.chains("train"), *mod5.chains("validation")]
  assert len({*chains}) == len(chains)
  assert {len(chain) for chain in chains} == {4, 6, 8}


@pytest.fixture
def library(tmp_path):
  """A folder of books, whose sentences end in words of their own."""
  for number in range(BOOKS):
    paragraphs = [
      f"He went on and on and said to them: go to the {'abc'[i % 3]}{'x' * i}!"
      f"\r\nThey all did so, in the end, and came to book {letters}."
      for i, letters in enumerate(["one", "two", "three"])
    ]
    extra = ["Too short.", "CHAPTER 1 has no word at its end, of 1805."]
    text = "\r\n\r\n".join([*paragraphs, *extra])
    (tmp_path / f"{number}.txt").write_bytes(text.encode())
  return tmp_path


def read(folder, split: str) -> examples.Examples:
  data = config.DataConfig(local_dir=str(folder), holdout_every=BOOKS)
  return examples.read_split(tasks.downstream("book_words"), split, data)


def test_passages_end_a_paragraph_with_a_word(library):
  rows = read(library, "validation").rows
  assert [row.target for row in rows] == ["one", "two", "three"]
  for row in rows:
    assert len(row.prefix.split()) < 24
    assert row.prefix.endswith("in the end, and came to book")


def test_passages_of_a_held_out_book_are_not_trained_on(library):
  (library / "0.txt").write_text("They were all in the house that he held.\n")
  assert len(read(library, "validation").rows) == 1
  train = read(library, "train").rows
  assert len(train) == 3 * (BOOKS - 1)
  assert "held" not in {row.target for row in train}


def test_a_long_book_gives_evenly_spaced_passages():
  words = [f"{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in range(1300)]
  text = "\n\n".join(f"he said that she had come to {w}." for w in words)
  taken = book_words.book_passages(text)
  assert len(taken) == 500
  assert [p[-1] for p in taken] == [f"{w}." for w in words[::2][:500]]


def test_books_need_a_folder():
  with pytest.raises(errors.UserError, match=r"data\.local_dir: task 'book_w"):
    read("", "train")
