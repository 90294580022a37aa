"""The words of a run, which every launcher hands on as they are."""

import argparse
import pathlib
import sys

from pausejax import errors

# Exit codes 2, 3 and 4: the same command would end in the same way.
NOT_REPEATED = (
  errors.UsageError.exit_code,
  errors.CheckpointUnusable.exit_code,
  errors.Diverged.exit_code,
)


def parse(
  parser: argparse.ArgumentParser, argv: list[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """Returns (the launcher's own options, the words behind `--`).

  Adds --dry_run to the parser. Leaves with 2 unless the words name a workdir.
  """
  parser.add_argument(
    "--dry_run", action="store_true", help="print what would be run, and stop"
  )
  argv = sys.argv[1:] if argv is None else argv
  if "--" not in argv:
    if {"-h", "--help"} & set(argv):
      parser.print_help()
      parser.exit()
    parser.error("put the words of `pausejax train` behind --")
  cut = argv.index("--")
  words = argv[cut + 1 :]
  if not workdir(words):
    parser.error("the words behind -- name no --workdir=FOLDER")
  try:
    for name in ("--workdir", "--init_from"):
      errors.require_local(name, value(words, name))
  except errors.UsageError as e:
    parser.error(e.message)
  return parser.parse_args(argv[:cut]), words


def count(text: str) -> int:
  """Reads a number of things that there must be at least one of."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
  return int(text)


def workdir(words: list[str]) -> str:
  """Returns the last --workdir among the words, "" if there is none."""
  return value(words, "--workdir")


def value(words: list[str], name: str) -> str:
  """Returns the last value of an option, "" if there is none."""
  found = ""
  for word, following in zip(words, [*words[1:], ""], strict=True):
    if word == name:
      found = following
    elif word.startswith(f"{name}="):
      found = word.partition("=")[2]
  return found


def require_shared(parser, words: list[str], mount: str) -> None:
  """Leaves with 2 unless the workdir lies below the shared volume."""
  folder = workdir(words)
  if not pathlib.PurePosixPath(folder).is_relative_to(mount):
    parser.error(
      f"--workdir={folder} is not below {mount}, the volume that all machines "
      "share"
    )
