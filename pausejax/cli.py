"""The command `pausejax VERB ...`: runs the verb and reports its errors.

Exit codes: 0 done; 1 an error that the user must fix first; 2 a wrong command
line or config, before any work; 3 checkpoints exist but none can be used; 4
training diverged; 130 interrupted; 141 the reader of the output closed it; 143
stopped by a signal, saved, run again.
"""

import contextlib
import importlib
import io
import logging
import os
import signal
import stat
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import NoReturn

import pausejax
from pausejax import errors
from pausejax.runtime import distributed, signals

VERBS = {
  "train": "pretrain or finetune; resumes automatically from the workdir",
  "preflight": "check whether a run fits a TPU pod or GPUs, without them",
  "import": "make a run from an open model (Hugging Face or GGUF)",
  "segments": "tokenize a task and cut it into segments, once",
  "tokenizer": "train a SentencePiece vocabulary on a task",
  "inspect": "show the sequences of a task, and check them",
  "evaluate": "answer the examples of a task, with each number of pauses",
  "probe": "find out what the pauses of a run do, by changing them",
  "lm-eval": "evaluate a run with lm-evaluation-harness",
  "study": "run variants x tasks x seeds, and make one table",
  "selftest": "check this machine: disk, devices, kills and damage",
  "checkpoint": "list, verify, compare and repair the steps of a run",
  "report": "write a study as one self-contained page",
  "export": "write a run as a model of transformers, with its pauses",
  "generate": "continue a prompt, with pauses before the answer",
  "score": "score a file of predictions with the metrics of a task",
  "tasks": "list the tasks, or check one from source to metrics",
}
# The module of a verb whose name is a keyword of Python.
_MODULES = {"import": "import_model"}
# Verbs that several processes run together.
MULTI_PROCESS = (
  "train",
  "evaluate",
  "import",
  "export",
  "lm-eval",
  "selftest",
)

# Verbs in which a phase that is stuck ends the process, from the start on.
_WATCHED = (
  "train",
  "evaluate",
  "probe",
  "lm-eval",
  "export",
  "generate",
  "checkpoint",
  "report",
)

_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"

_leaving = threading.Lock()


def run(body: Callable[[], int] | None = None) -> NoReturn:
  """Runs one verb, or `body`; ends this process with its exit code."""
  try:
    exit_code = (body or main)()
  except BaseException:
    if not _has_tensorflow():
      raise
    traceback.print_exc()
    exit_code = 1
  if _has_tensorflow():
    distributed.leave(exit_code)
  sys.exit(exit_code)


def _has_tensorflow() -> bool:
  """Returns whether this process must end without destroying tf.data.

  The destructor of a pipeline waits for its threads, and a thread that calls
  Python waits for the interpreter, which runs the destructor: a deadlock.
  """
  return "tensorflow" in sys.modules


def main(argv: list[str] | None = None) -> int:
  """Runs one verb and returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  _open_closed_streams()
  os.umask(os.umask(0) | stat.S_IWOTH)  # Other users can write nothing.
  signal.signal(signal.SIGINT, _stopped)
  signals.listen(_stopped_in_compiler)
  try:
    exit_code = _run(argv)
    distributed.finish()
    return exit_code
  except BaseException as e:
    distributed.raise_if_peer_lost(e)
    exit_code = _explain(e)
    if not distributed.is_single_process():
      if exit_code is None:
        traceback.print_exc()
      # A UserError stops the whole run, any other error only this process.
      failed = not isinstance(e, errors.UserError | BrokenPipeError)
      distributed.leave(1 if exit_code is None else exit_code, failed=failed)
    if exit_code is None:
      raise
    return exit_code


def _open_closed_streams() -> None:
  """Discards what is printed to a stream that was closed, as by `>&-`."""
  for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:
      setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _explain(error: BaseException) -> int | None:
  """Prints the error; returns the exit code, None if Python must report it."""
  match error:
    case errors.UserError():
      details = f"\n{error.details}" if error.details else ""
      print(f"pausejax: {error.message}{details}", file=sys.stderr)
      return error.exit_code
    case BrokenPipeError():
      # The reader of the output, such as `head`, has closed it.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 141
    case OSError():
      print(f"pausejax: {_os_error(error)}", file=sys.stderr)
      return 1
    case RuntimeError() if _OUT_OF_MEMORY in str(error):  # Of JAX.
      what = errors.one_line(str(error).partition(_OUT_OF_MEMORY)[2])
      print(
        f"pausejax: out of memory: {what.strip(': .')[:300]}; lower the batch "
        "size or data.seq_len; in training, raise optim.num_microbatches or "
        "set model.remat=full, and let pausejax preflight print what a step "
        "needs",
        file=sys.stderr,
      )
      return 1
    case signals.Stopped():
      _stopped(error.exit_code - 128)
  return None


def _os_error(error: OSError) -> str:
  """Returns the file and what is wrong with it."""
  if error.filename and error.strerror:
    return f"{error.filename}: {error.strerror}"
  return str(error)


def _stopped(number: int, *_) -> None:
  """Exits immediately; files on disk are complete, since writes are atomic.

  An exception would be lost where XLA calls back into Python, and XLA's threads
  may crash at a normal exit.
  """
  if not _leaving.acquire(blocking=False):
    return  # Another thread is exiting.
  what = "interrupted" if number == signal.SIGINT else "asked to stop"
  print(f"pausejax: {what}", file=sys.stderr, flush=True)
  distributed.leave(128 + number)


def _stopped_in_compiler(number: int) -> None:
  """Exits in place of a main thread that cannot handle the signal."""
  # While it connects to other processes, the main thread handles the signal.
  if not distributed.is_joining():
    _stopped(number)


def _run(argv: list[str]) -> int:
  _require_text(argv)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # Characters that the terminal cannot encode are printed as escapes.
    sys.stdout.reconfigure(errors="backslashreplace")
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(_help())
    return 0
  if argv[0] == "--version":
    print(pausejax.__version__)
    return 0
  # Orbax and TFDS log verbosely there.
  logging.getLogger("absl").setLevel(logging.ERROR)
  verb, *rest = argv
  errors.require(
    verb in VERBS, f"unknown verb {verb!r}{errors.nearest(verb, VERBS)}"
  )
  if verb in MULTI_PROCESS and not {"-h", "--help"} & set(rest):
    distributed.connect()
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, _stopped)
  with _watched(verb, rest):
    return program(verb).main(rest)


def _watched(
  verb: str, rest: list[str]
) -> contextlib.AbstractContextManager[None]:
  """Limits the phases of a verb; the limits of a run replace these."""
  if verb not in _WATCHED or {"-h", "--help"} & set(rest):
    return contextlib.nullcontext()
  from pausejax.config import WatchdogConfig
  from pausejax.runtime import watchdog

  return watchdog.watch(WatchdogConfig())


def program(verb: str) -> types.ModuleType:
  """Returns the module of a verb; its `main` takes the other arguments."""
  name = _MODULES.get(verb, verb.replace("-", "_"))
  return importlib.import_module(f"pausejax.programs.{name}")


def _require_text(argv: list[str]) -> None:
  """Raises UsageError unless every word is UTF-8 without a NUL."""
  for word in argv:
    try:
      word.encode("utf-8")
    except UnicodeEncodeError as e:
      raise errors.UsageError(
        f"argument {word!r}: character {e.start} is not UTF-8; use a terminal "
        "or a script in UTF-8"
      ) from e
    errors.require(
      "\0" not in word, f"argument {word!r}: contains a NUL; remove it"
    )


def _help() -> str:
  width = max(map(len, VERBS))
  verbs = "\n".join(f"  {v:{width}}  {what}" for v, what in VERBS.items())
  return (
    "usage: pausejax VERB [options]\n\n"
    f"{verbs}\n\n"
    "pausejax VERB --help lists the options and config fields, for example:\n"
    "  pausejax train --config=smoke --workdir=run\n\n"
    "Launchers for SLURM, TPU pods and Kubernetes are not installed: they are "
    "in\nlaunch/ of the source repository."
  )
