"""3SUM with fillers, after Pfau et al. (2024): for an accelerator.

  pausejax train --config=configs/match3.py:arm=none --workdir=match3/none
  pausejax train --config=configs/match3.py:arm=pauses --workdir=match3/pauses
  pausejax train --config=configs/match3.py:arm=mixed --workdir=match3/mixed

none: the answer without pauses; pauses: the answer after 90 pauses, trained
only on such examples; mixed: the same, but every second example has 90
characters of reasoning instead of pauses. The authors report (for 12 vectors)
66%, about 71% and 100% on examples with fillers; compare eval_match3_accuracy.
Shape and optimizer are theirs: four layers of width 384, AdamW with a linear
decay, batch 256. This project has not trained these configs.
"""

from pausejax import config

_TASKS = {
  "none": "match3",
  "pauses": "match3",
  "mixed": "match3=1,match3_cot=1",
}


def get_config(arg: str = ""):
  """Returns the config; `arg` is arm=mixed|none|pauses."""
  choice = config.parse_arg(arg, arm=("mixed", "none", "pauses"))
  c = config.default()
  c.data.task = _TASKS[choice.arm]
  c.finetune.num_pauses = 0 if choice.arm == "none" else -1  # The task's own.
  c.data.seq_len = 136
  c.model.update(dict(num_layers=4, d_model=384, num_heads=6, d_ff=1536))
  c.model.position = "rope"
  c.model.norm = "rmsnorm"
  c.model.mlp = "swiglu"
  c.model.bias = False
  c.model.segment_attention = True
  c.model.remat = "none"
  c.loss.num_chunks = 1
  c.batch_size = 256
  c.num_steps = 40_000
  c.optim.learning_rate = 1e-4
  c.optim.schedule = "wsd"
  c.optim.warmup_steps = c.num_steps // 20
  c.optim.decay_steps = c.num_steps - c.num_steps // 20
  c.optim.final_fraction = 0.0
  c.optim.kwargs.weight_decay = 0.01
  c.checkpoint.every = 2_000
  c.eval.every = 1_000
  c.eval.num_batches = 4
  c.eval.num_examples = 1_000
  c.eval.batch_size = 250
  c.log.every = 10
  return c
