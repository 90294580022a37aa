"""Parity of a bit string: pauses compute what one position cannot.

  prefix  "01101110010101101011"
  target  "0"                       the sum of the bits modulo 2
  hints   "++++++++++++-------"     is the sum at least 1, 2, 3, ...?

London and Kanade (2025, arXiv 2505.21024) train two layers on uniformly random
strings and give pauses thresholds of the sum as targets; without pauses the
same model stays at chance. Their exact encoding is not public: here hint j is
"+" if the sum is at least j, else "-". With as many pauses as bits the hints
fall on all pauses but the last, which predicts the parity; without pauses they
fall on the bits themselves. `finetune.hints=false` leaves them out.

Strings come from a seed; a checksum of the string decides the one in fifty that
is held out of training.
"""

import functools
import itertools
import random
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import records

_LENGTHS = (20, 100, 300)
_NUM_EXAMPLES = {"train": 400_000, "validation": 4_096}
_HOLDOUT_EVERY = 50


def bit_strings(num_bits: int, split: str) -> Iterator[str]:
  """Returns the strings of a split, from a seed of the split."""
  rng = random.Random(f"{num_bits} {split}")
  drawn = (
    f"{rng.getrandbits(num_bits):0{num_bits}b}" for _ in itertools.count()
  )
  count = _NUM_EXAMPLES[split]
  return records.of_split(drawn, split, count=count, every=_HOLDOUT_EVERY)


def examples(bits: str) -> Iterator[tasks.Example]:
  """Yields the one example of a string."""
  total = bits.count("1")
  target = str(total % 2)
  yield tasks.Example(
    id="",
    prefix=bits,
    target=target,
    references=(target,),
    hints=["+" if total >= j else "-" for j in range(1, len(bits))],
  )


for _num_bits in _LENGTHS:
  tasks.register(
    tasks.Task(
      name=f"parity{_num_bits}",
      kind="decode",
      source=records.Generated(
        name=f"random strings of {_num_bits} bits",
        make={
          split: functools.partial(bit_strings, _num_bits, split)
          for split in _NUM_EXAMPLES
        },
      ),
      examples=examples,
      metrics={"accuracy": metrics.exact_match},
      num_pauses=_num_bits,
      max_target_len=1,
      delimiter="",
    )
  )
