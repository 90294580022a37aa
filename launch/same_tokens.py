"""Compares 64 greedy tokens of an imported run with those of transformers.

  python -m launch.same_tokens model.gguf run

Used by `make demo-open-model`; exits with 1 if a token differs.
"""

import pathlib
import sys

import torch
import transformers

import pausejax

PROMPTS = ("The capital of France is", "A module is a file that")


def main(path: pathlib.Path, workdir: str) -> int:
  """Prints the continuations, one if both agree."""
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  )
  ours = pausejax.load(workdir)
  tokenizer = ours.tokenizer
  num_different = 0
  answers = ours.generate(PROMPTS, max_new_tokens=64)
  for prompt, answer in zip(PROMPTS, answers, strict=True):
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode([prompt])[0]]])
    found = theirs.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=False,
      max_new_tokens=64,
      eos_token_id=tokenizer.eos_id,
      pad_token_id=tokenizer.eos_id,
    )
    expected = tokenizer.decode(found[0, ids.shape[1] :].tolist())
    print(f"{prompt}|{answer}")
    if answer != expected:
      num_different += 1
      print(f"transformers: {prompt}|{expected}")
  print(f"{num_different} of {len(PROMPTS)} continuations differ")
  return min(num_different, 1)


if __name__ == "__main__":
  sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2]))
