"""3SUM with fillers, after Pfau et al. (2024).

  pausejax train --config=configs/match3.py:arm=none --workdir=match3/none
  pausejax train --config=configs/match3.py:arm=pauses --workdir=match3/pauses
  pausejax train --config=configs/match3.py:arm=mixed --workdir=match3/mixed

none: the answer without pauses; pauses: the answer after 90 pauses, trained
only on such examples; mixed: the same, but every second example has 90
characters of reasoning instead of pauses. The authors report (for 12 vectors)
66%, about 71% and 100% on examples with fillers; compare eval_match3_accuracy.
Shape and optimizer are theirs: four layers of width 384, AdamW with a linear
decay, batch 256. They need an accelerator, and this project has not trained
them.

`arm=mixed,size=small` is for a CPU core: four vectors of two digits, three
layers of width 64, 2,000 steps. docs/parity.md has what it gives;
`python -m benchmarks.match3 --workdir=runs/match3` trains all arms.
"""

from pausejax import config

_TASKS = {"none": "{0}", "pauses": "{0}", "mixed": "{0}=1,{0}_cot=1"}


def get_config(arg: str = ""):
  """Returns the config; `arg` is arm=mixed|none|pauses,size=paper|small."""
  choice = config.parse_arg(
    arg, arm=("mixed", "none", "pauses"), size=("paper", "small")
  )
  is_small = choice.size == "small"
  c = config.default()
  task = "match3_small" if is_small else "match3"
  c.data.task = _TASKS[choice.arm].format(task)
  c.finetune.num_pauses = 0 if choice.arm == "none" else -1  # The task's own.
  set_size = _small if is_small else _paper
  set_size(c)
  c.model.segment_attention = True
  c.model.remat = "none"
  c.loss.num_chunks = 1
  c.optim.schedule = "wsd"
  c.optim.warmup_steps = c.num_steps // 20
  c.optim.decay_steps = c.num_steps - c.num_steps // 20
  c.optim.final_fraction = 0.0
  c.optim.kwargs.weight_decay = 0.01
  c.checkpoint.every = c.num_steps // 20
  c.eval.every = c.num_steps // (10 if is_small else 40)
  c.eval.num_batches = 4
  c.eval.num_examples = 1_000
  c.eval.batch_size = 250
  c.log.every = 10
  return c


def _paper(c):
  c.data.seq_len = 136
  c.model.update(dict(num_layers=4, d_model=384, num_heads=6, d_ff=1536))
  c.model.position = "rope"
  c.model.norm = "rmsnorm"
  c.model.mlp = "swiglu"
  c.model.bias = False
  c.batch_size = 256
  c.num_steps = 40_000
  c.optim.learning_rate = 1e-4


def _small(c):
  # BOS, four vectors of three characters, 12 pauses or characters of work, and
  # the answer: one example in a row.
  c.data.seq_len = 1 + 12 + (12 if c.finetune.num_pauses else 0) + 1
  c.finetune.packing = False
  c.model.update(dict(num_layers=3, d_model=64, num_heads=4))
  c.model.dtype = "float32"
  c.model.scan_unroll = 3
  c.batch_size = 64
  c.num_steps = 2_000
  c.optim.learning_rate = 3e-3
