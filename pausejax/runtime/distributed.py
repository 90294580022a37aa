"""Starts, synchronizes and ends the processes of one run.

JAX itself does not handle failures well: when a process fails, the others wait
in a barrier for 300 s; when one is missing, they abort in C++; and processes
with different settings train together without an error. Here, a process that
ends early writes a note to the coordinator's key-value store, `peers.py`
watches for such notes and for lost processes, and all processes compare their
settings.
"""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import socket
import sys
import tempfile
import threading
import time
from typing import IO, Any

from pausejax import errors, json_files, locks
from pausejax.runtime import arrivals, environment, peers, phases
from pausejax.runtime.signals import PREEMPTED, StopFlag, Stopped

INITIALIZATION_SECONDS = 600  # Timeout until all processes have connected.
SHUTDOWN_SECONDS = 60  # Timeout until all processes have ended.

# A process that receives a signal while it waits for the others notifies those
# that connect within this time. Schedulers grant 30 seconds or more in total.
_MEETING_SECONDS = 10
_POLL_SECONDS = 1.0  # Python handles signals between two polls.

_rounds = itertools.count()
_PUBLISHED = "pausejax/published"  # Keys in the coordinator's store.
_is_joining = False
_id_lock: IO[str] | None = None
_watch: peers.Watch | None = None


def connect() -> None:
  """Connects to the other processes of the run, if there are any.

  Call it before any device is used. In a run of several processes, the standard
  output of all but process 0 is redirected to the null device.

  Raises:
    UserError: the other processes did not connect in time, or the port of
      process 0 is taken.
    UsageError: only some of the environment variables are set, or SLURM
      allocated several tasks and `srun` did not start this process.
  """
  global _is_joining, _watch
  arguments = environment.process_arguments()
  if arguments is None:
    return
  timeout = environment.peer_timeout()
  _lock_process_id(arguments)
  if arguments.get("process_id") == 0:
    arrivals.require_free_port(arguments["coordinator_address"])
  _is_joining = True
  _join(arguments, timeout)
  _is_joining = False
  _watch = peers.Watch(
    _client(),
    process_index(),
    num_processes(),
    _state().coordinator_address,
    timeout,
  )
  _watch.hosts = all_gather(socket.gethostname())
  if process_index() > 0:
    # Redirects the file descriptor because Gloo writes from C++.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _lock_process_id(arguments: dict[str, Any]) -> None:
  """Locks this process's index against other processes on the machine.

  If two processes have the same index, JAX aborts all processes, or waits
  forever if that index is 0. Across machines, this is not detected.
  """
  global _id_lock
  if "process_id" not in arguments:
    return
  index, address = arguments["process_id"], arguments["coordinator_address"]
  name = f"pausejax-{os.getuid()}-{address.replace('/', '-')}-{index}.lock"
  _id_lock = locks.take(pathlib.Path(tempfile.gettempdir()) / name)
  errors.require(
    _id_lock is not None,
    f"JAX_PROCESS_ID is {index} in two processes of the run at {address}; give "
    f"each one its own, from 0 to {arguments['num_processes'] - 1}",
  )


def is_single_process() -> bool:
  """Returns whether the run has only this process."""
  return _client() is None and not _is_joining


def is_joining() -> bool:
  """Returns whether this process is waiting for the others to connect."""
  return _is_joining


def process_index() -> int:
  """Returns the index of this process; 0 if it is the only one."""
  return _state().process_id if _client() else 0


def num_processes() -> int:
  """Returns the number of processes of the run."""
  return _state().num_processes if _client() else 1


def coordinator_host() -> str:
  """Returns the host of the coordinator; that of this machine if alone."""
  address = _state().coordinator_address if _client() else ""
  return address.rpartition(":")[0].strip("[]") or "127.0.0.1"


def all_gather(value: Any) -> list[Any]:
  """Gathers a value from every process, in the order of their indices.

  Blocks until all processes have called it. Every process must call it equally
  often, in the same order.

  Args:
    value: any JSON value.
  """
  client = _client()
  if client is None:
    return [value]
  key, index = f"pausejax/{next(_rounds)}", process_index()
  client.key_value_set(f"{key}/{index}", json.dumps(value))
  with phases.phase(phases.PEERS):
    if index == 0:
      keys = [f"{key}/{i}" for i in range(num_processes())]
      values = [json.loads(_get(k)) for k in keys]
      client.key_value_set(f"{key}/all", json.dumps(values))
    return json.loads(_get(f"{key}/all"))


def publish(name: str, value: Any) -> None:
  """Tells process 0 a JSON value, once for each name, from any thread."""
  key = f"{_PUBLISHED}/{name}/{process_index()}"
  _client().key_value_set(key, json.dumps(value))


def published_by_others(name: str) -> list[Any]:
  """Returns what all other processes `publish` under a name; waits for them.

  Process 0 calls it, from any thread.
  """
  others = range(1, num_processes())
  values = [json.loads(_get(f"{_PUBLISHED}/{name}/{i}")) for i in others]
  _client().key_value_delete(f"{_PUBLISHED}/{name}")
  return values


def require_agreement(facts: dict[str, Any]) -> None:
  """Raises the same UsageError in all processes unless all facts are equal.

  Args:
    facts: name -> any JSON value; dicts are compared field by field.
  """
  own = json_files.flat_fields(json.loads(json.dumps(facts)))
  first = all_gather(own if process_index() == 0 else None)[0]
  names = [n for n in sorted(first | own) if first.get(n) != own.get(n)]
  difference = [(n, own.get(n), first.get(n)) for n in names[:1]]
  for index, differences in enumerate(all_gather(difference)):
    for name, theirs, firsts in differences:
      raise errors.UsageError(
        f"the processes of this run differ: {name} is {theirs!r} in process "
        f"{index} and {firsts!r} in process 0; start all of them with the "
        "same command, variables and files"
      )


def finish() -> None:
  """Waits until all processes are done and disconnects from them."""
  client = _client()
  if client is None:
    return
  import jax

  all_gather(None)
  if process_index() == 0:
    client.key_value_set(peers.LEFT, peers.DONE)
  _get(peers.LEFT)
  if _watch is not None:
    _watch.stop()
  jax.distributed.shutdown()


def leave(exit_code: int, *, failed: bool = False) -> None:
  """Ends this process now, without a barrier, and then all others.

  Args:
    exit_code: exit code of this process and, unless `failed`, of the others.
    failed: the error concerns this process only: it counts as lost, and the
      others exit with 143, "run again".
  """
  client = _client()
  if client is not None:
    index = process_index()
    note = {"process": index, "exit_code": exit_code, "failed": failed}
    if not peers.leave_note(client, note):
      exit_code = _first_to_leave(client) or exit_code
    if index == 0:
      peers.wait_for_peers()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(BrokenPipeError):  # Its reader has closed it.
      stream.flush()
  os._exit(exit_code)


def report(status: phases.Status) -> None:
  """Sets what this process reports to the others, with every heartbeat."""
  if _watch is not None:
    _watch.status = status


def is_another_busy() -> bool:
  """Returns whether another process has time left in a different phase."""
  return _watch is not None and _watch.is_another_busy()


def furthest_behind() -> str:
  """Returns the last reports of other processes, those behind first."""
  return _watch.furthest_behind() if _watch is not None else ""


def begin_end() -> bool:
  """Returns whether the caller may end this process: one thread may."""
  return _watch is None or _watch.begin_end()


def leave_stuck() -> None:
  """Ends this process because its phase exceeds its limit, then all others."""
  if _watch is not None:
    _watch.leave_stuck()
  os._exit(PREEMPTED)


def raise_if_peer_lost(error: BaseException) -> None:
  """Returns if no lost process caused the error.

  If a lost process may be the cause, waits for some seconds. If one is lost,
  this process reports it and exits with 143.
  """
  if _watch is not None and _may_come_from_others(error):
    _watch.wait_for_verdict()


def _may_come_from_others(error: BaseException | None) -> bool:
  """Returns whether JAX's runtime raised the error or one of its causes."""
  if error is None:
    return False
  # Collectives on CPUs raise a ValueError, all others a RuntimeError.
  if isinstance(error, RuntimeError) or "Gloo" in str(error):
    return True
  return _may_come_from_others(error.__cause__ or error.__context__)


def _first_to_leave(client) -> int:
  """Returns the exit code implied by the note of another process, or 0."""
  try:
    note = json.loads(client.blocking_key_value_get(peers.LEFT, 1))
    return PREEMPTED if note.get("failed", True) else note["exit_code"]
  except Exception:
    return 0


def _join(arguments: dict[str, Any], peer_timeout: float) -> None:
  """Connects to the others in a thread, so that signals are handled."""
  global _is_joining
  import jax

  # Its signal handler would replace ours (`signals.py`).
  jax.config.update("jax_enable_preemption_service", False)
  met: concurrent.futures.Future = concurrent.futures.Future()

  def initialize():
    try:
      jax.distributed.initialize(
        **arguments,
        # JAX aborts the process at its timeout; that of `_meet` is shorter.
        initialization_timeout=INITIALIZATION_SECONDS + 60,
        # JAX aborts here, too; the timeout of `peers.Watch` is shorter.
        heartbeat_timeout_seconds=int(3 * peer_timeout + 30),
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
      )
      met.set_result(None)
    except Exception as e:
      met.set_exception(e)

  threading.Thread(target=initialize, daemon=True).start()
  StopFlag(interrupt=True)
  try:
    _meet(met)
  except Stopped:
    concurrent.futures.wait([met], _MEETING_SECONDS)
    _is_joining = not met.done()
    raise


def _meet(met: concurrent.futures.Future) -> None:
  """Prints what it is waiting for, again when that changes, and waits."""
  deadline = time.monotonic() + INITIALIZATION_SECONDS
  printed = ""
  while not met.done() and time.monotonic() < deadline:
    if _state().client is not None and (line := _waiting()) != printed:
      printed = line
      print(f"pausejax: {line}", file=sys.stderr, flush=True)
    concurrent.futures.wait([met], 0.5 if printed else 0.05)
  if not met.done():
    raise errors.UserError(
      f"{_waiting()}: not all connected within {INITIALIZATION_SECONDS} s; "
      "start every process, with this address and number of processes"
    )
  if error := met.exception():
    reason = errors.first_line(error) or type(error).__name__
    raise errors.UserError(f"jax.distributed did not start: {reason}")


def _waiting() -> str:
  s = _state()
  line = (
    f"process {s.process_id} of {s.num_processes} waits for the coordinator "
    f"at {s.coordinator_address}"
  )
  if s.process_id or not (hosts := arrivals.connected(s.coordinator_address)):
    return line
  return (
    f"process 0 of {s.num_processes} waits for the others: {len(hosts)} of "
    f"{s.num_processes} have connected to {s.coordinator_address}, from "
    f"{arrivals.counted(hosts)}"
  )


def _get(key: str) -> str:
  """Waits for a value; Python handles signals between two polls."""
  client = _client()
  while True:
    try:
      return client.blocking_key_value_get(key, int(1000 * _POLL_SECONDS))
    except RuntimeError as e:
      if "DEADLINE_EXCEEDED" not in str(e):
        raise


def _client() -> Any:
  """Returns the client of the coordinator, None if there is none."""
  state = _state()
  return state.client if state is not None and not _is_joining else None


def _state() -> Any:
  """Returns JAX's state of this process, None until JAX is imported.

  JAX has no public API for the coordinator's key-value store, nor for the
  number of a process before its devices start; Orbax reads the same object.
  """
  # Importing it first could meet an import in another thread, and break it.
  if not hasattr(sys.modules.get("jax._src.distributed"), "global_state"):
    return None
  from jax._src import distributed

  return distributed.global_state
