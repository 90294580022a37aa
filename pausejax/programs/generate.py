"""Generates the continuation of prompts, after pauses.

  pausejax generate --checkpoint=run --pauses=10 --prompt="The assert statement"
  pausejax generate --checkpoint=run --temperature=0.8 --top_p=0.95 \\
    --prompt="The assert statement" --prompt="A module is"

`--checkpoint` is the workdir of a run, or WORKDIR/checkpoints/STEP; model and
tokenizer come from there. Temperature 0 always selects the most likely token.
Pauses are <pause> tokens: for a run that was finetuned with other text in their
place, use `pausejax evaluate`, which has --filler.
"""

from pausejax import commandline, errors
from pausejax.checkpoints import saved_run
from pausejax.inference import loaded
from pausejax.prompt_pauses import POSITIONS
from pausejax.runtime import phases, watchdog


def main(argv: list[str]) -> int:
  """Prints each prompt and its continuation."""
  parser = commandline.Parser("generate", __doc__, config=False)
  add = parser.add_argument
  parser.add_checkpoint()
  add("--prompt", required=True, action="append", help="text, repeatable")
  add("--pauses", type=int, default=0, help="pauses with each prompt (0)")
  add("--position", default="append", help=f"{' or '.join(POSITIONS)} (append)")
  add("--max_new_tokens", type=int, default=64, help="maximum length (64)")
  add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
  add("--top_k", type=int, default=0, help="sample among k ids; 0: all (0)")
  add("--top_p", type=float, default=1.0, help="probability mass to keep (1)")
  add("--seed", type=int, default=0, help="seed of the sampling (0)")
  options, _ = parser.parse(argv)
  errors.require_in_range("--pauses", options.pauses, 0)
  errors.require_one_of("--position", options.position, POSITIONS)
  choices = {
    name: getattr(options, name)
    for name in ("max_new_tokens", "seed", "temperature", "top_k", "top_p")
  }
  loaded.check_choices("--", **choices)
  run = saved_run.find_run(options.checkpoint, average=options.average)
  with watchdog.watch(run.limits):
    phases.enter("generating", run.step)
    answers = loaded.LoadedRun(run).generate(
      options.prompt,
      num_pauses=options.pauses,
      position=options.position,
      **choices,
    )
  for prompt, text in zip(options.prompt, answers, strict=True):
    print(prompt + text)
  return 0
