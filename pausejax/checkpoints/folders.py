"""What lies in a folder of checkpoints, told without JAX or Orbax."""

import json
import pathlib
from typing import Any

from etils import epath

from pausejax import errors

META = "meta.json"
_PARTS = ("commit_success.txt", f"meta/{META}", "params", "opt_state", "data")


def find(folder: epath.Path) -> tuple[list[int], list[tuple[str, str]]]:
  """Returns (whole steps, oldest first; other numbered folders and why)."""
  steps, odd = [], []
  for path in sorted(folder.iterdir(), key=lambda p: p.name):
    if not path.name.isdigit():
      continue
    missing = [part for part in _PARTS if not (path / part).exists()]
    if missing:
      odd.append((path.name, f"it lacks {', '.join(missing)}"))
    else:
      steps.append(int(path.name))
  return sorted(steps), odd


def newest(folder: epath.Path) -> int:
  """Returns the newest whole step; raises UserError if there is none."""
  steps, _ = find(folder) if folder.exists() else ([], [])
  if not steps:
    raise errors.UserError(f"no checkpoint in {folder}")
  return steps[-1]


def meta(folder: epath.Path, step: int) -> dict[str, Any]:
  """Returns meta.json of a step."""
  return json.loads((folder / str(step) / "meta" / META).read_text())


def locate(spec: str) -> tuple[pathlib.Path, int]:
  """Returns (workdir, step) of a run's workdir, or of one checkpoint in it.

  Args:
    spec: `WORKDIR`, for its newest checkpoint, or `WORKDIR/checkpoints/STEP`.

  Raises:
    UserError: there is no such checkpoint.
  """
  path = pathlib.Path(spec).resolve()
  workdir = path
  if path.name.isdigit() and path.parent.name == "checkpoints":
    workdir = path.parent.parent
  folder = epath.Path(workdir / "checkpoints")
  if workdir is path:
    return workdir, newest(folder)
  steps, _ = find(folder) if folder.exists() else ([], [])
  if int(path.name) not in steps:
    there = ", ".join(map(str, steps)) or "none"
    raise errors.UserError(f"no checkpoint {path} (found: {there})")
  return workdir, int(path.name)
