"""Small runs of `pausejax train` in processes of their own, and their files."""

import json
import os
import pathlib
import random
import subprocess
import sys

from pausejax.runtime import metric_rows
from tests import processes

ROOT = processes.ROOT

SMALL = (
  "--config.model.num_layers=2",
  "--config.model.d_model=32",
  "--config.model.num_heads=2",
  "--config.data.seq_len=64",
  "--config.data.shuffle_buffer=50",
  "--config.batch_size=8",
  "--config.optim.warmup_steps=2",
  "--config.checkpoint.every=4",
  "--config.checkpoint.keep=100",
  "--config.eval.num_batches=1",
  "--config.data.tokenizer=bytes",
)


def write_corpus(folder: pathlib.Path) -> None:
  """Writes twelve small books, one per file."""
  folder.mkdir(parents=True)
  for book in range(12):
    words = random.Random(book).choices(
      ["call", "me", "some", "years", "ago"], k=800
    )
    (folder / f"{book}.txt").write_text(" ".join(words))


def command(corpus: pathlib.Path, workdir: pathlib.Path | str, *more: str):
  """Returns the command line of a small run on the corpus."""
  return [
    *(sys.executable, "-m", "pausejax", "train"),
    "--config=configs/smoke.py",
    f"--workdir={workdir}",
    "--config.data.task=text",
    f"--config.data.files={corpus}",
    *SMALL,
    *more,
  ]


def start(args, **changes: str) -> subprocess.Popen:
  """Starts the run with one device; `changes` are variables of it."""
  # One device: the tests' eight virtual ones would only slow it down.
  flags = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
  flags["XLA_FLAGS"] = processes.QUICK_COMPILER
  return subprocess.Popen(
    args,
    cwd=ROOT,
    env={**os.environ, **flags, **changes},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(args) -> str:
  """Runs to the end and returns what was printed."""
  process = start(args)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return output


def rows(workdir: pathlib.Path) -> list[dict]:
  """Returns the training rows of metrics.jsonl that are whole."""
  path = workdir / "metrics.jsonl"
  found = metric_rows.read_rows(path) if path.exists() else []
  return [row for row in found if "loss" in row]


def array_file(item: pathlib.Path) -> pathlib.Path:
  """Returns the file with the largest array of an item of a step.

  Other files of the item hold small arrays, or an index that a read may not
  need.
  """
  files = item.glob("ocdbt.process_*/d/*")
  return max(files, key=lambda p: p.stat().st_size)


def last_meta(workdir: pathlib.Path) -> dict:
  """Returns meta.json of the newest checkpoint."""
  steps = [
    int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
  ]
  path = workdir / "checkpoints" / str(max(steps)) / "meta" / "meta.json"
  return json.loads(path.read_text())
