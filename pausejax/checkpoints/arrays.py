"""Writes and reads the arrays and small files of a step with Orbax.

Orbax writes a step under a temporary name and renames it when it is complete.
In a folder that all processes share, the arrays of an item are in one database,
which process 0 completes. Processes that share no folder write files for each
shard, which together are the step.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pausejax import errors
from pausejax.checkpoints import folders, leaves
from pausejax.runtime import distributed

# Orbax merges the files of all processes with a glob of the full path;
# TensorStore reads a backslash as a slash.
_MISREAD_CHARACTERS = frozenset("*?[\\")
# Orbax measures its limits by the wall clock, which may jump. So the limit of a
# save is ten years (the watchdog ends one that is stuck), and no thread waits
# for folders to be made, since such a wait could last as long as the jump.
_OPTIONS = ocp.AsyncOptions(
  timeout_secs=315_360_000, create_directories_asynchronously=False
)
# Statuses of TensorStore and XLA that are no evidence of damage on disk.
_NOT_DAMAGE = (
  "ABORTED",
  "CANCELLED",
  "DEADLINE_EXCEEDED",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "UNAVAILABLE",
)


class _Files(ocp.CheckpointHandler):
  """Writes small files unchanged as one item of the step."""

  def save(self, directory: epath.Path, args: "_SaveFiles") -> None:
    for name, content in args.files.items():
      (directory / name).write_bytes(content)

  def restore(self, directory: epath.Path, args: Any = None):
    raise NotImplementedError("folders.read_step reads and checks them")


@ocp.args.register_with_handler(_Files, for_save=True, for_restore=True)
@dataclasses.dataclass
class _SaveFiles(ocp.args.CheckpointArgs):
  files: Mapping[str, bytes]


class ArrayWriter:
  """Writes one step at a time, in the background."""

  def __init__(self, *, is_shared: bool = True):
    """Writes nothing yet.

    Args:
      is_shared: whether all processes write to the same folder.
    """
    self._is_shared = is_shared
    self._checkpointer: ocp.AsyncCheckpointer | None = None
    self._links = contextlib.ExitStack()

  def start(
    self,
    path: pathlib.Path,
    arrays: Mapping[str, Mapping[str, jax.Array]],
    files: Mapping[str, Mapping[str, bytes]],
  ) -> None:
    """Copies the arrays and starts to write a step.

    Args:
      path: the step's folder, which must not exist.
      arrays: item -> leaf name -> array.
      files: item -> file name -> content; the files of this process.

    Raises:
      Exception: any error that Orbax raises if it cannot write.
    """
    if self._checkpointer is None:
      _hide_closed_loops()
      self._checkpointer = _checkpointer(self._is_shared)
    items = {
      **{n: ocp.args.PyTreeSave(leaves.nest(x)) for n, x in arrays.items()},
      **{n: _SaveFiles(x) for n, x in files.items()},
    }
    folder = self._links.enter_context(_plain_name(path.parent))
    self._checkpointer.save(
      epath.Path(folder / path.name), args=ocp.args.Composite(**items)
    )

  def wait(self) -> None:
    """Waits until the step is complete; raises Orbax's error on failure."""
    with self._links:
      if self._checkpointer is not None:
        self._checkpointer.wait_until_finished()

  def close(self) -> None:
    """Ends the threads, after `wait`."""
    if self._checkpointer is not None:
      self._checkpointer.close()
      self._checkpointer = None


def _checkpointer(is_shared: bool) -> ocp.AsyncCheckpointer:
  """Returns what writes steps to a folder that all processes share, or not."""
  processes = ocp.options.MultiprocessingOptions(
    primary_host=0 if is_shared else None
  )
  handlers: dict[str, ocp.CheckpointHandler] = {
    item: ocp.PyTreeCheckpointHandler(
      use_ocdbt=is_shared, multiprocessing_options=processes
    )
    for item in folders.ITEMS
  }
  return ocp.AsyncCheckpointer(
    ocp.CompositeCheckpointHandler(
      **handlers,
      data=_Files(),
      meta=_Files(),
      composite_options=ocp.CompositeOptions(
        async_options=_OPTIONS, multiprocessing_options=processes
      ),
    ),
    async_options=_OPTIONS,
    multiprocessing_options=processes,
  )


def read_arrays(
  path: pathlib.Path,
  items: Mapping[str, Mapping[str, Any]],
  digests: Mapping[str, list[int]],
) -> dict[str, jax.Array]:
  """Returns the arrays of a step by leaf name, after checking their digests.

  Args:
    path: the step's folder.
    items: item -> leaf name -> shape, dtype and sharding.
    digests: leaf name -> `digests` of the array that was saved.

  Raises:
    Damaged: an array differs from the one that was saved.
    UserError: the files cannot be read, which is no sign of damage.
  """
  return _checked(path, lambda: _restore(path, items), digests)


def read_some(
  path: pathlib.Path,
  item: str,
  named: Mapping[str, Any],
  digests: Mapping[str, list[int]],
) -> dict[str, jax.Array]:
  """Returns some of the arrays of one item of a step, as `read_arrays` does.

  Args:
    path: the step's folder, which may have any name.
    item: "params", "opt_state" or "average".
    named: leaf name -> shape, dtype and sharding.
    digests: leaf name -> `digests` of the array that was saved.
  """
  return _checked(path, lambda: _restore_some(path, item, named), digests)


def _checked(
  path: pathlib.Path,
  restore: Callable[[], dict[str, jax.Array]],
  digests: Mapping[str, list[int]],
) -> dict[str, jax.Array]:
  """Returns what `restore` reads, after checking the digests.

  All processes call it together, and all raise if one could not read.
  """
  _hide_closed_loops()
  restored, broken = {}, ""
  try:
    restored = restore()
  except Exception as e:
    broken = _why_damaged(path, e)
  # Orbax returns what it was asked for where a name is missing on disk.
  missing = [n for n, x in restored.items() if not isinstance(x, jax.Array)]
  if missing:
    broken = f"{missing[0]} ({len(missing)} in all) is missing"
  require_all_intact(broken)
  computed = host_digests(restored)
  wrong = [n for n in computed if computed[n] != digests[n]]
  if wrong:
    raise folders.Damaged(
      f"digest of {wrong[0]} ({len(wrong)} in all) does not match"
    )
  return restored


def require_all_intact(broken: str) -> None:
  """Raises Damaged in all processes if one found damage; all call it together.

  Otherwise, the others would wait in a collective for the one that raises.

  Args:
    broken: the damage that this process found, "" if none.
  """
  broken = next(filter(None, distributed.all_gather(broken)), "")
  if broken:
    raise folders.Damaged(broken)


def host_digests(named: Mapping[str, jax.Array]) -> dict[str, list[int]]:
  """Returns `leaves.digests` as JSON values."""
  host = jax.device_get(leaves.digests(dict(named)))
  return {n: np.asarray(d).tolist() for n, d in host.items()}


def _why_damaged(path: pathlib.Path, error: BaseException) -> str:
  """Returns why a step's arrays are damaged, after Orbax failed to read them.

  Raises:
    UserError: the error, or a read of all files, shows that the files are
      temporarily unreadable, not damaged.
  """
  while error.__cause__:  # Orbax wraps TensorStore's errors.
    error = error.__cause__
  line = errors.first_line(error) or repr(error)
  # What follows is TensorStore's description of the whole database.
  line = line.partition(" [tensorstore_spec")[0].replace(f"{path}/", "")[:400]
  if isinstance(error, MemoryError) or line.startswith(_NOT_DAMAGE):
    raise errors.UserError(
      f"cannot read {path}: {line}; that is no sign of damage and nothing was "
      "moved; start again when it can be read"
    ) from error
  with folders.readable(path):
    folders.read_through(path)
  return f"it cannot be read: {line}"


def _restore(
  path: pathlib.Path, items: Mapping[str, Mapping[str, Any]]
) -> dict[str, jax.Array]:
  """Reads arrays with Orbax, which raises many kinds of errors.

  Each process reads independently, so that none waits in a barrier for one
  that failed.
  """
  expected = {
    n: ocp.args.StandardRestore(leaves.nest(x)) for n, x in items.items()
  }
  with (
    _plain_name(path.parent) as folder,
    ocp.CheckpointManager(
      epath.Path(folder), options=_independent()
    ) as manager,
  ):
    saved = manager.restore(int(path.name), args=ocp.args.Composite(**expected))
  return leaves.flatten({k: v for n in items for k, v in saved[n].items()})


def _restore_some(
  path: pathlib.Path, item: str, named: Mapping[str, Any]
) -> dict[str, jax.Array]:
  """Reads some arrays of one item, without reading the others."""
  tree = leaves.nest(named)
  with (
    _plain_name(path) as folder,
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
  ):
    saved = checkpointer.restore(
      epath.Path(folder / item),
      args=ocp.args.PyTreeRestore(
        item=tree,
        restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        partial_restore=True,
      ),
    )
  return leaves.flatten(saved)


def _independent() -> ocp.CheckpointManagerOptions:
  """Returns options for reading in this process, independently of others."""
  index = jax.process_index()
  return ocp.CheckpointManagerOptions(
    read_only=True,
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=index,
      active_processes={index},
      barrier_sync_key_prefix=f"process_{index}",
    ),
  )


@contextlib.contextmanager
def _plain_name(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path to the folder without characters that Orbax misreads."""
  if _MISREAD_CHARACTERS.isdisjoint(str(folder)):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix="pausejax-") as temporary:
    link = pathlib.Path(temporary) / "checkpoints"
    link.symlink_to(folder)
    yield link


@functools.cache
def _hide_closed_loops() -> None:
  """Suppresses the messages that follow a failed read or write.

  When one fails, Orbax logs the error in each thread and closes the event loop
  that the others report to. The first error is raised in any case.
  """
  for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  warnings.filterwarnings("ignore", "coroutine .* was never awaited")
  shown = sys.unraisablehook

  def hook(unraisable) -> None:
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code is not None and "orbax" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
      shown(unraisable)

  sys.unraisablehook = hook
