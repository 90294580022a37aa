"""Lists the steps of a run, also incomplete ones and those set aside.

Imports no JAX and changes nothing. Only small files are read: a step that is
listed as complete has all its parts, and the arrays are not compared.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator

from pausejax import errors, files, json_files
from pausejax.buckets import copies, layout, urls
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.buckets.objects import Objects
from pausejax.checkpoints import folders, retention

COMPLETE, DAMAGED, INCOMPLETE = "complete", "damaged", "incomplete"
ASIDE, UNREADABLE = "set aside", "unreadable"
_TRASH = f"{CHECKPOINTS}/{retention.TRASH}"
_PARTIAL = ".orbax-checkpoint-tmp"
# What has no part of a run below it.
_OTHER_FOLDERS = frozenset({CHECKPOINTS, layout.ASIDE, layout.SEGMENTS})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
  """One step in a run's folder.

  Attributes:
    name: its folder relative to the run's, such as checkpoints/8.
    step: the number in that name.
    num_bytes: size of its files.
    saved: time.time() when the save ended, by the step's own record; None if it
      has none.
    state: one of the states above.
    why: the reason for that state, "" for a complete step.
  """

  name: str
  step: int
  num_bytes: int
  saved: float | None
  state: str
  why: str


def workdirs_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the runs in a folder, at any depth, sorted; it may be one itself.

  Raises:
    OSError: a folder cannot be read.
  """

  def fail(error: OSError) -> None:
    raise error

  found = []
  for path, names, _ in os.walk(folder, onerror=fail):
    if {CHECKPOINTS, layout.ASIDE} & {*names}:
      found.append(pathlib.Path(path))
    names[:] = [n for n in names if n not in _OTHER_FOLDERS]
  return sorted(found)


def list_run(workdir: pathlib.Path) -> tuple[list[Listed], list[str]]:
  """Returns (the steps of a run, oldest first; names that are no step).

  Raises:
    OSError: the folder cannot be listed.
  """
  sizes = dict(_local_sizes(workdir))
  found = [_listed(workdir, name, size) for name, size in sizes.items()]
  steps = [step for step in found if step]
  ignored = sizes.keys() - {step.name for step in steps}
  return _sorted(steps), sorted(ignored)


def list_bucket(url: str) -> tuple[list[Listed], list[str]]:
  """Returns what `list_run` does, of a run in a bucket.

  Downloads all but the arrays; a step without a mark of completion is
  incomplete.
  """
  url = urls.normal("checkpoint ls", url)
  workdir = copies.local_run(url, "checkpoint ls", required=False)
  with copies.reading(url):
    objects = Objects(url)
    objects_sizes = objects.sizes()
    complete = layout.committed_steps(objects_sizes)
    reasons = {
      name.rpartition("/")[0]: objects.read(name).decode("utf-8", "replace")
      for name in objects_sizes
      if name.endswith(f"/{folders.REASON}")
    }
  sizes: dict[str, int] = {}
  for name, size in objects_sizes.items():
    top, _, rest = name.partition("/")
    if top in (CHECKPOINTS, layout.ASIDE):
      place = f"{top}/{rest.split('/')[0]}"
      sizes[place] = sizes.get(place, 0) + size
  steps = []
  for name, size in sizes.items():
    step = _listed(workdir, name, size)
    if step and name.startswith(CHECKPOINTS) and step.step not in complete:
      step = dataclasses.replace(
        step, state=INCOMPLETE, why=f"it lacks {layout.COMMITTED}"
      )
    elif step and name in reasons:
      step = dataclasses.replace(step, why=reasons[name].strip())
    steps += [step] if step else []
  return _sorted(steps), sorted(sizes.keys() - {s.name for s in steps})


def newest_complete(steps: list[Listed]) -> Listed | None:
  """Returns the step that a resume would try first and that has all parts."""
  complete = [step for step in steps if step.state == COMPLETE]
  return complete[-1] if complete else None


def _sorted(steps: list[Listed]) -> list[Listed]:
  return sorted(steps, key=lambda s: (s.step, s.state != ASIDE, s.name))


def _local_sizes(workdir: pathlib.Path) -> Iterator[tuple[str, int]]:
  """Yields (name, bytes) of everything in the folders of steps."""
  for top in (CHECKPOINTS, _TRASH, layout.ASIDE):
    try:
      names = os.listdir(workdir / top)
    except (FileNotFoundError, NotADirectoryError):
      continue
    for name in names:
      if f"{top}/{name}" != _TRASH:
        yield f"{top}/{name}", _size(workdir / top / name)


def _size(path: pathlib.Path) -> int:
  """Returns the bytes of a file, or of all files below a folder."""
  if not path.is_dir() or path.is_symlink():
    return path.lstat().st_size
  paths = (os.path.join(p, n) for p, _, names in os.walk(path) for n in names)
  total = 0
  for file in paths:
    try:
      total += os.lstat(file).st_size
    except FileNotFoundError:  # A run that saves here has renamed the folder.
      continue
  return total


def _listed(workdir: pathlib.Path, name: str, num_bytes: int) -> Listed | None:
  """Returns a step; None for a name that is none."""
  top, _, base = name.rpartition("/")
  number = base.removesuffix(_PARTIAL).split("-")[0]
  pattern = {
    CHECKPOINTS: rf"(0|[1-9][0-9]*)({re.escape(_PARTIAL)}.*)?",
    _TRASH: "[0-9]+",
    layout.ASIDE: "[0-9]+(-[0-9]+)?",
  }[top]
  if not re.fullmatch(pattern, base) or len(number) > 18:
    return None
  path = workdir / name
  if top == _TRASH:
    state, why = INCOMPLETE, "its deletion was interrupted"
  elif base != number and top == CHECKPOINTS:
    state, why = INCOMPLETE, "it is being saved, or its save was interrupted"
  elif top == layout.ASIDE:
    state, why = ASIDE, aside_reason(path)
  else:
    state, why = _state(path, int(number))
  return Listed(
    name=name,
    step=int(number),
    num_bytes=num_bytes,
    saved=_saved(path),
    state=state,
    why=why,
  )


def _state(path: pathlib.Path, step: int) -> tuple[str, str]:
  """Returns the state of a step in its place, and why."""
  try:
    folders.read_path(path, step)
  except folders.Damaged as e:
    return DAMAGED, str(e)
  except errors.UserError as e:
    return UNREADABLE, e.message
  except OSError as e:
    return UNREADABLE, f"{e.filename or path}: {e.strerror or e}"
  return COMPLETE, ""


def aside_reason(path: pathlib.Path) -> str:
  """Returns why a step was set aside, as recorded in it."""
  try:
    text = files.read_bounded(path / folders.REASON).decode("utf-8", "replace")
  except OSError:
    return "no reason is recorded"
  return errors.one_line(" ".join(text.split()))


def _saved(path: pathlib.Path) -> float | None:
  """Returns when Orbax ended the save, in seconds since 1970."""
  try:
    record = json_files.loads(files.read_bounded(path / "_CHECKPOINT_METADATA"))
    nanoseconds = record["commit_timestamp_nsecs"]
  except (OSError, ValueError, KeyError, TypeError):
    return None
  is_time = isinstance(nanoseconds, int) and 0 < nanoseconds < 2**63
  return nanoseconds / 1e9 if is_time else None
