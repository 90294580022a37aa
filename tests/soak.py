"""Kills a training run again and again and compares it with a quiet one.

  python -m tests.soak --pipeline=segments --kills=20
  python -m tests.soak --pipeline=seqio --kills=20
  python -m tests.soak --pipeline=segments --kills=20 --processes=2

Trains once without a disturbance, then again with `kill -9` at random times,
each followed by the same command. Of several processes one is killed, and the
others must end by themselves. Every loss that was ever written and every
digest of the last checkpoint must be equal to the last bit. Prints what it
counted and leaves with 1 unless all comparisons hold; a kill that hit no
resumed or running step does not count as one.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

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


def command(corpus: pathlib.Path, workdir: pathlib.Path, *more: str):
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
  flags["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
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


def last_meta(workdir: pathlib.Path) -> dict:
  """Returns meta.json of the newest checkpoint."""
  steps = [
    int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
  ]
  path = workdir / "checkpoints" / str(max(steps)) / "meta" / "meta.json"
  return json.loads(path.read_text())


def kill_at(args, workdir: pathlib.Path, step: int, victim: int, count: int):
  """Starts the run and kills a process at a step; False if it had ended."""
  logs = workdir.with_name("killed-logs")
  started = processes.start([args] * count, logs, devices=1)
  while started[victim].poll() is None:
    written = rows(workdir)
    if written and written[-1]["step"] >= step:
      break
    time.sleep(0.002)
  started[victim].send_signal(signal.SIGKILL)
  return processes.wait(started)[victim] == -signal.SIGKILL


def run(args, logs: pathlib.Path, count: int) -> str:
  """Runs to the end and returns what process 0 printed."""
  codes = processes.wait(processes.start([args] * count, logs, devices=1), None)
  assert codes == [0] * count, "\n".join(processes.logs(logs, count))
  return processes.logs(logs, 1)[0]


def soak(
  pipeline: str, kills: int, num_steps: int, seed: int, count: int = 1
) -> dict[str, int]:
  """Runs the comparison and returns what was counted.

  Args:
    pipeline: "segments" or "seqio".
    kills: how many.
    num_steps: of the run.
    seed: of the kills.
    count: processes of the run.

  Raises:
    AssertionError: a loss or a digest differs.
  """
  rng = random.Random(seed)
  counted = dict(kills=0, resumes=0, losses_compared=0, digests_compared=0)
  with tempfile.TemporaryDirectory() as folder:
    corpus, quiet, killed = (
      pathlib.Path(folder) / name for name in ("corpus", "quiet", "killed")
    )
    write_corpus(corpus)
    more = (
      f"--config.data.pipeline={pipeline}",
      f"--config.num_steps={num_steps}",
    )
    logs = pathlib.Path(folder) / "logs"
    run(command(corpus, quiet, *more), logs, count)
    expected = {row["step"]: row["loss"] for row in rows(quiet)}

    def compare():
      for row in rows(killed):
        assert row["loss"] == expected[row["step"]], row
        counted["losses_compared"] += 1

    for i in range(kills):
      # Spread over the run, a little before or behind the even places.
      even = (i + 1) * num_steps // (kills + 1)
      step = max(1, min(num_steps - 1, even + rng.randint(-2, 2)))
      args, victim = command(corpus, killed, *more), rng.randrange(count)
      counted["kills"] += kill_at(args, killed, step, victim, count)
      compare()
    output = run(command(corpus, killed, *more), logs, count)
    counted["resumes"] += "resuming from step" in output
    compare()
    assert [r["step"] for r in rows(killed)] == sorted(expected)
    ours, theirs = last_meta(killed), last_meta(quiet)
    assert ours["digests"] == theirs["digests"]
    assert ours["counters"] == theirs["counters"]
    counted["digests_compared"] = len(ours["digests"])
  return counted


def main() -> int:
  """Runs the soak from the command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--pipeline", choices=("segments", "seqio"), required=True
  )
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--num_steps", type=int, default=400)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=1)
  options = parser.parse_args()
  counted = soak(
    options.pipeline,
    options.kills,
    options.num_steps,
    options.seed,
    options.processes,
  )
  print(", ".join(f"{name} {count}" for name, count in counted.items()))
  return 0 if counted["kills"] == options.kills else 1


if __name__ == "__main__":
  sys.exit(main())
