"""Finetunes on a small task from the text inside CPython, in a CPU minute.

  pausejax train --config=configs/finetune_smoke.py --init_from=demo/pause \\
    --workdir=demo/cloze
  pausejax evaluate --checkpoint=demo/cloze --pauses=0,2,10

`make demo` runs this. The task is the last word of a passage; `task` and
`pauses` choose others, as in configs/finetune.py.
"""

from pausejax import config


def get_config(arg: str = ""):
  """Returns the config; `arg` is task=NAME,pauses=M."""
  choice = config.parse_arg(arg, task="stdlib_cloze", pauses=10)
  c = config.load_config(f"finetune:task={choice.task},pauses={choice.pauses}")
  c.model.dtype = "float32"  # Faster than bfloat16 on a CPU.
  c.model.remat = "none"
  c.model.scan_unroll = 4
  c.loss.num_chunks = 1
  c.batch_size = 8
  c.num_steps = 100
  c.optim.learning_rate = 1e-3
  c.checkpoint.every = 50
  c.checkpoint.keep_best = 0
  c.eval.every = 0
  c.eval.num_examples = 0
  return c
