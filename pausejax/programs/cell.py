"""Runs commands in one process, as a study does with those of a cell.

  python -m pausejax.programs.cell '[["train", ...], ["evaluate", ...]]'

Python, JAX and what tasks read are loaded once. The first command that fails
ends the process with its exit code.
"""

import json
import sys

from pausejax import cli


def main() -> int:
  """Runs the commands of the only argument, a JSON list of lists of words."""
  for words in json.loads(sys.argv[1]):
    print("$ pausejax", *words, flush=True)
    if code := cli.main(words):
      return code
  return 0


if __name__ == "__main__":
  cli.run(main)
