"""Finetuning on one task or a mixture, from a pretrained run.

  pausejax train --config=configs/finetune.py:task=squad,pauses=50 \\
    --init_from=runs/pause-1b --config.data.local_dir=/data/squad \\
    --workdir=runs/pause-1b-squad50

`pauses` is M, the number of pauses after every prefix, by default that of the
task; `pauses=0` is standard finetuning. Model shape, tokenizer and maximum
length come from the run named by --init_from. For a mixture, give relative
numbers of examples: --config.data.task=gsm8k=1,squad=3.

The paper finetunes the whole model with the loss on the target only (section
3.2) and tries M = 10 and 50; its table of learning rates, batch sizes and
steps is not public, so those here are common choices.

Attention inside the prefix is causal, as in pretraining, so that the model
runs in any client with a KV cache. The caption of the paper's figure 1 says
that attention to the prefix is bidirectional in downstream tasks; for that, set
--config.model.prefix_attention=bidirectional.
"""

from pausejax import config


def get_config(arg: str = ""):
  """Returns the config; `arg` is task=NAME,pauses=M."""
  choice = config.parse_arg(arg, task="squad", pauses=-1)
  c = config.default()
  c.data.task = choice.task
  c.finetune.num_pauses = choice.pauses
  c.model.segment_attention = True
  c.batch_size = 32
  c.num_steps = 2_000
  c.optim.learning_rate = 5e-5
  c.checkpoint.every = 500
  c.checkpoint.keep = 1
  c.checkpoint.keep_best = 1
  c.eval.every = 500
  c.eval.num_examples = 500
  return c
