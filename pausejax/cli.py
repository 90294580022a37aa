"""The command `pausejax VERB ...`: finds the verb, and says what went wrong.

Exit codes: 0 done; 1 an error that the user must fix first; 2 a wrong command
line or config, before any work; 3 checkpoints exist but none can be used; 4
training diverged; 130 interrupted; 141 the reader of the output went away; 143
stopped from outside, saved, run again.
"""

import importlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from typing import NoReturn

import pausejax
from pausejax import errors
from pausejax.runtime import distributed, signals

VERBS = {
  "train": "pretrain or finetune; resumes by itself from the workdir",
  "preflight": "say whether a run fits a TPU pod or GPUs, with none there",
  "segments": "tokenise a task and cut it into segments, once",
  "tokenizer": "train a SentencePiece vocabulary on a task",
  "inspect": "show what a task's sequences look like, and check them",
  "evaluate": "answer a task's examples, under each number of pauses",
  "study": "four variants x pauses x seeds, into one table",
  "report": "a study as one self-contained page",
  "generate": "continue a prompt, with pauses before the answer",
  "score": "score anybody's file of predictions, by a task's metrics",
  "tasks": "list the tasks, or take one through everything",
}
# Verbs that several processes run together.
TOGETHER = ("train", "evaluate")

_leaving = threading.Lock()


def run() -> NoReturn:
  """Runs one verb and ends this process with its exit code."""
  try:
    exit_code = main()
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

  A pipeline waits for its threads when it is destroyed, and a thread that
  calls Python waits for the interpreter that destroys the pipeline.
  """
  return "tensorflow" in sys.modules


def main(argv: list[str] | None = None) -> int:
  """Runs one verb and returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  signal.signal(signal.SIGINT, _stopped)
  signals.listen(_stopped_in_compiler)
  try:
    exit_code = _run(argv)
    distributed.finish()
    return exit_code
  except BaseException as e:
    distributed.blame_lost_process(e)
    exit_code = _explain(e)
    if not distributed.is_alone():
      if exit_code is None:
        traceback.print_exc()
      # A UserError stops the run as a whole, any other error this process.
      failed = not isinstance(e, errors.UserError | BrokenPipeError)
      distributed.leave(1 if exit_code is None else exit_code, failed=failed)
    if exit_code is None:
      raise
    return exit_code


def _explain(error: BaseException) -> int | None:
  """Says what went wrong; returns the exit code, None if it is for Python."""
  match error:
    case errors.UserError():
      line = " ".join(error.message.splitlines())
      details = f"\n{error.details}" if error.details else ""
      print(f"pausejax: {line}{details}", file=sys.stderr)
      return error.exit_code
    case BrokenPipeError():
      # Whoever read the output, such as `head`, has seen enough.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 141
    case OSError():
      print(f"pausejax: {error}", file=sys.stderr)
      return 1
    case signals.Stopped():
      _stopped(error.exit_code - 128)
  return None


def _stopped(number: int, *_) -> None:
  """Leaves at once; what is on disk is whole, since files appear by a rename.

  An exception would be lost where XLA calls back into Python, and on the way
  out XLA's threads may crash.
  """
  if not _leaving.acquire(blocking=False):
    return  # Another thread is on its way out.
  what = "interrupted" if number == signal.SIGINT else "asked to stop"
  print(f"pausejax: {what}", file=sys.stderr, flush=True)
  distributed.leave(128 + number)


def _stopped_in_compiler(number: int) -> None:
  """Leaves in place of a main thread that does not hear the signal."""
  if not distributed.is_joining():  # There it hears, and tells the others.
    _stopped(number)


def _run(argv: list[str]) -> int:
  _require_text(argv)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # A terminal that cannot show a character gets its code.
    sys.stdout.reconfigure(errors="backslashreplace")
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(_help())
    return 0
  if argv[0] == "--version":
    print(pausejax.__version__)
    return 0
  # Orbax and TFDS tell their own makers much there.
  logging.getLogger("absl").setLevel(logging.ERROR)
  verb, *rest = argv
  errors.require_one_of("verb", verb, VERBS)
  if verb in TOGETHER and not {"-h", "--help"} & set(rest):
    distributed.start()
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, _stopped)
  program = importlib.import_module(f"pausejax.programs.{verb}")
  return program.main(rest)


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
      "\0" not in word, f"argument {word!r}: holds a NUL, which no name may"
    )


def _help() -> str:
  width = max(map(len, VERBS))
  verbs = "\n".join(f"  {v:{width}}  {what}" for v, what in VERBS.items())
  return (
    "usage: pausejax VERB [options]\n\n"
    f"{verbs}\n\n"
    "pausejax VERB --help tells more, with every config field, for example:\n"
    "  pausejax train --config=configs/smoke.py --workdir=run"
  )
