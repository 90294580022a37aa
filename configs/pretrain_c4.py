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
"""

from pausejax import config

_PEAK = {"tiny": 1e-3, "130m": 6e-4, "1b": 2e-4}


def get_config(arg: str = ""):
  """Returns the config; `arg` is size=130m|1b|tiny,pause=true|false."""
  choice = config.parse_arg(
    arg, size=("130m", "1b", "tiny"), pause=(True, False)
  )
  c = config.default()
  c.model.update(config.SIZES[choice.size])
  c.data.task = "c4"
  c.data.pause_fraction = 0.1 if choice.pause else 0.0
  c.batch_size = 1024
  c.num_steps = 95_368
  c.optim.learning_rate = _PEAK[choice.size]
  return c
