"""Trains with several processes on this machine, as on a pod.

  python -m launch.local --processes=2 -- --config=configs/smoke.py \\
    --workdir=run

For testing multi-host runs: normally, one process drives all devices of a
machine. The processes connect through the JAX_* variables that `--dry_run`
prints. SIGTERM and Ctrl-C are forwarded to all of them. When one has ended, for
any reason, the others have a minute to end. The exit code is 2, 3 or 4 if one
process ended with it, since a repeated command would end in the same way; else
the largest of all, where a process ended by signal n counts as 128 + n: 143
means "saved, or lost a process: run again".
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from launch import words

WAIT_S = 60


def main(argv: list[str] | None = None) -> int:
  """Runs the processes, or prints their shell commands."""
  parser = argparse.ArgumentParser(
    prog="launch.local",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--processes", type=words.count, required=True, metavar="N"
  )
  options, train = words.parse(parser, argv)
  command = [sys.executable, "-m", "pausejax", "train", *train]
  places = _places(options.processes)
  if options.dry_run:
    for place in places:
      variables = [f"{name}={value}" for name, value in place.items()]
      print(shlex.join(["env", *variables, *command]), "&")
    print("wait")
    return 0
  return _run(command, places)


def _places(count: int) -> list[dict[str, str]]:
  """Returns the environment variables of each process."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  return [
    {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(rank),
    }
    for rank in range(count)
  ]


def _run(command: list[str], places: list[dict[str, str]]) -> int:
  """Runs all processes and returns one exit code for all."""
  asked: list[int] = []
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda n, _: asked.append(n))
  processes = [_start(command, place, r) for r, place in enumerate(places)]
  deadline = float("inf")
  while any(p.poll() is None for p in processes):
    if asked:
      _send(processes, asked.pop(0))
    if deadline == float("inf") and any(
      p.poll() is not None for p in processes
    ):
      deadline = time.monotonic() + WAIT_S
    if time.monotonic() > deadline:
      _send(processes, signal.SIGKILL)
    time.sleep(0.05)
  codes = [p.returncode for p in processes]
  codes = [128 - code if code < 0 else code for code in codes]
  last = [code for code in codes if code in words.NOT_REPEATED]
  return max(last or codes)


def _start(command, place: dict[str, str], rank: int) -> subprocess.Popen:
  """Starts one process; the lines of all but the first are marked."""
  pipe = subprocess.PIPE if rank else None
  process = subprocess.Popen(
    command,
    env={**os.environ, **place},
    stdout=pipe,
    stderr=subprocess.STDOUT if rank else None,
    text=True,
    # Ctrl-C reaches the launcher only, which forwards it once.
    start_new_session=True,
  )
  if process.stdout:
    threading.Thread(target=_mark, args=(process.stdout, rank)).start()
  return process


def _mark(lines, rank: int) -> None:
  for line in lines:
    sys.stdout.write(f"[{rank}] {line}")
    sys.stdout.flush()


def _send(processes: list[subprocess.Popen], number: int) -> None:
  for process in processes:
    # The terminal was closed: save, as for SIGTERM.
    process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


if __name__ == "__main__":
  sys.exit(main())
