"""Files of a run's folder other than checkpoints, data and metrics.

lock                  held while a run uses the folder; names its process
config.json           the settings of the latest start
config_history.jsonl  one line per change of the settings:
                      {"step": last step before them, "time": when the run
                      was started with them, "config": all fields}
tokenizer.*           a copy of the tokenizer's file
tokenizer_config.json a copy of the settings beside it, if there are any
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from pausejax import errors, files, json_files, locks
from pausejax.buckets import layout
from pausejax.config import saved
from pausejax.data import tokenizers
from pausejax.runtime import distributed

LOCK = "lock"
HISTORY = "config_history.jsonl"
# The fields that are read of an entry.
_ENTRY = {"step": int, "time?": float, "config": {"log": {"every": int}}}


@contextlib.contextmanager
def hold_workdir(
  workdir: pathlib.Path, *, is_shared: bool = True
) -> Iterator[None]:
  """Creates the folder and locks it against a second run.

  A run that ends in an error before it wrote anything leaves nothing there.

  Args:
    workdir: the folder.
    is_shared: whether all processes of the run use it; process 0 locks it.
  """
  if is_shared and distributed.process_index() > 0:
    yield
    return
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(locks.unused_removed(workdir))
      workdir.mkdir(parents=True, exist_ok=True)
      _require_own(workdir)
      lock = locks.take(workdir / LOCK)
    except OSError as e:
      raise errors.UserError(
        f"--workdir: cannot write {workdir}: {e.strerror or e}; make it "
        "writable, or name another folder"
      ) from e
    if lock is None:
      raise errors.UserError(
        f"--workdir: another run is using {workdir} ({_holder(workdir)}); wait "
        "for it or choose another folder"
      )
    stack.enter_context(lock)
    lock.truncate(0)
    with contextlib.suppress(OSError):  # The disk may be full.
      name = f"process {os.getpid()} on {socket.gethostname()}\n"
      os.write(lock.fileno(), name.encode())
    yield


def _require_own(workdir: pathlib.Path) -> None:
  """Raises UserError if a run would write or delete outside its folder."""
  for name in (LOCK, layout.CHECKPOINTS, layout.ASIDE):
    if (workdir / name).is_symlink():
      raise errors.UserError(
        f"--workdir: {workdir / name} is a symbolic link, and a run deletes "
        "old files there; replace it by a folder, or link the whole workdir"
      )
  if (workdir / "metrics.jsonl").is_dir():
    raise errors.UserError(
      f"--workdir: {workdir / 'metrics.jsonl'} is a folder, as in a bucket; "
      "give the URL of the run, or move its metrics.jsonl and samples.jsonl "
      "away to continue this copy without their rows"
    )
  lock = workdir / LOCK
  if lock.exists() and not re.match(
    rb"(process )?\d+|$", files.read_bounded(lock)
  ):
    raise errors.UserError(
      f"--workdir: {lock} is no lock of a run; move it away, or name another "
      "folder"
    )


def require_unused(workdir: pathlib.Path) -> None:
  """Raises UserError while a run uses a folder; writes nothing."""
  try:
    lock = (workdir / LOCK).open()
  except FileNotFoundError:
    return
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(
        f"a run is using {workdir} ({_holder(workdir)}); wait until it ends"
      ) from None


def _holder(workdir: pathlib.Path) -> str:
  """Returns which process holds the lock, as it wrote there itself."""
  text = (workdir / LOCK).read_text("utf-8", "replace")
  return text.strip() or "an unnamed process"


def is_shared(workdir: pathlib.Path) -> bool:
  """Returns whether all processes see one folder; all call it.

  The folder is the local one of a run in a bucket, which process 0 holds.
  """
  token = workdir / "lock_shared"
  if distributed.process_index() == 0:
    files.write(token, secrets.token_hex(8))
  distributed.all_gather("written")
  content = token.read_text("ascii") if token.exists() else ""
  return len(set(distributed.all_gather(content))) == 1


def keep_inputs(
  workdir: pathlib.Path, tokenizer_spec: str, values: Mapping[str, Any]
) -> None:
  """Writes the resolved config and the tokenizer to the workdir, atomically.

  Call it only after the settings were checked against the checkpoints there.
  """
  config = json.dumps(saved.config_to_json(values), indent=2) + "\n"
  contents = {"config.json": config.encode()}
  tokenizer = pathlib.Path(tokenizer_spec)
  if tokenizer.is_file():
    contents[f"tokenizer{tokenizer.suffix}"] = tokenizer.read_bytes()
    beside = tokenizer.with_name(tokenizers.SETTINGS)
    if beside.is_file():
      contents[beside.name] = beside.read_bytes()
  for name, content in contents.items():
    files.write(workdir / name, content)


class History:
  """The settings of a run over its steps."""

  def __init__(self, workdir: pathlib.Path):
    """Reads the existing entries; a damaged line stays in the file."""
    self._path = workdir / HISTORY
    self._content = self._path.read_bytes() if self._path.exists() else b""
    self._entries = list(filter(None, map(_entry, self._content.split(b"\n"))))

  def begin(self, config: Mapping[str, Any], started: float) -> None:
    """Adds the first settings if the run has no history yet."""
    if not self._entries:
      self.add(0, config, started)

  def add(self, step: int, config: Mapping[str, Any], started: float) -> None:
    """Adds the settings used after `step` if they differ from the last ones.

    Args:
      step: the last step before them.
      config: all fields.
      started: time.time() when the program started.
    """
    config = json.loads(json.dumps(config))
    if self._entries and self._entries[-1]["config"] == config:
      return
    self._entries.append({"step": step, "config": config})
    entry = {
      "step": step,
      "time": started,
      "config": saved.config_to_json(config),
    }
    if self._content and not self._content.endswith(b"\n"):
      self._content += b"\n"
    self._content += json.dumps(entry).encode() + b"\n"
    files.write(self._path, self._content)

  def first_start(self) -> float | None:
    """Returns time.time() of the run's first start; None if not recorded."""
    return self._entries[0].get("time") if self._entries else None

  def largest_interval(self) -> int:
    """Returns the largest number of steps between two rows of metrics.jsonl."""
    intervals = {entry["config"]["log"]["every"] for entry in self._entries}
    # Where the interval changes, a gap may be longer than both intervals.
    return sum(sorted(intervals)[-2:])


def _entry(line: bytes) -> dict[str, Any] | None:
  try:
    entry = json_files.loads(line)
    entry["config"] = saved.current(entry["config"], HISTORY)
  except (ValueError, TypeError, KeyError, AttributeError):
    return None
  return None if json_files.mismatch(entry, _ENTRY) else entry
