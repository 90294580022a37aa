"""The arguments of `pausejax train`, which launchers pass on unchanged."""

import argparse
import pathlib
import re
import sys

from pausejax import errors
from pausejax.buckets import urls

# Exit codes 2, 3 and 4: a repeated command would end in the same way.
NOT_REPEATED = (
  errors.UsageError.exit_code,
  errors.CheckpointUnusable.exit_code,
  errors.Diverged.exit_code,
)


def parse(
  parser: argparse.ArgumentParser, argv: list[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """Returns (the launcher's own options, the words after `--`).

  Adds --dry_run to the parser. Exits with 2 unless the words have a workdir.
  """
  parser.add_argument(
    "--dry_run", action="store_true", help="print the commands and exit"
  )
  argv = sys.argv[1:] if argv is None else argv
  if "--" not in argv:
    if {"-h", "--help"} & set(argv):
      parser.print_help()
      parser.exit()
    parser.error("put the arguments of `pausejax train` after --")
  cut = argv.index("--")
  words = argv[cut + 1 :]
  if not workdir(words):
    parser.error("the arguments after -- have no --workdir=FOLDER")
  try:
    for name in ("--workdir", "--init_from"):
      _check_place(name, value(words, name))
  except errors.UsageError as e:
    parser.error(e.message)
  return parser.parse_args(argv[:cut]), words


def count(text: str) -> int:
  """Parses a positive integer."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
  return int(text)


def workdir(words: list[str]) -> str:
  """Returns the last --workdir among the words, "" if there is none."""
  return value(words, "--workdir")


def value(words: list[str], name: str) -> str:
  """Returns the last value of an option, "" if there is none."""
  last = ""
  for word, following in zip(words, [*words[1:], ""], strict=True):
    if word == name:
      last = following
    elif word.startswith(f"{name}="):
      last = word.partition("=")[2]
  return last


def uses_volume(words: list[str], mount: str) -> bool:
  """Returns whether an argument names a path on the shared volume."""
  return any(re.search(rf"(^|=){mount}(/|$)", word) for word in words)


def require_shared(parser, words: list[str], mount: str) -> None:
  """Exits with 2 unless the workdir is in a bucket or on the shared volume."""
  folder = workdir(words)
  is_below = pathlib.PurePosixPath(folder).is_relative_to(mount)
  if not (urls.is_url(folder) or is_below):
    parser.error(
      f"--workdir={folder} is neither below {mount}, the volume that all "
      "machines share, nor in a bucket, such as gs://BUCKET/FOLDER"
    )


def _check_place(name: str, place: str) -> None:
  """Raises UsageError for a URL that is not one of a bucket."""
  if urls.is_url(place):
    urls.normal(name, place)
  else:
    errors.require_local(name, place)
