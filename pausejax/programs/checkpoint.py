"""Lists, verifies, compares and repairs the steps of a run.

  pausejax checkpoint ls RUN            what is there, and in which state
  pausejax checkpoint verify RUN        compares every file and every leaf
  pausejax checkpoint diff A [B]        how two steps differ
  pausejax checkpoint repair RUN --step=N [--apply]
                                        puts a step back that was set aside

All but `repair --apply` change nothing. `pausejax checkpoint ACTION --help`
says more. They run on the CPU, also while a run trains on other devices.
"""

import datetime
import json
import pathlib
import re
import shutil
from typing import Any

from pausejax import commandline, errors, files
from pausejax.buckets import copies, layout, urls
from pausejax.checkpoints import folders, listing, space
from pausejax.programs import checkpoint_diff
from pausejax.runtime import phases, run_folder, tables

_LS = """Lists the steps of a run, of a study's runs, or of a run in a bucket.

  pausejax checkpoint ls runs/pause

One line per step: its size, when it was saved by its own record, and whether it
is complete, incomplete, damaged or set aside, with the reason. Only small files
are read; `pausejax checkpoint verify` compares the arrays, too. The step marked
as newest is the one that a run would resume from.
"""
_VERIFY = """Compares every file and every leaf of the steps with its digest.

  pausejax checkpoint verify runs/pause
  pausejax checkpoint verify runs/pause --step=500

Files are compared with their SHA-256, arrays with the digests that were taken
on the devices before the save. Arrays are read a few at a time, so the memory
needed is bounded by the largest one. Ends with exit code 3 if a step is
damaged, and names the file or leaf. Steps set aside are compared only if
`--step` names them.
"""
_REPAIR = """Puts a step back that was set aside, after comparing all of it.

  pausejax checkpoint repair runs/pause --step=500
  pausejax checkpoint repair runs/pause --step=500 --apply

Without `--apply` it only says what it would do. A damaged step is refused, and
so is any change while a run uses the folder.
"""


def main(argv: list[str]) -> int:
  """Runs the action in the first argument."""
  actions = {
    "ls": _list,
    "verify": _verify,
    "diff": checkpoint_diff.main,
    "repair": _repair,
  }
  if commandline.HELP & {*argv[:1]}:
    commandline.Parser("checkpoint", __doc__, config=False).parse(argv)
  errors.require_one_of("checkpoint", argv[0] if argv else "", actions)
  return actions[argv[0]](argv[1:])


def _parser(action: str, description: str, **options: Any):
  parser = commandline.Parser(
    f"checkpoint {action}", description, config=False, **options
  )
  parser.add_argument("run", metavar="RUN", help="workdir of the run")
  return parser


def _list(argv: list[str]) -> int:
  parser = _parser("ls", _LS, in_bucket=("run",))
  parser.add_argument("--json", action="store_true", help="print JSON")
  options, _ = parser.parse(argv)
  runs = _listed(options.run)
  if options.json:
    print(json.dumps([_as_json(*run) for run in runs], indent=2))
    return 0
  for place, steps, ignored in runs:
    if len(runs) > 1:
      print(f"{place}:")
    newest = listing.newest_complete(steps)
    rows = [_row(step, step is newest) for step in steps]
    header = ("step", "size", "saved (UTC)", "state", "folder")
    print(*tables.table_lines([header, *rows]), sep="\n")
    if ignored:
      names = ", ".join(map(errors.one_line, ignored))
      print(f"no steps, and not read: {names}")
  return 0


def _listed(spec: str) -> list[tuple[str, list[listing.Listed], list[str]]]:
  """Returns (place, steps, ignored names) of each run below a folder or URL.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  if urls.is_url(spec):
    runs = [(spec, *listing.list_bucket(spec))]
  else:
    folder = _folder(spec)
    with folders.readable(folder):
      found = listing.workdirs_below(folder)
      runs = [(str(path), *listing.list_run(path)) for path in found]
  runs = [run for run in runs if run[1] or run[2]]
  if not runs:
    raise errors.UserError(
      f"no checkpoint in {spec}; name the --workdir of a training run, or, "
      "on a disk, a folder of such runs"
    )
  return runs


def _folder(spec: str) -> pathlib.Path:
  folder = pathlib.Path(spec)
  errors.require(
    not folder.is_file(), f"{spec!r} is a file, not the folder of a run"
  )
  known = [p.name for p in folder.parent.glob("*") if p.is_dir()]
  errors.require(
    folder.is_dir() and spec != "",
    f"no folder {spec!r}{errors.nearest(folder.name, known)}",
  )
  return folder


def _row(step: listing.Listed, is_newest: bool) -> tuple[str, ...]:
  state = f"{step.state}: {step.why}" if step.why else step.state
  return (
    str(step.step),
    space.size_text(step.num_bytes),
    _time(step.saved),
    f"{state}, newest" if is_newest else state,
    step.name,
  )


def _time(saved: float | None) -> str:
  if saved is None:
    return "-"
  time = datetime.datetime.fromtimestamp(saved, datetime.UTC)
  return time.strftime("%Y-%m-%d %H:%M:%S")


def _as_json(
  place: str, steps: list[listing.Listed], ignored: list[str]
) -> dict[str, Any]:
  newest = listing.newest_complete(steps)
  return {
    "run": place,
    "steps": [
      {
        "step": step.step,
        "folder": step.name,
        "bytes": step.num_bytes,
        "saved": step.saved,
        "state": step.state,
        "reason": step.why,
        "newest": step is newest,
      }
      for step in steps
    ],
    "not_read": ignored,
  }


def _verify(argv: list[str]) -> int:
  parser = _parser("verify", _VERIFY, in_bucket=("run",))
  parser.add_argument("--step", help="compare this one only, such as 8 or 8-0")
  options, _ = parser.parse(argv)
  places = [
    (place, step)
    for place, steps, _ in _listed(options.run)
    for step in steps
    if _is_chosen(step, options.step)
  ]
  if not places:
    what = f"no step {options.step}" if options.step else "no saved step"
    raise errors.UserError(
      f"{what} in {options.run}: nothing was compared; pausejax checkpoint ls "
      f"{options.run} lists the steps"
    )
  checkpoint_diff.use_cpu()
  from pausejax.checkpoints import verification

  done = []
  for place, step in places:
    path = _fetched(place, step)
    with copies.named(copies.run_url(place), path.parents[1]):
      verified = verification.verify_step(path, step.step)
    if verified.problems and not path.exists():
      print(f"{place}/{step.name}: deleted meanwhile, not compared", flush=True)
      continue
    done.append(verified)
    print(f"{place}/{step.name}: {_result(verified)}", flush=True)
  if not done:
    raise errors.UserError(f"{options.run}: nothing was compared")
  damaged = sum(bool(each.problems) for each in done)
  compared = (
    f"{len(done) - damaged} of {len(done)} steps are intact; compared "
    f"{sum(each.num_files for each in done):,} files and "
    f"{sum(each.num_leaves for each in done):,} leaves, "
    f"{space.size_text(sum(each.num_bytes for each in done))}"
  )
  if damaged:
    raise errors.CheckpointUnusable(
      f"{compared}; the others are damaged, see above (docs/reliability.md)"
    )
  print(compared)
  return 0


def _is_chosen(step: listing.Listed, name: str | None) -> bool:
  base = step.name.rpartition("/")[2]
  if name:
    return name == base
  return step.state in (listing.COMPLETE, listing.DAMAGED, listing.UNREADABLE)


def _fetched(place: str, step: listing.Listed) -> pathlib.Path:
  """Returns the folder of a step; of one in a bucket, of a new copy."""
  phases.enter("reading", step.step)
  if not urls.is_url(place):
    return pathlib.Path(place) / step.name
  errors.require(
    step.name.startswith(layout.CHECKPOINTS),
    f"--step: {step.name} of a run in a bucket was set aside; copy the run to "
    "this machine to compare it",
  )
  url = urls.normal("RUN", place)
  path = urls.local_folder(url, "copy") / step.name
  shutil.rmtree(path, ignore_errors=True)
  copies.local_run(f"{url}/{step.name}", "RUN")
  copies.fetch_arrays(url, step.step, folders.ITEMS)
  return path


def _result(verified: Any) -> str:
  """Returns a step's line; `verified` is a `verification.Verified`."""
  if verified.problems:
    return "DAMAGED\n" + "\n".join(f"  {p}" for p in verified.problems)
  return (
    f"intact, {verified.num_files} files and {verified.num_leaves} leaves "
    f"compared, {space.size_text(verified.num_bytes)}"
  )


def _repair(argv: list[str]) -> int:
  parser = _parser("repair", _REPAIR)
  parser.add_argument("--step", required=True, help="a step, such as 8 or 8-0")
  parser.add_argument("--apply", action="store_true", help="put it back")
  options, _ = parser.parse(argv)
  workdir = _folder(options.run)
  step, path = _set_aside(workdir, options.step)
  target = workdir / layout.CHECKPOINTS / str(step)
  run_folder.require_unused(workdir)
  if target.exists():
    raise errors.UserError(
      f"{target} exists, so {path.name} cannot take its place; pausejax "
      f"checkpoint verify {options.run} --step={step} compares it"
    )
  checkpoint_diff.use_cpu()
  from pausejax.checkpoints import verification

  verified = verification.verify_step(path, step)
  if verified.problems:
    raise errors.CheckpointUnusable(
      f"{path} is damaged and was not put back: {verified.problems[0]}"
    )
  print(f"{path}: {_result(verified)}")
  print(f"it was set aside: {listing.aside_reason(path)}")
  if not options.apply:
    print(f"--apply would move it to {target}; nothing was changed")
    return 0
  with run_folder.hold_workdir(workdir):
    _put_back(path, target)
  print(f"moved to {target}")
  return 0


def _set_aside(workdir: pathlib.Path, name: str) -> tuple[int, pathlib.Path]:
  """Returns (step, folder) of a step that was set aside.

  Raises:
    UserError: there is none of that name, or several of that step.
  """
  errors.require(
    re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", name) is not None,
    f"--step: expected a step such as 8, or a folder such as 8-0, got {name!r}",
  )
  with folders.readable(workdir):
    names = folders.set_aside(workdir / layout.CHECKPOINTS)
  step = name.split("-")[0]
  found = [n for n in names if n.split("-")[0] == name]
  found = [name] if name in names else found
  aside = workdir / layout.ASIDE
  if len(found) != 1:
    what = "no such step" if not found else f"several: {', '.join(found)}"
    raise errors.UserError(
      f"--step: {name} in {aside}: {what} (set aside: "
      f"{', '.join(names) or 'none'})"
    )
  path = aside / found[0]
  errors.require(
    not path.is_symlink() and not aside.is_symlink(),
    f"{path} is reached by a symbolic link; move the folder there yourself",
  )
  return int(step), path


def _put_back(path: pathlib.Path, target: pathlib.Path) -> None:
  """Moves a step in one operation; raises UserError, and then nothing moved."""
  try:
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
  except OSError as e:
    raise errors.UserError(
      f"cannot move {path} to {target}: {e.strerror or e}; nothing was changed"
    ) from e
  (target / folders.REASON).unlink(missing_ok=True)
  for folder in (target.parent, path.parent):
    files.sync_folder(folder)
