"""Parity of 20 bits in two layers: the arms of the chart in the README.

  pausejax train --config=configs/parity.py:arm=none --workdir=parity/none
  pausejax train --config=configs/parity.py:arm=hints --workdir=parity/hints
  pausejax train --config=configs/parity.py:arm=pauses --workdir=parity/pauses
  pausejax train --config=configs/parity.py:arm=both --workdir=parity/both

Four arms, one model: no pauses; no pauses, but the thresholds as targets of the
bits; 20 pauses; 20 pauses with the thresholds as their targets. An arm takes a
few minutes on two CPU cores. Expect accuracies of .49 to .51 in the first three
and 1.00 in the last, on held-out strings (a constant answer has .49 or .51).
`python -m benchmarks.parity` runs all arms with three seeds and draws the
chart. `bits=100` and `bits=300` need an accelerator, more steps and a larger
--config.batch_size.

Shape and optimizer follow the small experiments of London and Kanade (2025):
two layers, four heads. Settings that they do not report are our choices.
"""

from pausejax import config


def get_config(arg: str = ""):
  """Returns the config; `arg` is arm=none|hints|pauses|both,bits=20."""
  choice = config.parse_arg(
    arg, arm=("both", "none", "hints", "pauses"), bits=20
  )
  has_pauses = choice.arm in ("pauses", "both")
  c = config.default()
  c.data.task = f"parity{choice.bits}"
  c.finetune.num_pauses = choice.bits if has_pauses else 0
  c.finetune.hints = choice.arm in ("hints", "both")
  # BOS, bits and pauses: one string per row in every arm.
  c.data.seq_len = 1 + choice.bits + c.finetune.num_pauses + 1
  c.finetune.packing = False
  c.model.update(dict(num_layers=2, d_model=64, num_heads=4))
  c.model.dtype = "float32"
  c.model.remat = "none"
  c.model.scan_unroll = 2
  c.model.segment_attention = True
  c.loss.num_chunks = 1
  c.batch_size = 128
  c.num_steps = 4_000
  c.optim.learning_rate = 1e-3
  c.optim.warmup_steps = 200
  c.optim.final_fraction = 0.01
  c.optim.kwargs.weight_decay = 0.01
  c.checkpoint.every = 500
  c.eval.every = 100
  c.eval.num_batches = 4
  c.eval.num_examples = 2_048
  c.eval.batch_size = 256
  c.log.every = 10
  return c
