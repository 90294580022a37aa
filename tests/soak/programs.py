"""`pausejax evaluate` and `pausejax study`, killed until they are complete.

Their results must be those of an undisturbed one, byte for byte, apart from the
seconds that they took, and no file may ever be half written.
"""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tests import processes, toys

_TIMES = (
  "seconds",
  "seconds_per_example",
  "checkpoint",
  "path",
)  # They differ between two runs.

# Two pretrainings, two finetunings and three evaluations, of seconds each.
_STUDY = """from pausejax import config

def get_config(arg=""):
  c = config.load_config("study:only=table")
  c.pretrainings = dict(
    std=("smoke:pause=false",), pause=("smoke:pause=true",)
  )
  c.tasks = ("stdlib_choice",)
  c.finetunings = dict(
    m0=("finetune_smoke:task={task},pauses=0",),
    m2=("finetune_smoke:task={task},pauses=2",),
  )
  c.evaluations = dict(m2=("--pauses=0",))
  c.seeds = (0,)
  c.variants = (("std", "std", "m0"), ("pause", "pause", "m2"))
  c.pretrain_words = "WORDS"
  c.finetune_words = "--config.num_steps=4"
  c.evaluate_words = "--limit=16"
  return c
"""


def soak_evaluate(
  kills: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Kills an evaluation; returns what was counted."""
  corpus, run = folder / "corpus", folder / "run"
  toys.write_corpus(corpus)
  words = "--config.num_steps=2", "--config.data.seq_len=512"
  args = toys.command(corpus, run, *words)
  toys.finish([*args, "--config.model.max_seq_len=512"])

  def words_of(name: str) -> list[str]:
    return [
      *("evaluate", f"--checkpoint={run}", f"--out={folder / name}"),
      *("--task=stdlib_cloze", "--pauses=0,1,2", "--limit=64"),
    ]

  return _soak(words_of, kills, seed, folder)


def soak_study(
  kills: int, seed: int, folder: pathlib.Path
) -> collections.Counter:
  """Kills a study; returns what was counted."""
  corpus, config = folder / "corpus", folder / "study.py"
  toys.write_corpus(corpus)
  words = [
    f"--config.data.task=text --config.data.files={corpus}",
    *toys.SMALL,
    *("--config.num_steps=8", "--config.data.seq_len=256"),
  ]
  config.write_text(_STUDY.replace("WORDS", " ".join(words)))

  def words_of(name: str) -> list[str]:
    return ["study", f"--config={config}", f"--workdir={folder / name}"]

  return _soak(words_of, kills, seed, folder)


def _soak(words_of, kills: int, seed: int, folder) -> collections.Counter:
  """Kills a program, compares its results, and returns what was counted.

  Raises:
    AssertionError: a result differs, or a file is damaged.
  """
  rng, counts = random.Random(seed), collections.Counter()
  began = time.monotonic()
  _run(words_of("quiet"))
  seconds = time.monotonic() - began
  for trial in range(kills):
    is_killed = _run(words_of("killed"), rng.uniform(0.2, 0.9) * seconds)
    counts["kills"] += is_killed
    counts["files checked"] += len(_results(folder / "killed"))
    if not is_killed:  # Complete: once more from the beginning.
      counts["comparisons"] += _compare(folder)
      (folder / "killed").rename(folder / f"complete{trial}")
  _run(words_of("killed"))
  counts["comparisons"] += _compare(folder)
  _run(words_of("killed"))  # What is complete stays as it is.
  counts["comparisons"] += _compare(folder)
  return counts


def _run(words: Sequence[str], seconds: float | None = None) -> bool:
  """Runs a program; returns whether it was killed, with all its children."""
  process = subprocess.Popen(
    [sys.executable, "-m", "pausejax", *words],
    cwd=processes.ROOT,
    env=processes.environment(0, 1, 0, 1),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    start_new_session=True,
  )
  try:
    _, printed = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True
  assert process.returncode == 0, printed.decode()
  return False


def _results(folder: pathlib.Path) -> dict[str, object]:
  """Returns name -> content of all results; each must be whole."""
  found: dict[str, object] = {}
  for path in sorted(folder.rglob("*.json")):
    content = json.loads(path.read_text())
    if isinstance(content, dict) and "metrics" in content:
      kept = {k: v for k, v in content.items() if k not in _TIMES}
      found[str(path.relative_to(folder))] = kept
  for path in sorted(folder.rglob("*.predictions.jsonl")):
    found[str(path.relative_to(folder))] = path.read_text()
  return found


def _compare(folder: pathlib.Path) -> int:
  quiet, ours = _results(folder / "quiet"), _results(folder / "killed")
  assert quiet and ours == quiet, sorted(quiet.keys() ^ ours.keys())
  return len(quiet)
