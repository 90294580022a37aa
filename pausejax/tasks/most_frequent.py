"""Which of five letters occurs most often?

  prefix  "b e c b b a d c c b a b e d b"    fifteen letters, without a tie
  target  "b"

As words of their own, the letters are one token each in a vocabulary of
English. Prompts come from a seed; a checksum of the prompt decides the one in
fifty that is held out of training.
"""

import collections
import functools
import itertools
import random
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records

_LETTERS = "abcde"
_LENGTH = 15
_NUM_EXAMPLES = {"train": 10_000, "validation": 1_000}
_HOLDOUT_EVERY = 50


def letters_to_count(split: str) -> Iterator[str]:
  """Returns the prompts of a split."""
  rng = random.Random(f"most_frequent {split}")
  drawn = (rng.choices(_LETTERS, k=_LENGTH) for _ in itertools.count())
  prompts = (" ".join(letters) for letters in drawn if not _has_tie(letters))
  count = _NUM_EXAMPLES[split]
  return records.of_split(prompts, split, count=count, every=_HOLDOUT_EVERY)


def examples(prompt: str) -> Iterator[tasks.Example]:
  """Yields the one example of a prompt."""
  ((target, _),) = collections.Counter(prompt.split()).most_common(1)
  yield tasks.Example(id="", prefix=prompt, target=target, references=(target,))


def _has_tie(letters: list[str]) -> bool:
  counts = sorted(map(letters.count, _LETTERS))
  return counts[-1] == counts[-2]


tasks.register(
  tasks.Task(
    name="most_frequent",
    kind="decode",
    source=records.Generated(
      name="strings of five letters",
      make={
        split: functools.partial(letters_to_count, split)
        for split in _NUM_EXAMPLES
      },
    ),
    examples=examples,
    metrics={"accuracy": metrics.exact_match},
    num_pauses=8,
    max_target_len=2,
  )
)
