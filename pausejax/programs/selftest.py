"""Checks that this machine trains, saves and resumes exactly.

  pausejax selftest
  pausejax selftest --workdir=/data/runs
  srun pausejax selftest --workdir=/shared/runs

Writes, syncs and reads a file back, locks it, and compares clocks; sums over
all devices; runs a tiny model twice and compares every loss and leaf; kills it
four times, in training and while it saves, resumes it and compares again;
damages every file of a step and reads it with every reader. Takes minutes, and
removes what it wrote. The files are in a new folder in `--workdir`, which is
where runs are to be written (the current folder). Several processes start as
those of `pausejax train` do, and share that folder.

Ends with PASSED, or with one line that says what failed, where, what that means
and what to do (exit code 1).
"""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pausejax
from pausejax import commandline, errors, json_files
from pausejax.runtime import compilation, distributed, provenance, signals
from pausejax.selftest import disk, failure, ports, runs, toy

_BATCH_ROWS = 16  # At least.
_RESULT = {
  "devices": int,
  "backend": str,
  "kind": str,
  "processes": int,
  "exact_sums": {str: bool},
}


def main(argv: list[str]) -> int:
  """Runs all parts; each prints a line when it is done."""
  started = time.monotonic()
  signals.StopFlag(interrupt=True)
  options, _ = parser().parse(argv)
  errors.require(options.workdir != "", "--workdir: got '', name a folder")
  errors.require(
    not pathlib.Path(options.workdir).is_file(),
    f"--workdir: {options.workdir!r} is a file; name a folder",
  )
  with _folder(pathlib.Path(options.workdir), keep=options.keep) as folder:
    try:
      _run_all(folder)
    except OSError as e:
      raise disk.explained(e, folder) from e
  print(f"PASSED in {time.monotonic() - started:.0f} s")
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("selftest", __doc__, config=False)
  made.add_argument(
    "--workdir", default=".", help="folder of future runs (the current one)"
  )
  made.add_argument(
    "--keep", action="store_true", help="keep the files and logs"
  )
  return made


@contextlib.contextmanager
def _folder(workdir: pathlib.Path, *, keep: bool) -> Iterator[pathlib.Path]:
  """Yields a new folder that all processes share; removes it in the end."""
  new = [p for p in (workdir, *workdir.parents) if not p.exists()]
  folder = ""
  if distributed.process_index() == 0:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      folder = tempfile.mkdtemp(prefix="selftest-", dir=workdir.absolute())
    except OSError as e:
      raise disk.explained(e, workdir) from e
  path = pathlib.Path(distributed.all_gather(folder)[0])
  is_shared = distributed.all_gather(path.is_dir())
  try:
    if not all(is_shared):
      raise failure.failed(
        "disk",
        f"process {is_shared.index(False)} does not see {path}",
        "the processes of a run share its workdir",
        "name a --workdir on a disk that all hosts mount",
      )
    yield path
    distributed.all_gather("done")
  finally:
    if distributed.process_index() == 0 and not keep:
      with signals.deferred():
        _remove(path, new)
    elif keep:
      print(f"kept: {path}", file=sys.stderr)


def _remove(folder: pathlib.Path, new: list[pathlib.Path]) -> None:
  """Removes the folder, and its parents that did not exist before."""
  shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(OSError):
    for path in new:
      path.rmdir()
  if folder.exists():
    print(f"pausejax: could not remove {folder}", file=sys.stderr)


def _run_all(folder: pathlib.Path) -> None:
  """Runs the parts in order.

  Raises:
    UserError: the first part that failed.
  """
  versions = provenance.versions()
  _say(
    f"pausejax {pausejax.__version__}, jax {versions['jax']}, "
    f"{distributed.num_processes()} process(es), in {folder}"
  )
  own = folder / f"process{distributed.process_index()}"
  own.mkdir()
  _say(disk.check_disk(own))
  _say(f"{disk.check_clock(own)}{_clocks_apart()}")
  variables = _variables(folder)
  devices = _check_devices(folder, variables)
  if devices["backend"] == "gpu":
    flags = os.environ.get("XLA_FLAGS", "")
    flag = "--xla_gpu_deterministic_ops=true"
    variables["XLA_FLAGS"] = f"{flags} {flag}".strip()
    _say(f"runs are compared with XLA_FLAGS={flag}")
  count = devices["devices"]
  made = toy.Toy(
    folder=folder,
    batch_size=count * -(-_BATCH_ROWS // count),
    variables=variables,
  )
  if distributed.process_index() == 0:
    made.prepare()
  counts = runs.Counts()
  quiet, listening = runs.run_and_list_ports(made, counts, "quiet")
  _say(f"ports: {distributed.coordinator_host()} can be bound; {listening}")
  counts.compare(quiet, runs.run_quietly(made, counts, "again"))
  _say(
    f"repeated: two runs of {toy.NUM_STEPS} steps are equal bit for bit, "
    f"{counts.losses} losses and {counts.leaves} leaves compared"
  )
  runs.run_with_kills(made, counts, quiet)
  _say(
    f"killed: {counts.kills['training']} times in training, "
    f"{counts.kills['saving']} while saving; resumed from steps "
    f"{', '.join(map(str, counts.resumes))}; equal bit for bit to the "
    "uninterrupted run"
  )
  damage = runs.run_readers(made, quiet)
  detected = ", ".join(f"{n} {k}" for n, k in damage["detected"].items())
  _say(
    f"damaged: {damage['files']} files of a step, each flipped, cut and "
    f"deleted; of {damage['reads']} reads {sum(damage['detected'].values())} "
    f"detected it ({detected}), the others returned what was saved"
  )
  _say(
    f"{counts.starts} runs started, {sum(counts.kills.values())} killed, "
    f"{len(counts.resumes)} resumed from a step above 0; compared: "
    f"{counts.losses} losses, {counts.leaves} leaves by digest, "
    f"{damage['leaves']} leaves by their bytes; nothing differed"
  )


def _variables(folder: pathlib.Path) -> dict[str, str]:
  """Returns environment variables of all child processes."""
  chosen = {"TF_CPP_MIN_LOG_LEVEL": "3", "PAUSEJAX_PEER_TIMEOUT": "10"}
  if distributed.is_single_process():
    # Also programs that compile fast are loaded by the next run.
    chosen |= compilation.cache_variables(folder)
    chosen["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  return {name: os.environ.get(name, text) for name, text in chosen.items()}


def _clocks_apart() -> str:
  """Returns how far the clocks of the processes are apart."""
  times = distributed.all_gather(time.time())
  if len(times) == 1:
    return ""
  return f"; processes within {max(times) - min(times):.2f} s"


def _check_devices(
  folder: pathlib.Path, variables: dict[str, str]
) -> dict[str, Any]:
  """Sums over all devices in child processes; returns what they are.

  Raises:
    UserError: a device cannot be used, or a sum is wrong.
  """
  if distributed.process_index() == 0:
    ports.free_port(distributed.coordinator_host())
  result, log = folder / "devices.json", folder / "devices.log"
  command = [sys.executable, "-m", "pausejax.selftest.collectives", str(result)]
  variables = {**variables, **toy.new_coordinator()}
  with toy.child(command, log, variables) as process:
    codes = toy.wait(process)
  if any(codes):
    failure.reraise("devices", toy.last_line(log))
  found = json_files.read(result, _RESULT, "start the selftest again")
  wrong = [dtype for dtype, exact in found["exact_sums"].items() if not exact]
  if wrong or found["processes"] != distributed.num_processes():
    raise failure.failed(
      "devices",
      f"a sum over {found['devices']} devices of {found['processes']} "
      f"processes is wrong in {', '.join(wrong) or 'the number of processes'}",
      "gradients of a run would be wrong",
      "have the devices and their links checked",
    )
  _say(
    f"devices: {found['devices']} x {found['kind']}; sums over all of them are "
    f"exact in {' and '.join(found['exact_sums'])}"
  )
  return found


def _say(line: str) -> None:
  print(line, flush=True)
