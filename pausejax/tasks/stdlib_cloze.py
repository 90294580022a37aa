"""The last word of a passage, on the English inside CPython; no network.

  prefix  "If the expression list contains at least one comma, it will evaluate
           to a 'tuple' containing the items of the expression"
  target  "list"

LAMBADA's idea (Paperno et al., 2016) on the embedded corpus: passages that run
from the start of a paragraph up to a word that occurs earlier in it, so that
reading the passage helps more than knowing English; at most three per
paragraph. Passages of the documents that the corpus `stdlib_docs` holds out
are the validation split. For demonstrations and tests: too small and too
narrow for comparing models.
"""

import re
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records, stdlib_docs

_MIN_WORDS, _MAX_WORDS = 8, 60
_MIN_LETTERS = 4
_PER_PARAGRAPH = 3
_HOLDOUT_EVERY = 20  # Equal to `data.holdout_every` of the corpus.


def passages(split: str) -> Iterator[list[str]]:
  """Yields the words of the passages of a split."""
  for number, text in enumerate(stdlib_docs.stdlib_documents()):
    if (number % _HOLDOUT_EVERY == 0) != (split == "validation"):
      continue
    for paragraph in text.split("\n\n"):
      words = paragraph.split()
      ends = range(_MIN_WORDS, min(len(words), _MAX_WORDS) + 1)
      usable = [end for end in ends if _recurs(words[:end])]
      for end in usable[-_PER_PARAGRAPH:]:
        yield words[:end]


def examples(words: list[str]) -> Iterator[tasks.Example]:
  """Yields the one example of a passage."""
  *before, last = words
  target = last.rstrip(".,:;")
  yield tasks.Example(
    id="", prefix=" ".join(before), target=target, references=(target,)
  )


def _recurs(words: list[str]) -> bool:
  """Returns whether the last word is alphabetic and occurs before."""
  last = words[-1].rstrip(".,:;")
  earlier = re.findall(r"\w+", " ".join(words[:-1]))
  return last.isalpha() and len(last) >= _MIN_LETTERS and last in earlier


tasks.register(
  tasks.Task(
    name="stdlib_cloze",
    kind="decode",
    source=records.Generated(
      name="passages of stdlib_docs",
      make={
        "train": lambda: passages("train"),
        "validation": lambda: passages("validation"),
      },
    ),
    examples=examples,
    metrics={"em": metrics.last_word_em},
    num_pauses=10,
    max_target_len=16,
    perplexity=True,
  )
)
