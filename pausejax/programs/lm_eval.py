"""Evaluates a run with the command line of lm-evaluation-harness.

  pausejax lm-eval --checkpoint=runs/squad50 --num_pauses=10 \\
    --tasks=pausejax --local_dir=/data --output_path=results
  pausejax lm-eval --checkpoint=runs/pause-1b --num_pauses=50 \\
    --tasks=hellaswag,piqa --num_fewshot=0 --use_cache=answers

All arguments but those below are the harness' own, as `lm-eval run --help`
lists them, without --model and --model_args. --batch_size is 32 by default.
The task "pausejax" stands for the nine of the paper, "pausejax_squad" for one
of them: prompts, splits and metrics are those of `pausejax evaluate`. They read
the published files in LOCAL_DIR/TASK, or in LOCAL_DIR if there is no such
folder.

Pauses stand after the context, before the text that is scored or generated.
The answers in --use_cache belong to one checkpoint and condition; others are
kept apart in the same file. The number of truncated contexts is printed and
written with the results.

Several processes share the work if the environment defines them
(`runtime/environment.py`); the first one writes the results.
"""

import difflib
import os
from collections.abc import Sequence

from pausejax import commandline, errors
from pausejax.checkpoints import saved_run
from pausejax.prompt_pauses import POSITIONS
from pausejax.runtime import distributed, phases, watchdog

_REPLACED = ("--model", "-M", "--model_args", "-a")


def main(argv: list[str]) -> int:
  """Checks the options, then runs the harness."""
  own, others = _split(argv)
  options, _ = parser().parse(own)
  _check_others(others)
  errors.require_in_range("--num_pauses", options.num_pauses, 0)
  errors.require_one_of("--position", options.position, POSITIONS)
  run = saved_run.find_run(options.checkpoint, average=options.average)
  distributed.require_agreement({"options": argv, "step": run.step})
  model_args = {
    name: value
    for name, value in vars(options).items()
    if value is not None and name != "local_dir"
  }
  if not distributed.is_single_process():
    # By it, the harness decides which process writes.
    os.environ["LOCAL_RANK"] = str(distributed.process_index())
  local_dir = options.local_dir or run.meta["config"]["data"]["local_dir"]
  name = f"{run.workdir.name}-step{run.step}"
  name += f"-{options.position}{options.num_pauses}"
  name += "-average" * options.average
  model_args["model"] = name
  with watchdog.watch(run.limits):
    phases.enter("evaluating", run.step)
    _harness().run_command_line(others, model_args, local_dir)
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the options that are not the harness'."""
  made = commandline.Parser("lm-eval", __doc__, config=False)
  add = made.add_argument
  made.add_checkpoint()
  add("--num_pauses", type=int, default=0, help="M, pauses in a request (0)")
  add("--position", default="append", help=f"{' or '.join(POSITIONS)} (append)")
  add("--filler", default="", help="replaces <pause>, as in pausejax evaluate")
  add("--max_length", type=int, help="positions of a request (the model's)")
  add(
    "--max_gen_toks", type=int, help="new tokens if a task does not say (256)"
  )
  add(
    "--add_bos_token",
    type=_boolean,
    help="true or false: texts start with BOS (true)",
  )
  add("--dtype", help="compute dtype, such as float32 (the run's)")
  add("--local_dir", default="", help="published files (as in the run)")
  return made


def _boolean(text: str) -> bool:
  errors.require_one_of("--add_bos_token", text.lower(), ("true", "false"))
  return text.lower() == "true"


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the arguments of this verb and those of the harness."""
  known = _names() | commandline.HELP
  own, others = [], []
  takes_value = False
  for word in argv:
    name, equals, _ = word.partition("=")
    is_own = takes_value or name in known
    takes_value = not takes_value and name in _names(1) and not equals
    (own if is_own else others).append(word)
  return own, others


def _names(num_values: int = 0) -> set[str]:
  """Returns the options of this verb that take at least so many values."""
  actions = parser()._option_string_actions
  takes = lambda action: 1 if action.nargs is None else 0
  return {
    option
    for option, action in actions.items()
    if option.startswith("--") and takes(action) >= num_values
  }


def _check_others(words: Sequence[str]) -> None:
  """Refuses --model, and options of this verb that are misspelled."""
  for word in words:
    name = word.partition("=")[0]
    errors.require(
      name not in _REPLACED,
      f"pausejax lm-eval: {name} is set by --checkpoint, --num_pauses and the "
      "other options here (see pausejax lm-eval --help)",
    )
    if name.startswith("--"):
      (close,) = difflib.get_close_matches(name, _names(), 1, 0.85) or [None]
      errors.require(
        close is None,
        f"pausejax lm-eval: unexpected argument {word!r}; did you mean "
        f"{close}?",
      )


def _harness():
  """Returns the module that needs lm-eval, with the harness imported."""
  try:
    from pausejax.interop import lm_eval
  except ModuleNotFoundError as e:
    if not (e.name or "").startswith("lm_eval"):
      raise
    raise errors.UserError(
      "lm-eval is not installed: make env EXTRA=lm-eval, or pip install "
      "'pausejax[lm-eval]'"
    ) from e
  return lm_eval
