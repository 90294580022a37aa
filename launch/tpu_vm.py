"""Trains on a slice of Cloud TPU VMs, by a queued resource.

  python -m launch.tpu_vm --name=pause-1b --zone=us-central2-b \\
    --accelerator_type=v4-128 --runtime_version=tpu-ubuntu2204-base --spot \\
    --setup='mountpoint -q /mnt || sudo mount 10.0.0.2:/vol1 /mnt &&
      cd /mnt/pausejax && . .venv/bin/activate' \\
    -- --config=configs/pretrain_c4.py:size=1b --workdir=/mnt/pause-1b

Requests the slice, waits until it is ready, runs --setup and the training on
all its machines, and deletes it at the end. A preempted slice is deleted and
requested again, and the run resumes from its workdir, which is in a bucket or
on a file system that --setup mounts. Keep the command running, for example in
tmux. Ctrl-C does not delete the slice; the same command then continues to use
it.
"""

import argparse
import shlex
import subprocess
import sys
import time

from launch import words

POLL_S = 30
PREEMPTED = 143  # Everything is saved; run again.
MAX_TRIES = 3  # Consecutive failures on a slice that was not preempted.
GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING")


def main(argv: list[str] | None = None) -> int:
  """Trains to the end, or prints the commands in order."""
  parser = argparse.ArgumentParser(
    prog="launch.tpu_vm",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--name", required=True)
  parser.add_argument("--zone", required=True)
  parser.add_argument("--accelerator_type", required=True)
  parser.add_argument("--runtime_version", required=True)
  parser.add_argument(
    "--setup", required=True, help="shell commands, run first"
  )
  parser.add_argument("--spot", action="store_true")
  options, train = words.parse(parser, argv)
  commands = _commands(options, train)
  if options.dry_run:
    for command in commands.values():
      print(shlex.join(command))
    return 0
  return _train(commands)


def _commands(options, train: list[str]) -> dict[str, list[str]]:
  """Returns name of an action -> its gcloud command."""
  queued = ["gcloud", "compute", "tpus", "queued-resources"]
  where = [options.name, f"--zone={options.zone}"]
  # Each argument is quoted for the remote shell. The line feed ends a comment
  # at the end of --setup.
  training = shlex.join(["pausejax", "train", *train])
  remote = f"{{ {options.setup}\n}} && {training}"
  return {
    "create": [
      *(*queued, "create", *where, f"--node-id={options.name}"),
      f"--accelerator-type={options.accelerator_type}",
      f"--runtime-version={options.runtime_version}",
      *(["--spot"] if options.spot else []),
    ],
    "describe": [*queued, "describe", *where, "--format=value(state.state)"],
    "train": [
      *("gcloud", "compute", "tpus", "tpu-vm", "ssh", *where),
      *("--worker=all", f"--command={remote}"),
    ],
    "delete": [*queued, "delete", *where, "--force", "--quiet"],
  }


def _train(commands: dict[str, list[str]]) -> int:
  """Trains to the end, and replaces the slice when it is preempted."""
  tries, code, failures = 0, 0, 0
  while True:
    state = _state(commands)
    if state == "ACTIVE":
      if code in words.NOT_REPEATED or tries == MAX_TRIES:
        print(f"exit code {code}; the slice still exists; to delete it:")
        print(shlex.join(commands["delete"]))
        return code
      code = _call(commands["train"])
      tries += code != PREEMPTED
      if code == 0:
        return _call(commands["delete"])
      time.sleep(POLL_S)  # The state of a preempted slice changes with a delay.
    elif state in GONE:
      print(f"the slice is {state}: requesting another one", flush=True)
      failures = failures + 1 if state == "FAILED" else 0
      _require(failures == MAX_TRIES)
      _require(_call(commands["delete"]))
      time.sleep(POLL_S)
      tries, code = 0, 0
    elif not state:
      _require(_call(commands["create"]))
    else:
      print(f"{state} ...", flush=True)
      time.sleep(POLL_S)


def _state(commands: dict[str, list[str]]) -> str:
  """Returns the state of the queued resource, "" if there is none."""
  done = subprocess.run(commands["describe"], capture_output=True, text=True)
  if done.returncode and "NOT_FOUND" not in done.stderr:
    return f"unknown ({done.stderr.strip()})"
  return done.stdout.strip()


def _call(command: list[str]) -> int:
  print(shlex.join(command), flush=True)
  return subprocess.run(command).returncode


def _require(code: int) -> None:
  if code:
    sys.exit(code)


if __name__ == "__main__":
  sys.exit(main())
