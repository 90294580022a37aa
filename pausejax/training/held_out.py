"""Evaluates a model on held-out batches and examples."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from pausejax import sharding
from pausejax.data.batch import Batch
from pausejax.model.decoder import Decoder

Sums = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The results of an evaluation.

  Attributes:
    sums: sums of `step.evaluate_batch` over all held-out batches.
    plain_sums: the same over the same text without pauses: `sums` itself if
      there are no pauses, None in finetuning.
    answers: metrics of the answers in percent; empty in pretraining.
    samples: continuations of prompts, see `evaluation/samples.py`.
  """

  sums: Sums
  plain_sums: Sums | None
  answers: dict[str, float]
  samples: Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
  """Evaluates models on held-out data.

  Attributes:
    evaluate_batch: jitted (model, device batch) -> sums.
    batches: returns an iterator over the held-out batches.
    plain_batches: the same without pauses: `batches` itself if there are no
      pauses, None in finetuning.
    answer: (model, callback between batches) -> metrics of its answers to
      held-out examples, in percent; "score" selects the best checkpoint. Empty
      in pretraining.
    sample: model -> its continuations of prompts.
  """

  evaluate_batch: Callable[..., dict[str, jax.Array]]
  batches: Callable[[], Iterator[Batch]]
  plain_batches: Callable[[], Iterator[Batch]] | None
  answer: Callable[[Any, Callable[..., None]], dict[str, float]]
  sample: Callable[[Any], Sequence[dict[str, Any]]]

  def evaluate(self, model: Decoder, check: Callable[..., None]) -> Evaluation:
    """Returns the sums over all held-out batches, answers and samples.

    Args:
      model: the decoder, placed on the mesh.
      check: called before the first batch and after each; may raise.
    """
    check()
    answers = self.answer(model, check)
    sums = self._sums(model, self.batches, check)
    plain_sums = None
    if self.plain_batches is self.batches:
      plain_sums = sums
    elif self.plain_batches is not None:
      plain_sums = self._sums(model, self.plain_batches, check)
    return Evaluation(sums, plain_sums, answers, self.sample(model))

  def _sums(self, model, batches, check) -> Sums:
    total: Sums = collections.defaultdict(float)
    running: Mapping[str, jax.Array] = {}
    for batch in batches():
      sums = self.evaluate_batch(model, sharding.put_batch(batch))
      _add(total, running)  # While the device computes this batch.
      running = sums
      check()
    _add(total, running)
    return dict(total)


def _add(total: Sums, sums: Mapping[str, jax.Array]) -> None:
  """Adds the sums of a batch, for which it waits."""
  for name, value in jax.device_get(sums).items():
    total[name] += float(value)
