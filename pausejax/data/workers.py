"""Runs jobs in spawned worker processes.

A worker requests a job whenever it is idle, and exits when its pipe closes, so
it does not outlive the process that started it. The workers of
`concurrent.futures.ProcessPoolExecutor` do, if that process is killed.
"""

import collections
import multiprocessing
import signal
from collections.abc import Callable, Iterable
from multiprocessing import connection
from typing import Any

from pausejax import errors

Report = Callable[..., None]
Work = Callable[[Any, Report], None]


def run_jobs(
  setup: Callable[[], Work],
  jobs: Iterable[Any],
  num_workers: int,
  report: Report,
) -> None:
  """Runs all jobs, in no particular order.

  Args:
    setup: called once in each worker; returns the function that runs a job
      there. It, jobs and reports are pickled.
    jobs: arguments of the function, one per job.
    num_workers: number of processes.
    report: called here with the values that a job reports, and without
      arguments when a job is done.

  Raises:
    UserError: the first error of a worker, or a worker died.
  """
  context = multiprocessing.get_context("spawn")
  pending = collections.deque(jobs)
  workers: dict[Any, Any] = {}  # Pipe -> process.
  try:
    for _ in range(num_workers):
      ours, theirs = context.Pipe()
      workers[ours] = context.Process(
        target=_worker, args=(setup, theirs), daemon=True
      )
      workers[ours].start()
      theirs.close()
    busy = dict.fromkeys(workers, 0)  # Pipe -> jobs started.
    while busy:
      ready: list[Any] = connection.wait(list(busy))
      for pipe in ready:
        message = _receive(pipe, workers[pipe])
        if isinstance(message, errors.UserError):
          raise message
        if message is not None:
          report(*message)
          continue
        if busy[pipe]:
          report()
        if pending:
          _send(pipe, pending.popleft(), workers[pipe])
          busy[pipe] += 1
        else:
          del busy[pipe]
  finally:
    for process in workers.values():
      process.terminate()
      process.join()


def _receive(pipe: Any, process: Any) -> Any:
  try:
    return pipe.recv()
  except (EOFError, ConnectionResetError):
    raise _died(process) from None


def _send(pipe: Any, job: Any, process: Any) -> None:
  try:
    pipe.send(job)
  except (BrokenPipeError, ConnectionResetError):
    raise _died(process) from None


def _died(process: Any) -> errors.UserError:
  process.join()
  return errors.UserError(
    f"a worker process died with exit code {process.exitcode} (-9: out of "
    "memory?); start the same command again, perhaps with fewer --num_workers"
  )


def _worker(setup: Callable[[], Work], pipe: Any) -> None:
  """Requests each job by sending None; sends reports in between."""
  # Ctrl-C reaches all processes of the terminal; the parent handles it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    work = setup()
    while True:
      pipe.send(None)
      work(pipe.recv(), lambda *values: pipe.send(values))
  except errors.UserError as e:
    pipe.send(e)
  except (EOFError, BrokenPipeError):
    pass
