"""Measures the throughput of prepared segments and of the SeqIO stream.

  python -m benchmarks.data
  python -m benchmarks.data --files=books --tokenizer=spiece.model

Batches of 16 rows of 2048 positions, with 10% pauses and without. First with
one process, the arms taking turns: millions of tokens per CPU second, and the
median over rounds of the ratio to the stream with pauses. Then with one process
and with two that share the rows as hosts do: tokens per second of wall time and
of CPU time. Then writing segments with one worker and with two, and the
fraction of the step time that training waits for its batch (configs/smoke.py,
in a separate process). By default on the English text inside CPython, with a
SentencePiece vocabulary of 8,192 trained on it. Takes about three minutes.
"""

import argparse
import functools
import multiprocessing
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import measure
from pausejax import tasks
from pausejax.config import DataConfig, default
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizer_training, tokenizers
from pausejax.data.pretraining import prepare, segments
from pausejax.data.pretraining.source import SegmentSource, StepBatches
from pausejax.runtime import metric_rows

SEQ_LEN = 2048
ROWS = 16
FRACTIONS = (0.0, 0.1)
NUM_STEPS = 60


def config_of(options: argparse.Namespace, fraction: float):
  """Returns the data config of the benchmark's corpus."""
  fields = default().data.to_dict()
  fields |= dict(tokenizer=options.tokenizer, pause_fraction=fraction)
  fields |= dict(task="stdlib_docs", holdout_every=50)
  if options.files:
    fields |= dict(task="text", files=options.files)
  return DataConfig(**fields)


def open_batches(pipeline: str, data, store: pathlib.Path, host=(0, 1)):
  """Returns the training batches of one of the two pipelines."""
  if pipeline == "seqio":
    from pausejax.data.seqio.stream import SeqioBatches

    task = tasks.pretraining(data.only_task)
    stream = SeqioBatches(data, task, batch_size=ROWS, seed=0, shard=host)
  else:
    tokenizer = tokenizers.load_tokenizer(data.tokenizer)
    stream = StepBatches(
      SegmentSource(
        data=data,
        store=segments.open_segments(store, "train", data, tokenizer),
        tokenizer=tokenizer,
        sizes=batch_sizes(ROWS),
        seed=0,
        host=host,
      )
    )
  next(stream)  # The shuffle buffer is filled before the clock starts.
  return stream


def turn(stream, seconds: float) -> dict[str, float]:
  """Takes batches for a while; returns tokens, CPU and wall seconds."""
  cpu, wall, tokens = time.process_time(), time.perf_counter(), 0
  while time.perf_counter() - wall < seconds:
    tokens += next(stream)["tokens"].size
  return {
    "tokens": tokens,
    "cpu": time.process_time() - cpu,
    "wall": time.perf_counter() - wall,
  }


def one_process(options, store: pathlib.Path) -> list[measure.Row]:
  """Returns a row for each pipeline, with pauses and without."""
  arms = {
    f"{pipeline}, pauses {fraction:.0%}": open_batches(
      pipeline, config_of(options, fraction), store
    )
    for pipeline in ("segments", "seqio")
    for fraction in FRACTIONS
  }
  speeds: dict[str, list[float]] = {name: [] for name in arms}
  names = list(arms)
  for i in range(options.rounds + 1):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      took = turn(arms[name], options.seconds)
      if i:  # The first round warms up.
        speeds[name].append(took["tokens"] / took["cpu"])
  base_name = names[-1]
  return [
    {
      "name": name,
      "mtok_per_cpu_s": statistics.median(runs) / 1e6,
      "ratio": statistics.median(
        a / b for a, b in zip(runs, speeds[base_name], strict=True)
      ),
    }
    for name, runs in speeds.items()
  ]


def _host(options, pipeline: str, store: pathlib.Path, host, pipe) -> None:
  stream = open_batches(pipeline, config_of(options, 0.1), store, host)
  pipe.send(None)
  pipe.recv()  # All processes start together.
  pipe.send(turn(stream, 3 * options.seconds))


def processes(options, store: pathlib.Path, pipeline: str, count: int):
  """Returns the row of `count` processes that share the batches."""
  context = multiprocessing.get_context("spawn")
  pipes = []
  for i in range(count):
    ours, theirs = context.Pipe()
    args = (options, pipeline, store, (i, count), theirs)
    context.Process(target=_host, args=args, daemon=True).start()
    pipes.append(ours)
  for pipe in pipes:
    pipe.recv()
  for pipe in pipes:
    pipe.send(None)
  took = [pipe.recv() for pipe in pipes]
  tokens = sum(t["tokens"] for t in took)
  return {
    "name": f"{pipeline}, pauses 10%, processes: {count}",
    "mtok_per_cpu_s": tokens / sum(t["cpu"] for t in took) / 1e6,
    "mtok_per_s": tokens / max(t["wall"] for t in took) / 1e6,
  }


def writing(options, folder: pathlib.Path, num_workers: int) -> measure.Row:
  """Returns the row of building a store, including the start of processes."""
  data = config_of(options, 0.1)
  tokenizer = tokenizers.load_tokenizer(options.tokenizer)
  start = time.perf_counter()
  index = prepare.write_segments(
    data, tokenizer, folder / f"made-{num_workers}", num_workers=num_workers
  )
  seconds = time.perf_counter() - start
  assert index is not None
  tokens = sum(index[split]["num_tokens"] for split in ("train", "validation"))
  return {
    "name": f"write segments, workers: {num_workers}",
    "mtok_per_s": tokens / seconds / 1e6,
  }


def waiting(options, folder: pathlib.Path) -> measure.Row:
  """Returns the row of training: the fraction of a step spent on waiting."""
  workdir = folder / "run"
  words = ["train", "--config=configs/smoke.py", f"--workdir={workdir}"]
  words += [f"--config.data.tokenizer={options.tokenizer}"]
  words += [f"--config.num_steps={NUM_STEPS}", "--config.eval.num_batches=1"]
  subprocess.run(
    [sys.executable, "-m", "pausejax", *words],
    check=True,
    stdout=subprocess.DEVNULL,
  )
  rows = metric_rows.read_rows(workdir / "metrics.jsonl")
  rows = [row for row in rows if "step_seconds" in row]
  rows = rows[5:]  # The first ones compile.
  waited = sum(row["data_wait_seconds"] for row in rows)
  share = waited / sum(row["step_seconds"] for row in rows)
  return {"name": "training, waiting for data", "percent_of_step": 100 * share}


def main() -> None:
  """Measures everything and prints it."""
  parser = measure.parser(__doc__, rounds=5)
  parser.add_argument("--files", default="", help="corpus; default: CPython")
  parser.add_argument("--tokenizer", default="", help="default: trained on it")
  parser.add_argument("--seconds", type=float, default=1.5, help="per turn")
  options = parser.parse_args()
  start = measure.conditions()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if not options.tokenizer:
      source = tasks.pretraining("stdlib_docs").source(config_of(options, 0.0))
      model = tokenizer_training.train_tokenizer(
        list(source.documents("train")), vocab_size=8192
      )
      options.tokenizer = str(folder / "tokenizer.model")
      pathlib.Path(options.tokenizer).write_bytes(model)
    rows = [writing(options, folder, count) for count in (1, 2)]
    read = functools.partial(processes, options, folder / "made-1")
    rows = [
      *one_process(options, folder / "made-1"),
      *(
        read(pipeline, n) for pipeline in ("segments", "seqio") for n in (1, 2)
      ),
      *rows,
      waiting(options, folder),
    ]
  measure.print_table(
    rows,
    {
      "mtok_per_cpu_s": ".2f",
      "ratio": ".1f",
      "mtok_per_s": ".2f",
      "percent_of_step": ".2f",
    },
  )
  measure.publish("data", options, rows, start=start)


if __name__ == "__main__":
  main()
