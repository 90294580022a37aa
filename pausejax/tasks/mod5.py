"""Chains of arithmetic modulo 5, from left to right.

  prefix  "d+e*c-b="
  target  "d"           ((3 + 4) * 2 - 1) modulo 5; no operator binds tighter

The letters a to e stand for 0 to 4: as a word of its own each is one token in a
vocabulary of English, so the whole answer is read at the last pause. One to
three operations are drawn from a seed; a checksum of the chain decides the one
in ten that is held out of training, and each chain occurs once in a split. A
constant answer is right in about 27% of the chains.
"""

import functools
import random
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records

_LETTERS = "abcde"
_MAX_OPERATIONS = 3
_NUM_EXAMPLES = {"train": 10_000, "validation": 1_000}
_HOLDOUT_EVERY = 10


def chains(split: str) -> Iterator[str]:
  """Yields the chains of a split, such as "d+e*c-b="."""
  drawn = _different_chains(random.Random(f"mod5 {split}"))
  count = _NUM_EXAMPLES[split]
  for chain in records.of_split(
    drawn, split, count=count, every=_HOLDOUT_EVERY
  ):
    yield f"{chain}="


def value_of_chain(chain: str) -> str:
  """Returns the letter of the value of a chain."""
  value = _LETTERS.index(chain[0])
  for operation, letter in zip(chain[1:-1:2], chain[2:-1:2], strict=True):
    number = _LETTERS.index(letter)
    if operation == "*":
      value *= number
    else:
      value += number if operation == "+" else -number
  return _LETTERS[value % len(_LETTERS)]


def examples(chain: str) -> Iterator[tasks.Example]:
  """Yields the one example of a chain."""
  target = value_of_chain(chain)
  yield tasks.Example(id="", prefix=chain, target=target, references=(target,))


def _different_chains(rng: random.Random) -> Iterator[str]:
  seen = set()
  while True:
    chain = rng.choice(_LETTERS)
    for _ in range(rng.randint(1, _MAX_OPERATIONS)):
      chain += rng.choice("+-*") + rng.choice(_LETTERS)
    if chain not in seen:
      seen.add(chain)
      yield chain


tasks.register(
  tasks.Task(
    name="mod5",
    kind="decode",
    source=records.Generated(
      name="chains modulo 5",
      make={split: functools.partial(chains, split) for split in _NUM_EXAMPLES},
    ),
    examples=examples,
    metrics={"accuracy": metrics.exact_match},
    num_pauses=8,
    max_target_len=2,
  )
)
