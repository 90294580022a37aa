"""Provenance of a run: package versions, source commit, devices."""

import functools
import pathlib
import subprocess
from importlib import metadata
from typing import Any

_PACKAGES = ("pausejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_SECONDS = 10  # Timeout of git, for a checkout on a slow file system.


def versions() -> dict[str, str]:
  """Returns package -> version, of the packages that affect the results."""
  return {name: metadata.version(name) for name in _PACKAGES}


@functools.cache
def commit() -> str:
  """Returns the commit of the checkout that pausejax is imported from.

  "+changes" is appended if tracked files differ from it. Returns "" for an
  installed package, and if git fails.
  """
  root = pathlib.Path(__file__).parents[2]
  # An installed package may lie inside the checkout of another project.
  if not (root / ".git").exists():
    return ""
  head = _git(root, "rev-parse", "HEAD").strip()
  changed = _git(root, "status", "--porcelain", "--untracked-files=no")
  return head + "+changes" * bool(head and changed)


def device_summary() -> dict[str, Any]:
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
