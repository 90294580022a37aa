"""A lease: the lock of a folder in a bucket.

lease.json names the host, the process and when it began. Its holder writes it
again every few seconds; a lease that was not written for LEASE_SECONDS is over,
by the clock of the server. Another process that finds one watches it: if it is
written again, that run is alive, and this one is refused; otherwise this one
takes over. A lease of a process of this machine that is gone is over at once.
"""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pausejax import errors, json_files
from pausejax.buckets.objects import Objects

LEASE = "lease.json"
LEASE_SECONDS = 60.0
_RENEW_SECONDS = 10.0
_WATCH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class _Holder:
  """What lease.json says, without the number of the renewal."""

  host: str
  pid: int
  machine: str  # Equal for processes that see each other's ids.
  since: str
  key: str

  def __str__(self) -> str:
    return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
  """A lease that this process holds."""

  def __init__(self, objects: Objects, holder: _Holder):
    self._objects, self._holder = objects, holder
    self._count = 0
    self._written = _clock()
    self._problem = ""

  @property
  def key(self) -> str:
    """A text that no other lease has."""
    return self._holder.key

  @property
  def is_lost(self) -> bool:
    """Whether another process has taken it."""
    return bool(self._problem)

  def renew(self) -> None:
    """Writes the lease again, unless another process has taken it.

    Raises:
      OSError: the bucket cannot be reached.
    """
    began = _clock()
    found = _read(self._objects)
    if found is None or found[0] != self._holder:
      other = f"by {found[0]}" if found else "by nobody"
      self._problem = f"it is held {other}"
      return
    self._count += 1
    self._objects.write(LEASE, _content(self._holder, self._count))
    self._written = began

  def require(self) -> None:
    """Raises UserError if another process may write to the folder.

    Raises:
      OSError: the lease ran out while the bucket could not be reached.
    """
    if not self._problem and self._age() > LEASE_SECONDS / 2:
      self.renew()
    if self._problem:
      raise _lost(self._objects, self._problem)

  def release(self) -> None:
    """Deletes the lease if this process still holds it."""
    self._problem = self._problem or "it was given back"
    with contextlib.suppress(OSError):
      found = _read(self._objects)
      if found and found[0] == self._holder:
        self._objects.delete([LEASE])

  def _age(self) -> float:
    return _clock() - self._written


class FollowedLease:
  """The lease of this run, which another process of it holds."""

  def __init__(self, objects: Objects, key: str):
    """Reads nothing yet.

    Args:
      objects: the folder.
      key: `Lease.key` of the holder.
    """
    self._objects, self._key = objects, key
    self._seen = -math.inf  # When the bucket last named the holder.

  def require(self) -> None:
    """Raises UserError if another run has taken the lease.

    Reads it if it was not read for as long as it takes to renew it.

    Raises:
      OSError: the bucket cannot be reached.
    """
    began = _clock()
    if began - self._seen < _RENEW_SECONDS:
      return
    found = _read(self._objects)
    if found is None or found[0].key != self._key:
      other = f"by {found[0]}" if found else "by nobody"
      raise _lost(self._objects, f"it is held {other}")
    self._seen = began


@contextlib.contextmanager
def hold_lease(
  objects: Objects, each: Callable[[], None], name: str = "--workdir"
) -> Iterator[Lease]:
  """Holds the lease of a folder and renews it in another thread.

  Args:
    objects: the folder.
    each: called in that thread after each renewal, until the lease is lost.
    name: the option that gave the URL, for messages.

  Raises:
    UserError: another run holds it, or the bucket cannot be written.
  """
  try:
    lease = _acquire(objects, name)
  except OSError as e:
    raise errors.UserError(
      f"{name}: cannot write {objects.url}: {e.strerror or e}; check the "
      "bucket, the credentials and the endpoint, or name another folder"
    ) from e
  ended = threading.Event()

  def renew() -> None:
    was_away = False
    while not ended.wait(_RENEW_SECONDS):
      try:
        lease.renew()
        if lease.is_lost:
          return
        each()
        was_away = False
      except OSError as e:
        if not was_away:
          _say(f"warning: cannot write {objects.url}: {e.strerror or e}")
        was_away = True

  thread = threading.Thread(target=renew, name="lease", daemon=True)
  thread.start()
  try:
    yield lease
  finally:
    ended.set()
    thread.join(timeout=_RENEW_SECONDS)
    lease.release()


def _acquire(objects: Objects, name: str) -> Lease:
  """Returns the lease; waits for the end of one that nobody renews."""
  holder = _Holder(
    host=socket.gethostname(),
    pid=os.getpid(),
    machine=_machine(),
    since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
    key=secrets.token_hex(8),
  )
  took_over = False
  while (found := _read(objects)) or not objects.create(
    LEASE, _content(holder, 0)
  ):
    if found is None:
      continue
    _wait_until_over(objects, *found, name)
    if _read(objects) == found:
      _say(f"taking over {objects.url} from {found[0]}, which is gone")
      objects.delete([LEASE])
      took_over = True
  lease = Lease(objects, holder)
  if took_over:  # Another run may delete this lease in place of the old one.
    time.sleep(_WATCH_SECONDS)
  # Not every store refuses to create an object that exists.
  found = _read(objects)
  if found is None or found[0] != holder:
    raise _refusal(objects, found[0] if found else None, name)
  return lease


def _wait_until_over(
  objects: Objects, holder: _Holder, count: int, name: str
) -> None:
  """Returns when a lease is over; raises UserError if it is renewed."""
  if holder.machine == _machine() and not _is_alive(holder.pid):
    return
  probe = f"lease-{secrets.token_hex(4)}"
  objects.write(probe, b"")
  age = objects.modified(probe) - objects.modified(LEASE)
  objects.delete([probe])
  left = LEASE_SECONDS - age.total_seconds()
  deadline = datetime.now(UTC) + timedelta(seconds=max(left, 0))
  if left > 0:
    _say(
      f"{objects.url} is used by {holder}; its lease ends at "
      f"{deadline:%H:%M:%S} UTC unless it is renewed; waiting"
    )
  while (now := datetime.now(UTC)) < deadline:
    time.sleep(min(_WATCH_SECONDS, (deadline - now).total_seconds()))
    found = _read(objects)
    if found is None:
      return
    if found != (holder, count):
      raise _refusal(objects, found[0], name)


def _lost(objects: Objects, problem: str) -> errors.UserError:
  return errors.UserError(
    f"this run has lost its lease on {objects.url}: {problem}; nothing more is "
    "written there, so the run ends"
  )


def _refusal(
  objects: Objects, holder: _Holder | None, name: str
) -> errors.UserError:
  return errors.UserError(
    f"{name}: another run is using {objects.url}: "
    f"{holder or 'it took the lease and has ended'}; wait for it or choose "
    "another folder"
  )


def _read(objects: Objects) -> tuple[_Holder, int] | None:
  """Returns (holder, number of renewals), None if nobody holds the lease."""
  try:
    fields: dict[str, Any] = json_files.loads(objects.read(LEASE))
    count = int(fields.pop("renewals"))
    return _Holder(**fields), count
  except FileNotFoundError:
    return None
  except (ValueError, TypeError, KeyError, AttributeError):
    raise OSError(0, f"{LEASE} is not a lease; remove it", LEASE) from None


def _content(holder: _Holder, count: int) -> bytes:
  fields = {**dataclasses.asdict(holder), "renewals": count}
  return (json.dumps(fields, indent=1) + "\n").encode()


def _machine() -> str:
  """Returns an id of this machine since it started, and of its container."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      parts.append(file.read().strip())
    parts.append(os.readlink("/proc/self/ns/pid"))
  return " ".join(parts)


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


def _clock() -> float:
  """Returns seconds, including those in which the machine was suspended."""
  return time.clock_gettime(
    getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
  )


def _say(line: str) -> None:
  print(f"pausejax: {line}", file=sys.stderr, flush=True)
