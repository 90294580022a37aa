"""On what a run was made: versions, source commit, devices."""

import functools
import pathlib
import subprocess
from importlib import metadata
from typing import Any

_PACKAGES = ("pausejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_SECONDS = 10  # A checkout on a slow file system must not hold a run up.


def versions() -> dict[str, str]:
  """Returns package -> version, of those that decide what a run computes."""
  return {name: metadata.version(name) for name in _PACKAGES}


@functools.cache
def commit() -> str:
  """Returns the commit of the checkout that pausejax is imported from.

  "+changes" follows where tracked files differ from it. "" for an installed
  package, and where git does not answer.
  """
  root = pathlib.Path(__file__).parents[2]
  # Not the checkout of some project that the package is installed inside of.
  if not (root / ".git").exists():
    return ""
  found = _git(root, "rev-parse", "HEAD").strip()
  changed = _git(root, "status", "--porcelain", "--untracked-files=no")
  return found + "+changes" * bool(found and changed)


def devices() -> dict[str, Any]:
  """Returns kind and number of all devices, and the number of processes."""
  import jax

  return {
    "kind": jax.devices()[0].device_kind,
    "count": jax.device_count(),
    "processes": jax.process_count(),
  }


def _git(root: pathlib.Path, *words: str) -> str:
  try:
    return subprocess.run(
      ["git", "-C", str(root), *words],
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      check=True,
    ).stdout
  except (OSError, subprocess.SubprocessError):
    return ""
