"""Pretrains a small decoder on text inside CPython: 3 minutes on two CPUs.

  pausejax tokenizer train --config=configs/smoke.py --vocab_size=2048 \\
    --out=demo/tokenizer.model
  pausejax train --config=configs/smoke.py --workdir=demo/pause \\
    --config.data.tokenizer=demo/tokenizer.model

`make demo` runs this. Expect a held-out loss of about 4.8 nats per token; the
unigram entropy is 5.9. `--config=configs/smoke.py:pause=false` is the standard
run on the same text in the same order.
"""

from pausejax import config


def get_config(arg: str = ""):
  """Returns the config; `arg` is pause=true|false."""
  choice = config.parse_arg(arg, pause=(True, False))
  c = config.default()
  c.model.update(config.SIZES["tiny"])
  c.model.dtype = "float32"  # Faster than bfloat16 on a CPU.
  c.model.remat = "none"
  c.model.scan_unroll = 4
  c.model.position = "rope"  # With RMS norm, learns faster in few steps.
  c.model.norm = "rmsnorm"
  c.data.task = "stdlib_docs"
  c.data.seq_len = 256
  c.data.pause_fraction = 0.1 if choice.pause else 0.0
  c.batch_size = 16
  c.num_steps = 200
  c.optim.learning_rate = 3e-3
  c.optim.warmup_steps = 10
  c.checkpoint.every = 50
  c.eval.every = 100
  c.eval.num_batches = 10
  return c
