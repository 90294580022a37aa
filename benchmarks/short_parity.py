"""Parity of 8 bits: `--config.tasks_module=benchmarks.short_parity`.

Examples and hints are those of `pausejax/tasks/parity.py`. There are only 256
strings: each occurs once, in a random order from a seed, and a checksum of the
string decides the one in four that is held out of training.
"""

import functools
import random
from collections.abc import Iterator

from pausejax import metrics, tasks
from pausejax.tasks import parity, records

_NUM_BITS = 8
_HOLDOUT_EVERY = 4


def bit_strings(split: str) -> Iterator[str]:
  """Yields the strings of a split."""
  for number in random.Random(_NUM_BITS).sample(
    range(2**_NUM_BITS), 2**_NUM_BITS
  ):
    bits = f"{number:0{_NUM_BITS}b}"
    held_out = records.is_held_out(bits, _HOLDOUT_EVERY)
    if held_out == (split == "validation"):
      yield bits


tasks.register(
  tasks.Task(
    name="short_parity",
    kind="decode",
    source=records.Generated(
      name=f"all strings of {_NUM_BITS} bits",
      make={
        split: functools.partial(bit_strings, split)
        for split in ("train", "validation")
      },
    ),
    examples=parity.examples,
    metrics={"accuracy": metrics.exact_match},
    num_pauses=_NUM_BITS,
    max_target_len=1,
    delimiter="",
  )
)
