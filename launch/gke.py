"""Trains on TPU slices of a GKE cluster, by a JobSet.

  python -m launch.gke --name=pause-1b --image=REGISTRY/pausejax \\
    --accelerator=tpu-v5-lite-podslice --topology=16x16 -- \\
    --config=configs/pretrain_c4.py:size=1b --workdir=/workdir/pause-1b

Fills in launch/jobset.yaml and passes it to `kubectl create`; --dry_run prints
it. --accelerator and --topology are the labels of the cluster's TPU nodes. The
workdir is in a bucket, such as gs://BUCKET/pause-1b, or on the volume claim
`pausejax`, which all machines mount at /workdir if an argument names a path
there.
"""

import argparse
import math
import pathlib
import re
import subprocess
import sys

import yaml

from launch import words

TEMPLATE = pathlib.Path(__file__).parent / "jobset.yaml"


def main(argv: list[str] | None = None) -> int:
  """Creates the JobSet, or prints it."""
  parser = argparse.ArgumentParser(
    prog="launch.gke",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--name", required=True, type=_name)
  parser.add_argument("--image", required=True)
  parser.add_argument("--accelerator", required=True)
  parser.add_argument("--topology", required=True, type=_topology)
  parser.add_argument("--chips_per_machine", type=words.count, default=4)
  parser.add_argument("--slices", type=words.count, default=1)
  parser.add_argument("--spot", action="store_true")
  options, train = words.parse(parser, argv)
  words.require_shared(parser, train, "/workdir")
  if _chips(options) % options.chips_per_machine:
    parser.error(
      f"--topology={options.topology} has {_chips(options)} chips, not a "
      f"multiple of --chips_per_machine={options.chips_per_machine}"
    )
  text = yaml.safe_dump(manifest(options, train), sort_keys=False)
  if options.dry_run:
    print(text, end="")
    return 0
  create = ["kubectl", "create", "--filename=-"]
  return subprocess.run(create, input=text, text=True).returncode


def manifest(options: argparse.Namespace, train: list[str]) -> dict:
  """Returns the JobSet of a run."""
  filled = yaml.safe_load(TEMPLATE.read_text())
  filled["metadata"]["name"] = options.name
  slices = filled["spec"]["replicatedJobs"][0]
  slices["replicas"] = options.slices
  job = slices["template"]["spec"]
  machines = _chips(options) // options.chips_per_machine
  job["parallelism"] = job["completions"] = machines
  pod = job["template"]["spec"]
  labels = "cloud.google.com/gke"
  pod["nodeSelector"] = {
    f"{labels}-tpu-accelerator": options.accelerator,
    f"{labels}-tpu-topology": options.topology,
  }
  if options.spot:
    pod["nodeSelector"][f"{labels}-spot"] = "true"
  container = pod["containers"][0]
  container["image"] = options.image
  command = ["pausejax", "train", *train]
  container["command"] = [word.replace("$", "$$") for word in command]
  container["resources"]["limits"]["google.com/tpu"] = options.chips_per_machine
  if not words.uses_volume(train, "/workdir"):
    del pod["volumes"], container["volumeMounts"]
  return filled


def _chips(options: argparse.Namespace) -> int:
  return math.prod(map(int, options.topology.split("x")))


def _name(text: str) -> str:
  """Checks a name, to which Kubernetes appends suffixes for its pods."""
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", text):
    raise argparse.ArgumentTypeError(
      f"{text!r}: lower-case letters, digits and -, at most 40"
    )
  return text


def _topology(text: str) -> str:
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
    raise argparse.ArgumentTypeError(
      f"{text!r}: expected a topology such as 16x16 or 4x4x8"
    )
  return text


if __name__ == "__main__":
  sys.exit(main())
