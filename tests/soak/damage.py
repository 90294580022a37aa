"""Every file of a step, damaged in every way, read by every reader."""

import collections
import pathlib

from pausejax.selftest import readers
from pausejax.selftest.damage import DAMAGES
from tests import toys

# A shape that transformers has, too.
_EXPORTED = ("--config.model.mlp=swiglu", "--config.model.bias=false")


def soak(folder: pathlib.Path) -> collections.Counter:
  """Damages a small run; returns what was counted.

  Raises:
    UserError: damage was read as if it were what was saved.
  """
  corpus, run = folder / "corpus", folder / "run"
  toys.write_corpus(corpus)
  words = "--config.num_steps=8", *_EXPORTED
  toys.finish(toys.command(corpus, run, *words))
  found = readers.count_detected(run, DAMAGES)
  counts = collections.Counter(
    {f"detected by {name}": n for name, n in found["detected"].items()}
  )
  counts["files"], counts["comparisons"] = found["files"], found["reads"]
  return counts
