"""Pretraining on C4 as in Goyal et al. (2024): 2048 positions, 10% pauses.

  pausejax segments --config=configs/pretrain_c4.py \\
    --config.data.tfds_data_dir=/data/tfds \\
    --config.data.tokenizer=/data/cc_all.32000.model --out=/data/c4-segments \\
    --num_workers=16
  pausejax train --config=configs/pretrain_c4.py:size=1b,pause=true \\
    --config.data.segments_dir=/data/c4-segments \\
    --config.data.tokenizer=/data/cc_all.32000.model \\
    --config.mesh.fsdp=-1 --config.mesh.data=1 --workdir=/data/pause-1b

`pause=false` is the standard run: same documents, same order, same number of
positions. `--config.data.files='/data/c4/en/c4-train.*.json.gz'` and
`--config.data.validation_files='/data/c4/en/c4-validation.*.json.gz'` read the
published shards in place of TFDS; --shard=i/n shares the preparation among n
machines (docs/data.md). The public C4 vocabulary is T5's SentencePiece model
(32,000 pieces).

The paper gives shapes, data, length, pause fraction and 200B tokens, but not
the optimizer, the learning rate and the batch size. Those here are common
choices for the sizes: 200B tokens are 95,368 steps of 1024 rows.

`optimizer=adamw` and `optimizer=muon` are recipes of a published sweep instead,
with the batch size and the number of steps for which it was made (_RECIPES);
`size=tiny` has those of 130m.
"""

from pausejax import config

_PEAK = {"tiny": 1e-3, "130m": 6e-4, "1b": 2e-4}

# The sweep of Wen et al., 2025, arXiv 2509.02046, made with a JAX trainer
# (levanter), on the size nearest to ours and 8 times the Chinchilla optimum.
# Files below github.com/marin-community/marin/experiments/optimizer_sweep:
#   A1  Analysis/PhaseI/tex/hyperparam_tables_adamw.tex, "130m on 8x"
#   M1  Analysis/PhaseI/tex/hyperparam_tables_muon.tex, "130m on 8x"
#   A2  baseline_config/PhaseIII/adamw/8/exp725_adamwsweep_1.2B_8.json
#   M2  baseline_config/PhaseIII/muon/8/exp725_muonsweep_1.2B_8.json
# A1 and M1 were swept; A2 and M2 follow from a fit to the smaller sizes.
# Its models are Llamas of 32 layers of 512 (130m) and 1536 (1.2b).
_RECIPES = {
  ("adamw", "130m"): dict(
    # A1: 0.004 gives 3.270, 0.008 the best loss, 3.261, and 0.016 diverges. The
    # lower one is our choice, since our model is another.
    learning_rate=0.004,
    warmup_steps=2000,  # A1: 3.263; 1000: 3.262; 500: 3.278.
    schedule="cosine",  # The default of levanter, which the sweep keeps.
    clip_norm=1.0,  # A1.
    kwargs=dict(b1=0.9, b2=0.98, eps=1e-10, weight_decay=0.1),  # A1.
  ),
  ("adamw", "1b"): dict(
    learning_rate=0.002,  # A2, as all of this recipe but the schedule.
    warmup_steps=1000,
    schedule="cosine",  # The default of levanter, which the sweep keeps.
    clip_norm=1.0,
    kwargs=dict(b1=0.9, b2=0.98, eps=1e-10, weight_decay=0.2),
  ),
  ("muon", "130m"): dict(
    learning_rate=0.008,  # M1: 3.240; 0.016: 3.253.
    warmup_steps=0,  # M1.
    schedule="linear",  # M1, with the decay over the whole run.
    clip_norm=1.0,  # M1.
    kwargs=dict(
      beta=0.98,  # M1.
      adam_learning_rate=0.0024,  # M1.
      adam_b1=0.8,  # M1.
      adam_b2=0.98,  # M1.
      weight_decay=0.1,  # M1.
      adam_weight_decay=0.1,  # M1, but there not of the token embedding.
      # Our choice: optax has one for both parts. M1: between 1e-25 and 1e-5
      # neither matters by more than 0.003.
      eps=1e-8,
    ),
  ),
  ("muon", "1b"): dict(
    learning_rate=0.004,  # M2, as all of this recipe but eps.
    warmup_steps=0,
    schedule="linear",
    clip_norm=2.0,
    kwargs=dict(
      beta=0.98,
      adam_learning_rate=0.0012,
      adam_b1=0.8,
      adam_b2=0.98,
      weight_decay=0.1,
      adam_weight_decay=0.1,  # But there not of the token embedding.
      eps=1e-8,  # Our choice, as above.
    ),
  ),
}
# 256 rows of 4096 tokens; 20 tokens per parameter outside the embeddings, times
# 8: 134,217,728 and 1,207,959,552 parameters (21.5B and 193B tokens).
_RECIPE_ROWS = 512
_RECIPE_STEPS = {"130m": 20_480, "1b": 184_320}


def get_config(arg: str = ""):
  """Returns the config.

  `arg` is size=130m|1b|tiny,pause=true|false,optimizer=paper|adamw|muon.
  """
  choice = config.parse_arg(
    arg,
    size=("130m", "1b", "tiny"),
    pause=(True, False),
    optimizer=("paper", "adamw", "muon"),
  )
  c = config.default()
  c.model.update(config.SIZES[choice.size])
  c.data.task = "c4"
  c.data.pause_fraction = 0.1 if choice.pause else 0.0
  c.batch_size = 1024
  c.num_steps = 95_368
  c.optim.learning_rate = _PEAK[choice.size]
  if choice.optimizer != "paper":
    size = "1b" if choice.size == "1b" else "130m"
    recipe = _RECIPES[choice.optimizer, size]
    c.optim.update({k: v for k, v in recipe.items() if k != "kwargs"})
    c.optim.update(name=choice.optimizer, final_fraction=0.0)  # A1, M1, A2, M2.
    c.optim.kwargs = recipe["kwargs"]
    c.batch_size = _RECIPE_ROWS
    c.num_steps = _RECIPE_STEPS[size]
  return c
