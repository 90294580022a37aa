"""Detects that another process of the run was lost, and reports which one.

JAX itself waits long and then aborts the process in C++ without naming the lost
one. Here each process writes a heartbeat to the coordinator's key-value store,
a counter and its phase, and reads those of the others. That needs no device and
no file system, either of which may be what is stuck. A process whose counter
does not change for the timeout is lost: killed, stopped, or disconnected from
the network. The remaining processes print one line and exit with 143, "run
again".
"""

import ctypes
import dataclasses
import faulthandler
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from pausejax.runtime import phases
from pausejax.runtime.phases import Status
from pausejax.runtime.signals import PREEMPTED

FOLDER = "pausejax/run/"
LEFT = FOLDER + "left"  # What the first process that left early wrote.
DONE = "done"
_BEATS = FOLDER + "beat/"

_BEAT_SECONDS = 0.5
# Timeout after a collective has failed. It is below the 6 seconds by which an
# abort is delayed, so that the cause is reported before.
_SUSPECT_SECONDS = 3.0
_GRACE_SECONDS = 1.0  # Time for the other processes to report their own error.
_MAX_LISTED = 4  # Processes in a message.


@dataclasses.dataclass(frozen=True)
class Beat:
  """The heartbeat of a process: a counter, its process id and its phase."""

  number: int = 0
  pid: int = 0
  status: Status = dataclasses.field(default_factory=Status)

  def to_json(self) -> str:
    """Returns the value in the key-value store."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, text: str) -> "Beat":
    """Returns the heartbeat of a value in the key-value store."""
    read = json.loads(text)
    return cls(read["number"], read["pid"], Status(**read["status"]))


class Watch:
  """Threads that exchange the counters and detect lost processes.

  The exchange has a thread of its own because it may wait forever for a
  coordinator that was stopped.

  Attributes:
    hosts: host name of each process, "" where not known.
    status: the phase of this process, for the others.
  """

  def __init__(
    self, client: Any, index: int, count: int, address: str, timeout: float
  ):
    """Starts the threads.

    Args:
      client: JAX's client of the coordinator.
      index: index of this process.
      count: number of processes.
      address: HOST:PORT of the coordinator, which lives in process 0.
      timeout: seconds of silence after which a process is lost.
    """
    self.hosts = [""] * count
    self.status = Status()
    self._client, self._index, self._address = client, index, address
    self._timeout = timeout
    self._beats = [Beat()] * count
    self._silence = [0.0] * count  # Seconds.
    self._unanswered = 0.0  # Seconds.
    self._heard = time.monotonic()
    self._stopped = threading.Event()
    self._ending = threading.Lock()  # One thread ends this process.
    self._aborts, self._is_aborting = _delayed_aborts(), False
    for target in (self._beat, self._judge, self._notice_aborts):
      threading.Thread(target=target, daemon=True).start()

  def stop(self) -> None:
    """Stops watching, once all processes are done."""
    self._stopped.set()

  def wait_for_verdict(self) -> None:
    """Returns if no process is lost; otherwise this process exits.

    Call it when a collective has failed, since a lost process may be the cause.
    """
    deadline = time.monotonic() + self._timeout + 10
    self._suspect()
    time.sleep(self._timeout)
    before = list(self._beats)
    while time.monotonic() < deadline and not self._all_live(before):
      time.sleep(_BEAT_SECONDS)

  def is_another_busy(self) -> bool:
    """Returns whether another process has time left in a different phase."""
    return any(
      self._silence[i] <= self._timeout
      and beat.status.remaining > 0
      and beat.status.name not in (self.status.name, phases.PEERS)
      for i, beat in self._others()
    )

  def furthest_behind(self) -> str:
    """Returns the last reports of the processes that are furthest behind."""
    rows = sorted(
      self._others(), key=lambda r: (r[1].status.step, -self._silence[r[0]])
    )
    texts = [f"{self._name(i)}{self._last_report(i)}" for i, _ in rows]
    more = len(texts) - _MAX_LISTED
    return ", ".join(texts[:_MAX_LISTED]) + (f", {more} more" * (more > 0))

  def begin_end(self) -> bool:
    """Returns whether the caller may end this process: one thread may."""
    return self._ending.acquire(blocking=False)

  def leave_stuck(self) -> None:
    """Ends this process because its phase exceeds its limit."""
    note = {
      "process": self._index,
      "exit_code": PREEMPTED,
      "stuck": self.status.text(),
    }
    # The coordinator may not respond.
    thread = threading.Thread(target=leave_note, args=(self._client, note))
    thread.daemon = True
    thread.start()
    thread.join(_GRACE_SECONDS)
    if self._index == 0:
      wait_for_peers()
    os._exit(PREEMPTED)

  def _others(self) -> list[tuple[int, Beat]]:
    return [(i, b) for i, b in enumerate(self._beats) if i != self._index]

  def _last_report(self, index: int) -> str:
    """Returns what a process reported last; "" if nothing."""
    beat = self._beats[index]
    if not beat.pid:
      return ""
    return (
      f" (pid {beat.pid}) last reported {beat.status.text()}, "
      f"{self._silence[index]:.0f} s ago"
    )

  def _all_live(self, before: list[Beat]) -> bool:
    """Returns whether each counter has increased by two or more."""
    return all(
      now.number >= was.number + 2
      for now, was in zip(self._beats, before, strict=True)
    )

  def _suspect(self) -> None:
    self._timeout = min(self._timeout, _SUSPECT_SECONDS)

  def _notice_aborts(self) -> None:
    """Waits for an abort in C++, as by Gloo or JAX's client on a lost peer."""
    os.read(self._aborts, 1)
    self._is_aborting = True
    self._suspect()

  def _beat(self) -> None:
    """Sends this process's heartbeat and reads those of all."""
    key = f"{_BEATS}{self._index}"
    for number in itertools.count(1):
      beat = Beat(number, os.getpid(), self.status).to_json()
      try:
        self._client.key_value_set(key, beat, allow_overwrite=True)
        self._hear(dict(self._client.key_value_dir_get(FOLDER)))
      except RuntimeError:
        pass  # No response: `_judge` measures how long.
      if self._stopped.wait(_BEAT_SECONDS):
        return

  def _hear(self, values: Mapping[str, str]) -> None:
    elapsed, self._heard = _since(self._heard)
    self._unanswered = 0.0
    for index, before in enumerate(self._beats):
      text = values.get(f"{_BEATS}{index}")
      beat = Beat.from_json(text) if text else before
      self._beats[index] = beat
      is_new = beat.number != before.number
      self._silence[index] = 0.0 if is_new else self._silence[index] + elapsed
    note = values.get(LEFT, DONE)
    if note != DONE:
      self._follow(json.loads(note))

  def _judge(self) -> None:
    """Ends this process when another one exceeds the timeout."""
    looked = time.monotonic()
    while not self._stopped.wait(_BEAT_SECONDS):
      elapsed, looked = _since(looked)
      self._unanswered += elapsed
      if self._unanswered > self._timeout:
        self._end(self._lost([0], self._silent()))
      if self._unanswered > 2 * _BEAT_SECONDS and _refuses(self._address):
        self._end(self._lost([0], "it ended without a note"))
      silent = [
        index
        for index, seconds in enumerate(self._silence)
        if seconds > self._timeout and index != self._index
      ]
      if silent:
        note = {"lost": silent, "why": self._silent()}
        leave_note(self._client, note)
        self._end(self._lost(**note))

  def _follow(self, note: dict[str, Any]) -> None:
    """Ends this process because another one ended early."""
    left = note.get("process")
    if left == self._index:
      return
    time.sleep(_GRACE_SECONDS)
    own = f"process {self._index}"
    if left is None:
      self._end(self._lost(**note))
    elif "stuck" in note:
      faulthandler.dump_traceback(file=2, all_threads=True)
      self._end(
        f"{self._name(left)} is stuck ({note['stuck']}), so {own} exits with "
        f"{PREEMPTED}, run again"
      )
    elif note["failed"]:
      self._end(
        f"{self._name(left)} was lost: it failed (exit code "
        f"{note['exit_code']}, its own output says why), so {own} exits with "
        f"{PREEMPTED}, run again"
      )
    else:
      code = note["exit_code"]
      line = f"process {left} ended with exit code {code}, so {own} does, too"
      self._end(line, code)

  def _lost(self, lost: list[int], why: str) -> str:
    names = " and ".join(map(self._name, lost))
    were = "were" if len(lost) > 1 else "was"
    reports = "".join(f"; it{r}" for r in map(self._last_report, lost) if r)
    return (
      f"{names} {were} lost: {why}{reports}; process {self._index} exits with "
      f"{PREEMPTED}, run again"
    )

  def _silent(self) -> str:
    return (
      f"killed, stopped or cut off, no sign of life for {self._timeout:g} s"
    )

  def _name(self, index: int) -> str:
    host = self.hosts[index]
    return f"process {index} on {host}" if host else f"process {index}"

  def _end(self, line: str, exit_code: int = PREEMPTED) -> None:
    if self._stopped.is_set() or not self.begin_end():
      return
    print(f"pausejax: {line}", file=sys.stderr, flush=True)
    if self._index == 0:
      wait_for_peers(is_aborting=self._is_aborting)
    os._exit(exit_code)


def leave_note(client: Any, note: dict[str, Any]) -> bool:
  """Writes why a process ends, for the others; False if a note exists."""
  try:
    client.key_value_set(LEFT, json.dumps(note))
  except Exception:  # The coordinator may be gone, too.
    return False
  return True


def wait_for_peers(*, is_aborting: bool = False) -> None:
  """Keeps the coordinator, in process 0, alive until the others read the note.

  Args:
    is_aborting: an abort is pending; do not wait for the others to end.
  """
  time.sleep(2 * _BEAT_SECONDS + (0 if is_aborting else 2 * _GRACE_SECONDS))


def _since(before: float) -> tuple[float, float]:
  """Returns (seconds since `before`, current time).

  If this process itself was suspended, it observed nothing in that time, so
  the seconds are limited to four beats.
  """
  now = time.monotonic()
  return min(now - before, 4 * _BEAT_SECONDS), now


def _refuses(address: str) -> bool:
  """Returns whether HOST:PORT refuses connections."""
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
      return False
  except ConnectionRefusedError:
    return True
  except OSError:
    return False  # Unreachable, perhaps temporarily.


def _delayed_aborts() -> int:
  """Delays abort() by 6 seconds; returns a pipe that is written to before.

  JAX's client aborts as soon as the coordinator's process ends, and Gloo may
  abort when a peer ends. abort() first calls the handlers of SIGABRT:
  faulthandler writes to the pipe and calls the previous handler, which is
  sleep(6), since 6 is the number of the signal. In that time `Watch` reports
  the lost process and exits with the right code. Any other abort ends the
  process as usual, 6 seconds later.
  """
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
  reader, writer = os.pipe()
  faulthandler.enable(file=writer, all_threads=False)
  return reader
