"""Continues the pretraining of an open model, with 10% pauses.

  pausejax import --from=SmolLM2-135M --out=smollm2
  pausejax train --config=configs/continue_pretrain.py:pause=true \\
    --init_from=smollm2 --config.data.files='/data/text/*.jsonl.gz' \\
    --workdir=smollm2-pause
  pausejax train --config=configs/continue_pretrain.py:pause=false \\
    --init_from=smollm2 --config.data.files='/data/text/*.jsonl.gz' \\
    --workdir=smollm2-standard

`pause=false` is the standard run, to compare with: same text, same order, same
schedule, same number of positions. Architecture and tokenizer are those of
--init_from, which may be any run. 10,000 steps of 256 rows of 2,048 positions
are 5.2B; memory follows from the size of the model (`pausejax preflight
--config=smollm2/config.json`).

The learning rate is warmed up again, from 0 to a peak below that of the first
pretraining, and decays again. Expect the loss to rise during the warm-up and
then to fall below where it started (Gupta et al., 2023, "Continual pre-training
of large language models: how to (re)warm your model?"; Ibrahim et al., 2024,
"Simple and scalable strategies to continually pre-train large language
models", who also mix in text of the first pretraining). A higher peak adapts
faster and forgets more. The peak here is a common choice; no model has been
trained with it. Compare eval_loss_without_pauses of the two runs.

The row of `<pause>` starts as the mean of the others (finetune.pause_init);
--config.optim.pause_only_steps=500 trains only this row at first, and
--config.optim.freeze=mlp, or other parameters, never (docs/optimizers.md).
"""

from pausejax import config


def get_config(arg: str = ""):
  """Returns the config; `arg` is pause=true|false."""
  choice = config.parse_arg(arg, pause=(True, False))
  c = config.default()
  c.data.task = "text"
  c.data.pause_fraction = 0.1 if choice.pause else 0.0
  c.num_steps = 10_000
  c.optim.learning_rate = 1e-4
  c.optim.warmup_steps = 100
  c.optim.schedule = "cosine"
  c.optim.final_fraction = 0.1
  return c
