"""Compares finetuning on packed and on padded rows: real tokens per second.

  python -m benchmarks.packing
  python -m benchmarks.packing --task=squad --local_dir=/data/squad \\
    --tokenizer=spiece.model --seq_len=512

The lengths are those of the training split of a task, including pauses. Three
arms with the same number of rows per batch: one example per row, padded to
--seq_len; the same, padded to the longest example of the batch (rounded up to
64, each width compiled once); several examples per row, as `pausejax train`
packs them. Every turn uses the same few batches. "ratio" is the time per real
position divided by that of the packed arm.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks import measure
from pausejax.config import TrainConfig, load_config, train_config
from pausejax.data.batch import Batch

WIDTH_MULTIPLE = 64


def main(argv: list[str] | None = None) -> None:
  """Measures everything and prints it."""
  parser = measure.parser(__doc__, rounds=5)
  add = parser.add_argument
  add("--task", default="stdlib_cloze")
  add("--local_dir", default="", help="folder of the task's published files")
  add("--tokenizer", default="bytes", help="bytes, a .model or .json file")
  add("--pauses", type=int, default=10, help="pauses after each prefix")
  add("--seq_len", type=int, default=512, help="positions of a row")
  add("--layers", type=int, default=4)
  add("--width", type=int, default=256)
  add("--batches", type=int, default=4, help="batches per turn")
  add("--threads", type=int, default=2)
  options = parser.parse_args(argv)
  measure.set_up_cpu(options.threads)
  start = measure.conditions()
  rows = measure_arms(options)
  columns = {"ratio": ".3f", "real_tokens_per_s": ",.0f", "real": ".1%"}
  measure.print_table(rows, columns)
  measure.publish("packing", options, rows, start=start)


def run_config(options: argparse.Namespace) -> TrainConfig:
  """Returns configs/finetune_smoke.py with the sizes of this benchmark."""
  c = load_config(f"finetune_smoke:task={options.task},pauses={options.pauses}")
  c.data.local_dir = options.local_dir
  c.data.tokenizer = options.tokenizer
  c.data.seq_len = options.seq_len
  c.model.num_layers = c.model.scan_unroll = options.layers
  c.model.d_model = options.width
  c.model.num_heads = options.width // 64
  return train_config(c.to_dict())


def measure_arms(options: argparse.Namespace) -> list[measure.Row]:
  """Returns one row per arm."""
  from benchmarks.arms import ours
  from pausejax.data import tokenizers

  config = run_config(options)
  tokenizer = tokenizers.load_tokenizer(config.data.tokenizer)
  made = arm_batches(config, tokenizer, options.batches)
  arms = {}
  for name, data in made.items():
    trainer = ours.Trainer(config, tokenizer.vocab_size)
    arms[name] = lambda t=trainer, d=data: [t.step(batch) for batch in d]
  taken = measure.take_turns(arms, rounds=options.rounds)
  real = {name: num_real(data) for name, data in made.items()}
  rows = measure.compare(
    {name: [t / real[name] for t in times] for name, times in taken.items()},
    "packed",
  )
  for row in rows:
    row["real_tokens_per_s"] = 1 / row["median_s"]
    shown = sum(batch["tokens"].size for batch in made[row["name"]])
    row["real"] = real[row["name"]] / shown
  return rows


def arm_batches(
  config: TrainConfig, tokenizer: Any, count: int
) -> dict[str, list[Batch]]:
  """Returns the first batches of training, as each arm lays them out."""
  from pausejax.data import pipeline
  from pausejax.data.finetuning.source import FinetuneSource

  sequences = pipeline.encode_split(
    config, tokenizer, config.data.task, "train"
  )

  def first(packing: bool) -> list[Batch]:
    source = FinetuneSource(
      [sequences],
      [1.0],
      data=config.data,
      packing=packing,
      tokenizer=tokenizer,
      sizes=config.batch_sizes,
      seed=config.seed,
    )
    return [source.training_batch(step) for step in range(count)]

  padded = first(False)
  return {
    "packed": first(True),
    "padded": padded,
    "padded to the batch": [cut(batch) for batch in padded],
  }


def cut(batch: Batch) -> Batch:
  """Returns the batch without the columns that are padding in every row."""
  full = batch["tokens"].shape
  longest = int(np.flatnonzero(batch["segment_ids"].any(axis=0))[-1]) + 1
  width = min(-(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE, full[1])
  return {k: x[:, :width] if x.shape == full else x for k, x in batch.items()}


def num_real(data: list[Batch]) -> int:
  """Returns the positions that hold text or a pause."""
  return sum(int((batch["segment_ids"] > 0).sum()) for batch in data)


if __name__ == "__main__":
  main()
