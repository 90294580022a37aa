"""Damages the input of every reader for some time; prints what it counted.

  python -m tests.fuzz --minutes=10
  python -m tests.fuzz --minutes=1 --reader=GGUF --seed=7

Every round has new damages, which the seed determines. A file that a reader
neither refuses nor reads is printed, and the command ends with 1.
"""

import argparse
import pathlib
import sys
import tempfile
import time
import traceback

from tests.fuzz.check import Counts, check
from tests.fuzz.table import READERS

_NUM = 50  # Files per reader and round.


def main() -> int:
  """Repeats rounds over the readers until the time is over."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
  )
  parser.add_argument("--minutes", type=float, default=1.0)
  parser.add_argument("--reader", default="", help="part of names; all")
  parser.add_argument("--seed", type=int, default=0, help="of the first round")
  options = parser.parse_args()
  readers = [r for r in READERS if options.reader in r.name]
  totals = {reader.name: Counts() for reader in readers}
  end, seed = time.monotonic() + 60 * options.minutes, options.seed
  while time.monotonic() < end:
    for reader in readers:
      with tempfile.TemporaryDirectory() as folder:
        try:
          totals[reader.name] += check(
            reader, pathlib.Path(folder), _NUM, seed=seed
          )
        except Exception:
          traceback.print_exc()
          print(f"{reader.name}: failed at seed {seed}")
          totals[reader.name]["failed"] += 1
    seed += 1
  width = max(map(len, totals), default=0)
  print(f"{'reader':{width}} refused accepted failed")
  for name, count in totals.items():
    row = [count[key] for key in ("refused", "accepted", "failed")]
    print(f"{name:{width}} {row[0]:7,} {row[1]:8,} {row[2]:6,}")
  num = sum(sum(count.values()) for count in totals.values())
  print(f"{num:,} damaged files, seeds {options.seed} to {seed - 1}")
  return bool(sum(count["failed"] for count in totals.values()) or not num)


if __name__ == "__main__":
  sys.exit(main())
