"""Which letter is in the middle when they are sorted?

  prefix  "d a f b b h e"    seven of the letters a to h; sorted: a b b d e f h
  target  "d"

As words of their own, the letters are one token each in a vocabulary of
English. Prompts come from a seed; a checksum of the prompt decides the one in
fifty that is held out of training.
"""

import functools
import itertools
import random
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records

_LETTERS = "abcdefgh"
_LENGTH = 7
_NUM_EXAMPLES = {"train": 10_000, "validation": 1_000}
_HOLDOUT_EVERY = 50


def letters_to_sort(split: str) -> Iterator[str]:
  """Returns the prompts of a split."""
  rng = random.Random(f"median {split}")
  drawn = (
    " ".join(rng.choices(_LETTERS, k=_LENGTH)) for _ in itertools.count()
  )
  count = _NUM_EXAMPLES[split]
  return records.of_split(drawn, split, count=count, every=_HOLDOUT_EVERY)


def examples(prompt: str) -> Iterator[tasks.Example]:
  """Yields the one example of a prompt."""
  target = sorted(prompt.split())[_LENGTH // 2]
  yield tasks.Example(id="", prefix=prompt, target=target, references=(target,))


tasks.register(
  tasks.Task(
    name="median",
    kind="decode",
    source=records.Generated(
      name="letters to sort",
      make={
        split: functools.partial(letters_to_sort, split)
        for split in _NUM_EXAMPLES
      },
    ),
    examples=examples,
    metrics={"accuracy": metrics.exact_match},
    num_pauses=8,
    max_target_len=2,
  )
)
