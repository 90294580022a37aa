"""Trains on SkyPilot nodes, which are replaced when they are lost.

  python -m launch.skypilot -- \\
    --config=configs/pretrain_c4.py:size=1b --workdir=/workdir/pause-1b

Adds the arguments of the run to launch/skypilot.yaml, which selects the nodes,
and passes it to `sky jobs launch`; --dry_run prints both. The workdir is on the
volume of that file, at /workdir, or in a bucket, such as gs://BUCKET/pause-1b;
the volume is left out if no argument names a path there.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
import tempfile

import yaml

from launch import words

TEMPLATE = pathlib.Path(__file__).parent / "skypilot.yaml"


def main(argv: list[str] | None = None) -> int:
  """Launches the job, or prints it."""
  parser = argparse.ArgumentParser(
    prog="launch.skypilot",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options, train = words.parse(parser, argv)
  words.require_shared(parser, train, "/workdir")
  task = yaml.safe_load(TEMPLATE.read_text())
  if not words.uses_volume(train, "/workdir"):
    del task["volumes"]
  task["run"] = f"{task['run'].rstrip()} {shlex.join(train)}\n"
  text = yaml.safe_dump(task, sort_keys=False)
  with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    command = ["sky", "jobs", "launch", "--yes", file.name]
    if options.dry_run:
      print(f"{text}# {shlex.join(command)}")
      return 0
    file.write(text)
    file.flush()
    return subprocess.run(command).returncode


if __name__ == "__main__":
  sys.exit(main())
