"""Continues prompts: the model reads prompt and pauses, then answers.

  pausejax generate --checkpoint=run --pauses=10 --prompt="The assert statement"
  pausejax generate --checkpoint=run --temperature=0.8 --top_p=0.95 \\
    --prompt="The assert statement" --prompt="A module is"

`--checkpoint` is the workdir of a run, or WORKDIR/checkpoints/STEP; model and
tokenizer come from there. Temperature 0 takes the most likely token every time.
"""

from collections.abc import Iterator

import numpy as np

from pausejax import commandline, errors
from pausejax.checkpoints import loaded_run
from pausejax.pause import POSITIONS, PromptPauses
from pausejax.runtime import accelerators


def main(argv: list[str]) -> int:
  """Prints each prompt and its continuation."""
  parser = commandline.Parser("generate", __doc__, config=False)
  add = parser.add_argument
  add("--checkpoint", required=True, help="workdir of a run, or a step in it")
  add("--prompt", required=True, action="append", help="text, repeatable")
  add("--pauses", type=int, default=0, help="pauses with each prompt (0)")
  add("--position", default="append", help="append or prepend (append)")
  add("--max_new_tokens", type=int, default=64, help="at most so many (64)")
  add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
  add("--top_k", type=int, default=0, help="sample among k ids; 0: all (0)")
  add("--top_p", type=float, default=1.0, help="or among this mass (1)")
  add("--seed", type=int, default=0, help="of the sampling (0)")
  options, _ = parser.parse(argv)
  errors.require_in_range("--pauses", options.pauses, 0)
  errors.require_one_of("--position", options.position, POSITIONS)
  errors.require_in_range("--max_new_tokens", options.max_new_tokens, 1)
  errors.require_in_range("--seed", options.seed, 0, 2**63 - 1)
  errors.require_in_range("--temperature", options.temperature, 0.0)
  errors.require_in_range("--top_k", options.top_k, 0, 2**31 - 1)
  errors.require_in_range("--top_p", options.top_p, 0.0, 1.0)
  for prompt, text in zip(options.prompt, _continue(options), strict=True):
    print(prompt + text)
  return 0


def _continue(options) -> Iterator[str]:
  """Yields the text that follows each prompt."""
  run = loaded_run.find(options.checkpoint)
  run.warn_of_pauses(options.pauses)
  prompts = run.tokenizer.encode(options.prompt)
  pauses = PromptPauses(
    num_pauses=options.pauses,
    position=options.position,
    in_prefix=run.meta["config"]["finetune"]["pauses_in_prefix"],
  )
  bos_id, pause_id = run.tokenizer.bos_id, run.tokenizer.pause_id
  rows = [pauses.prompt(p, bos_id=bos_id, pause_id=pause_id) for p in prompts]
  ids_BN = _generate(options, run, pauses, rows)
  eos_id, decode = run.tokenizer.eos_id, run.tokenizer.decode
  for prompt, ids in zip(prompts, ids_BN.tolist(), strict=True):
    end = ids.index(eos_id) if eos_id in ids else len(ids)
    # Together with the prompt: SentencePiece drops a leading space.
    yield decode([*prompt, *ids[:end]]).removeprefix(decode(prompt))


def _generate(
  options,
  run: loaded_run.Trained,
  pauses: PromptPauses,
  rows: list[np.ndarray],
) -> np.ndarray:
  """Returns int32 [B, N], what the model answers to each row."""
  accelerators.require_used()
  import jax

  from pausejax import sharding
  from pausejax.inference import decode

  longest = max(map(len, rows))
  decode.check_length(
    longest - options.pauses,
    options.pauses,
    options.max_new_tokens,
    run.model.max_seq_len,
  )
  tokens_BT, is_real_BT = decode.left_pad(
    rows, width=decode.bucket_length(longest), pad_id=run.tokenizer.pad_id
  )
  in_prefix_BT = np.zeros_like(is_real_BT)
  for inside_T, row in zip(in_prefix_BT, rows, strict=True):
    inside_T[-len(row) :] = pauses.prefix_mask(len(row))
  mesh = sharding.data_mesh()
  ids_BN = decode.generate(
    run.load(mesh),
    tokens_BT,
    is_real_BT,
    in_prefix_BT,
    jax.random.key(options.seed),
    num_new=options.max_new_tokens,
    temperature=options.temperature,
    top_k=options.top_k,
    top_p=options.top_p,
    eos_id=run.tokenizer.eos_id,
    pause_id=run.tokenizer.pause_id,
  )
  return np.asarray(ids_BN)
