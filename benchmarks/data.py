"""How fast pauses go in, and how fast batches come out, on one core.

  python -m benchmarks.data
  python -m benchmarks.data --files=books --tokenizer=spiece.model

Prints millions of tokens per CPU second: pause insertion alone (numpy, 2048
positions, 10%), writing segments, and whole batches from segments and from the
SeqIO stream, each with pauses and without.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from configs import base
from pausejax import pause, settings, tasks
from pausejax.data import batches, segment_writer, segments, tokenizers

SEQ_LEN = 2048


def tokens_per_second(make, num_tokens: int, seconds: float = 2.0) -> float:
  """Returns tokens per CPU second of calling `make` for a while."""
  make()
  start, count = time.process_time(), 0
  while time.process_time() - start < seconds:
    make()
    count += num_tokens
  return count / (time.process_time() - start)


def report(name: str, speed: float) -> None:
  """Prints one row."""
  print(f"{name:42} {speed / 1e6:8.2f} Mtok per CPU second", flush=True)


def insertion(batch_size: int) -> float:
  """Returns the speed of `pause.insert_pauses`."""
  rng = np.random.default_rng(0)
  tokens_BT = rng.integers(0, 32_000, (batch_size, SEQ_LEN), dtype=np.int32)

  def insert():
    pause.insert_pauses(
      tokens_BT,
      seq_len=SEQ_LEN,
      pause_id=32_000,
      pause_fraction=0.1,
      mode="insert_trim",
      seed=0,
      positions_B=np.arange(batch_size),
    )

  return tokens_per_second(insert, tokens_BT.size)


def data_config(options, fraction: float) -> settings.DataConfig:
  """Returns the settings of the benchmark's corpus."""
  fields = base.get_config().data.to_dict()
  fields |= dict(tokenizer=options.tokenizer, pause_fraction=fraction)
  fields |= dict(task="stdlib_docs", holdout_every=50)
  if options.files:
    fields |= dict(task="text", files=options.files)
  return settings.DataConfig(**fields)


def main() -> None:
  """Measures everything and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--files", default="", help="corpus; default: CPython")
  parser.add_argument("--tokenizer", default="bytes")
  options = parser.parse_args()
  for batch_size in (1, 16, 64):
    report(f"insert pauses, {batch_size} rows at once", insertion(batch_size))

  tokenizer = tokenizers.load(options.tokenizer)
  data = data_config(options, 0.1)
  tasks.pretraining(data.task).source(data)
  with tempfile.TemporaryDirectory() as folder:
    store = pathlib.Path(folder) / "segments"
    start = time.process_time()
    index = segment_writer.write(data, tokenizer, store)
    seconds = time.process_time() - start
    report("write segments", index["train"]["num_tokens"] / seconds)
    for fraction in (0.0, 0.1):
      data = data_config(options, fraction)
      source = batches.SegmentSource(
        data=data,
        store=segments.load(store, "train", data, tokenizer),
        tokenizer=tokenizer,
        batch_size=16,
        seed=0,
      )
      stream = batches.StepBatches(source)
      speed = tokens_per_second(lambda s=stream: next(s), 16 * SEQ_LEN)
      report(f"segments, pause_fraction {fraction}", speed)
  from pausejax.data.seqio.stream import SeqioBatches

  for fraction in (0.0, 0.1):
    stream = SeqioBatches(
      data_config(options, fraction),
      tasks.pretraining(data.task),
      batch_size=16,
      seed=0,
    )
    # The shuffle buffer is filled before the clock starts.
    next(stream)
    speed = tokens_per_second(lambda s=stream: next(s), 16 * SEQ_LEN, 10.0)
    report(f"seqio stream, pause_fraction {fraction}", speed)


if __name__ == "__main__":
  main()
