"""Which objects of a run are what: small files, steps, and parts of lines.

checkpoints/<step>/...            as on a disk
checkpoints/<step>/committed.json name -> size of every object of the step,
                                  written last: a step without it is no step
metrics.jsonl/<start>.<offset>    the lines from an offset in bytes on; those
                                  of the newest start that has offset 0 count
lease.json                        held while a run uses the folder
"""

import re
from collections.abc import Iterable

COMMITTED = "committed.json"
PARTED = ("metrics.jsonl", "samples.jsonl")
CHECKPOINTS, ASIDE, SEGMENTS = "checkpoints", "set_aside", "segments"
# Neither copied from here to the bucket nor back.
_OWN = re.compile(r"(lock|lease)[^/]*|.*\.tmp|\.versions\.json")
# Copied to the bucket and back, but not for reading.
FOR_TRAINING = (SEGMENTS, "compilation_cache", "profile", "hlo")
# Folders of small files; all others may be of other runs.
_SMALL = re.compile(r"(evaluations|probes|text_scores)(_average)?|tensorboard")


def committed_steps(names: Iterable[str]) -> list[int]:
  """Returns the complete steps, oldest first."""
  found = (
    re.fullmatch(rf"{CHECKPOINTS}/(0|[1-9][0-9]*)/{COMMITTED}", name)
    for name in names
  )
  return sorted(int(match[1]) for match in found if match)


def step_name(step: int, name: str = "") -> str:
  """Returns the name of an object of a step."""
  return f"{CHECKPOINTS}/{step}/{name}"


def of_step(names: Iterable[str], step: int) -> list[str]:
  """Returns the names of a step's objects, without the mark of completion."""
  start = step_name(step)
  return [n for n in names if n.startswith(start) and n != start + COMMITTED]


def is_array(name: str) -> bool:
  """Returns whether an object of a step holds values of arrays.

  They are in the `d` folders of a database, or in files named by the index of
  a shard, such as `2.0`, if the processes of the run shared no folder.
  """
  is_shard = re.fullmatch(r"[0-9]+(\.[0-9]+)*", name.rpartition("/")[2])
  return "/d/" in name or is_shard is not None


def is_of_process(name: str, process: int) -> bool:
  """Returns whether a process above 0 copies a file of its folder.

  It copies shards of arrays, and files that are named by the process.
  """
  base = name.rpartition("/")[2]
  return is_array(name) or re.match(rf"process_{process}\b", base) is not None


def is_own(name: str) -> bool:
  """Returns whether a file is only of use where it is, such as a lock."""
  return _OWN.fullmatch(name.rpartition("/")[2]) is not None


def is_small(name: str) -> bool:
  """Returns whether a file of a run is kept whole, and read at its start.

  A folder, whose name ends in a slash, has such files or not.
  """
  top, slash, _ = name.partition("/")
  is_known = _SMALL.fullmatch(top) is not None if slash else top not in PARTED
  return is_known and not is_own(name)
