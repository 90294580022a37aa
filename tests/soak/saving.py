"""`kill -9` while steps are saved, many times, without a training around it.

A child process saves one step after the other and prints each that is complete.
After the kill, the newest printed step must be there, and every step that is
listed as complete must have the leaves that its number determines.

  python -m tests.soak.saving FOLDER FIRST      the child process
"""

import collections
import dataclasses
import json
import pathlib
import random
import subprocess
import sys
import time

import jax
import numpy as np

from pausejax import optimizer
from pausejax.checkpoints import arrays, leaves, listing, verification
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, OptimConfig, default
from tests import models, processes
from tests.test_sharding import abstract_on, one_device_mesh

_KEEP = CheckpointConfig(every=1, keep=2, keep_period=0, keep_best=0)
_MAX_SECONDS = 0.6  # From the first save on, until the kill.


def abstract_state():
  """Returns the state of a small model with AdamW, about 3 MB."""
  fields = default().optim.to_dict()
  made = optimizer.make_optimizer(OptimConfig(**fields), 2000)[0]
  return abstract_on(
    one_device_mesh(), models.model_config(num_layers=2, d_model=128), made
  )


def state_of(abstract, step: int):
  """Returns a state in which every leaf depends on the step."""
  rng = np.random.default_rng(step)
  made = jax.tree.map(
    lambda x: jax.device_put(
      rng.integers(-9, 9, x.shape).astype(x.dtype), x.sharding
    ),
    abstract,
  )
  return dataclasses.replace(made, step=jax.numpy.asarray(step, "int32"))


def save_forever(folder: str, first: str) -> None:
  """Saves steps from `first` on, and prints each that is complete."""
  abstract = abstract_state()
  store = Store(pathlib.Path(folder) / "checkpoints", _KEEP)
  for step in range(int(first), 2**30):
    position = json.dumps({"step": step}).encode()
    meta = {"counters": {}, "answers": {}}
    store.save(
      state_of(abstract, step), data={"position.json": position}, meta=meta
    )
    store.wait()
    print(step, flush=True)


def soak(kills: int, seed: int, folder: pathlib.Path) -> collections.Counter:
  """Kills saves; returns what was counted.

  Raises:
    AssertionError: a step is lost, or has other leaves.
  """
  rng, counts = random.Random(seed), collections.Counter()
  abstract = abstract_state()
  newest = 0
  for _ in range(kills):
    counts["partial saves left"] += _kill(folder, newest + 1, rng)
    steps, _ = listing.list_run(folder)
    complete = [s.step for s in steps if s.state == listing.COMPLETE]
    printed = int((folder / "printed").read_text().split()[-1])
    assert complete and complete[-1] >= printed, (complete, printed)
    damaged = [s.name for s in steps if s.state == listing.DAMAGED]
    assert not damaged, damaged
    for step in complete:
      counts["leaves compared"] += _require_leaves(folder, step, abstract)
      counts["comparisons"] += 1
    newest = complete[-1]
    counts["kills"] += 1
  return counts


def _kill(folder: pathlib.Path, first: int, rng: random.Random) -> bool:
  """Kills a child that saves; returns whether it left a partial step."""
  printed = folder / "printed"
  words = ["-m", "tests.soak.saving", str(folder), str(first)]
  with printed.open("w") as output:
    process = subprocess.Popen(
      [sys.executable, *words],
      cwd=processes.ROOT,
      env=processes.environment(0, 1, 0, 1),
      stdout=output,
    )
  while not printed.stat().st_size and process.poll() is None:
    time.sleep(0.002)
  time.sleep(rng.uniform(0, _MAX_SECONDS))
  process.kill()
  process.wait()
  return any((folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def _require_leaves(folder: pathlib.Path, step: int, abstract) -> int:
  """Compares a step with what its number determines; returns the leaves."""
  path = folder / "checkpoints" / str(step)
  verified = verification.verify_step(path, step)
  assert not verified.problems, verified.problems
  expected = arrays.host_digests(leaves.flatten(state_of(abstract, step)))
  saved = json.loads((path / "meta" / "meta.json").read_text())["digests"]
  assert saved == json.loads(json.dumps(expected)), step
  return verified.num_leaves


if __name__ == "__main__":
  save_forever(*sys.argv[1:])
