"""Small tasks and their sequences, which several tests of finetuning share."""

import numpy as np

from pausejax import tasks
from pausejax.config import FinetuneConfig, default
from pausejax.data import tokenizers
from pausejax.data.batch import Batch
from pausejax.data.finetuning import examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.tasks import records
from tests import models

BYTES = tokenizers.load_tokenizer("bytes")
BOS, EOS, PAUSE = BYTES.bos_id, BYTES.eos_id, BYTES.pause_id


class Letters(tokenizers.ByteTokenizer):
  """Printable ASCII as ids 3 to 97: the vocabulary of `models`."""

  vocab_size = models.PAUSE_ID
  _first_byte = 3 - 32


LETTERS = tokenizers.PauseTokenizer(Letters())


def task(name="fake", **changes) -> tasks.Task:
  fields = dict(
    name=name,
    kind="decode",
    source=records.Generated(name=name, make={}),
    examples=lambda record: [record],
    metrics={"em": lambda answer, references: 1.0},
    num_pauses=3,
  )
  return tasks.Task(**(fields | changes))


def questions(count: int, seed: int = 0, name: str = "q") -> list:
  """Examples of random lengths, each with a text of its own."""
  rng = np.random.default_rng(seed)
  return [
    tasks.Example(
      id=str(i),
      prefix=f"{name}{i} " + "x" * int(rng.integers(0, 8)),
      target="y" * int(rng.integers(1, 5)),
      references=("y",),
    )
    for i in range(count)
  ]


def config(**changes) -> FinetuneConfig:
  fields = default().finetune.to_dict()
  return FinetuneConfig(**{**fields, **changes})


def encoded(
  rows, *, seq_len=32, tokenizer=BYTES, task_=None, **changes
) -> TaskSequences:
  """Sequences of the examples, as the finetuning settings say."""
  task_, config_ = task_ or task(), config(**changes)
  return TaskSequences(
    examples.Examples("train", list(rows), {}, "digest"),
    prompts.Format(task_, tokenizer, config_.pauses(task_.num_pauses)),
    config_,
    seq_len,
  )


def unpacked(batch: Batch) -> list[tuple]:
  """The examples of a batch, row by row: (tokens, targets, counts)."""
  found = []
  for b in range(len(batch["tokens"])):
    for number in range(1, batch["segment_ids"][b].max() + 1):
      here = batch["segment_ids"][b] == number
      names = ("tokens", "targets", "loss_mask")
      found.append(tuple(tuple(batch[n][b, here].tolist()) for n in names))
  return found
