"""Damages every file of a step and reads it with every reader.

  python -m pausejax.selftest.readers WORKDIR RESULT

A reader must refuse the step, or return exactly what was saved: some files,
such as superseded copies, hold nothing that it needs. A resume may return the
step before. RESULT gets the counts as JSON. Runs alone, on the CPU.
"""

import collections
import contextlib
import io
import itertools
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from pausejax import errors, optimizer, sharding, train_state
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import (
  folders,
  leaves,
  restoring,
  saved_run,
  verification,
)
from pausejax.checkpoints.store import Store
from pausejax.config import train_config
from pausejax.interop import export
from pausejax.selftest import disk, failure
from pausejax.selftest.damage import DAMAGES, files_of

_DAMAGES = ("flip 0", "cut", "deleted")
Leaves = dict[str, np.ndarray]
Reader = Callable[[pathlib.Path], Leaves]


class Readers:
  """Reads a run as programs do; each method returns leaves by name."""

  def __init__(self, workdir: pathlib.Path):
    """Reads the config of the run."""
    run = saved_run.find_run(str(workdir))
    self._config = train_config(run.meta["config"])
    made, _ = optimizer.make_optimizer(
      self._config.optim, self._config.num_steps
    )
    self._abstract = train_state.abstract(
      run.model, made, has_average=self._config.optim.has_average
    )

  def of_file(self, file: pathlib.Path) -> list[Reader]:
    """Returns the methods that read a file; all read the parameters."""
    only_parameters = [self.evaluate, self.export]
    is_read = "opt_state" not in file.parts
    return [self.resume, self.init_from, *(only_parameters if is_read else [])]

  def resume(self, workdir: pathlib.Path) -> Leaves:
    """As `train` resumes: in a copy, where it sets a damaged step aside."""
    with tempfile.TemporaryDirectory(dir=workdir.parent) as folder:
      copy = shutil.copytree(workdir, pathlib.Path(folder) / "run")
      store = Store(copy / CHECKPOINTS, self._config.checkpoint)
      restored = store.restore(self._abstract)
      assert restored is not None
      return _host(restored.state)

  def init_from(self, workdir: pathlib.Path) -> Leaves:
    """As `train --init_from` with init_load=state."""
    run = saved_run.find_run(str(workdir))
    folder = workdir / CHECKPOINTS
    restored = restoring.restore_state(folder, run.step, self._abstract)
    return _host(restored.state)

  def evaluate(self, workdir: pathlib.Path) -> Leaves:
    """As `evaluate`, `generate` and `pausejax.load`."""
    model = saved_run.find_run(str(workdir)).load()
    return {f"model/{n}": x for n, x in _host(model).items()}

  def export(self, workdir: pathlib.Path) -> Leaves:
    """As `export`; a folder must appear whole or not at all."""
    out = workdir / "exported"
    shutil.rmtree(out, ignore_errors=True)
    try:
      run = saved_run.find_run(str(workdir))
      prepared = export.prepare_export(run, out.name)
      model = run.load()
      export.write_export(prepared, model, out)
    except errors.UserError:
      if [*workdir.glob("exported*")]:
        raise RuntimeError("a refused export left files") from None
      raise
    return {f"model/{n}": x for n, x in _host(model).items()}


def _host(tree: Any) -> Leaves:
  named = leaves.flatten(tree)
  return {name: np.asarray(x) for name, x in jax.device_get(named).items()}


def count_detected(
  workdir: pathlib.Path, damages: Iterable[str] = _DAMAGES
) -> dict[str, Any]:
  """Returns the numbers of files, leaves, reads, and detections by reader.

  Args:
    workdir: a run with at least two intact steps; it is not changed.
    damages: names in `damage.DAMAGES`.

  Raises:
    UserError: damage was read as if it were what was saved, or a reader
      detected none.
  """
  newest, older = folders.numbered(workdir / CHECKPOINTS)[:-3:-1]
  disk.drop_cached(workdir)
  num_leaves = sum(_verify(workdir, step) for step in (older, newest))
  detected: collections.Counter[str] = collections.Counter()
  num_reads = 0
  with (
    jax.set_mesh(sharding.data_mesh(jax.devices()[:1])),
    tempfile.TemporaryDirectory(dir=workdir.parent) as folder,
  ):
    first, both = (pathlib.Path(folder) / n for n in ("first", "first_two"))
    _copy(workdir, first, (older,))
    _copy(workdir, both, (older, newest))
    readers = Readers(both)
    last, saved = readers.resume(first), readers.resume(both)
    files = files_of(both / CHECKPOINTS / str(newest))
    for file, name in itertools.product(files, damages):
      ours, theirs = (
        both / CHECKPOINTS / str(step) / file for step in (newest, older)
      )
      content = ours.read_bytes()
      DAMAGES[name](ours, theirs)
      for reader in readers.of_file(file):
        outcome = _outcome(reader, both, saved, last)
        if outcome == "silent":
          raise _silent(reader.__name__, name, file)
        detected[reader.__name__] += outcome == "detected"
        num_reads += 1
      ours.write_bytes(content)
  if not num_reads or not all(detected.values()):
    raise failure.failed(
      "damage",
      f"of {num_reads} reads, damage was detected in {dict(detected)}",
      "damage on a disk could go unnoticed",
      "please report it with the versions",
    )
  return {
    "files": len(files),
    "leaves": num_leaves,
    "reads": num_reads,
    "detected": dict(detected),
  }


def _copy(
  workdir: pathlib.Path, target: pathlib.Path, steps: tuple[int, ...]
) -> None:
  """Copies steps of a run."""
  for step in steps:
    inside = f"checkpoints/{step}"
    shutil.copytree(workdir / inside, target / inside)


def _verify(workdir: pathlib.Path, step: int) -> int:
  """Returns the number of leaves of a step that match their digests."""
  path = workdir / CHECKPOINTS / str(step)
  verified = verification.verify_step(path, step)
  if verified.problems:
    raise failure.failed(
      "damage",
      f"step {step} differs from what was saved: {verified.problems[0]}",
      "the disk or the memory of this machine corrupts data",
      "use another disk, and have the machine checked",
    )
  return verified.num_leaves


def _outcome(
  reader: Reader,
  workdir: pathlib.Path,
  saved: Leaves,
  older: Leaves,
) -> str:
  """Returns "detected", "no effect" or "silent"."""
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      read = reader(workdir)
  except errors.CheckpointUnusable:
    return "detected"
  if _same(read, saved):
    return "no effect"
  # A resume sets the damaged step aside and returns the one before.
  return "detected" if _same(read, older) else "silent"


def _same(read: Leaves, expected: Leaves) -> bool:
  """Returns whether all leaves that were read have the expected bits."""
  return bool(read) and all(
    x.dtype == expected[name].dtype and x.tobytes() == expected[name].tobytes()
    for name, x in read.items()
  )


def _silent(reader: str, name: str, file: pathlib.Path) -> errors.UserError:
  return failure.failed(
    "damage",
    f"{reader} read a step whose {file} was damaged ({name}) without an error",
    "damage on a disk could go unnoticed",
    "please report it with the versions",
  )


def main(workdir: str, result: str) -> int:
  """Writes the counts; prints the error if there is one."""
  try:
    counts = count_detected(pathlib.Path(workdir))
  except errors.UserError as e:
    print(f"pausejax: {e.message}", file=sys.stderr)
    return 1
  pathlib.Path(result).write_text(json.dumps(counts))
  return 0


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
