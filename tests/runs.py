"""Runs on disk with random parameters, which several test files answer with."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, ModelConfig, default
from pausejax.data import tokenizers
from pausejax.model import decoder
from pausejax.train_state import TrainState
from tests import models

SMALL = dict(
  num_layers=2,
  d_model=16,
  num_heads=4,
  num_kv_heads=4,
  d_ff=32,
  max_seq_len=256,
  dtype="float32",
  remat="none",
)


def save_run(
  workdir: pathlib.Path,
  model: decoder.Decoder | None = None,
  *,
  tokenizer: str = "bytes",
  seed: int = 0,
  has_average: bool = False,
  pauses: Mapping[str, Any] | None = None,
  **fields,
) -> str:
  """Writes step 0 of a run; returns its workdir.

  Args:
    workdir: a folder that does not exist.
    model: the parameters; random by default.
    tokenizer: the value of data.tokenizer; a file is copied into the run.
    seed: of random parameters.
    has_average: whether other random parameters are saved as their average.
    pauses: fields of `data` with which it was pretrained.
    **fields: of the model, besides `SMALL`.
  """
  workdir.mkdir(parents=True)
  path = pathlib.Path(tokenizer)
  if path.is_file():
    copy = workdir / f"tokenizer{path.suffix}"
    copy.write_bytes(path.read_bytes())
    tokenizer = str(copy)
  loaded = tokenizers.load_tokenizer(tokenizer)
  tree = default()
  tree.model.update({**SMALL, **fields})
  tree.data.update(tokenizer=tokenizer, seq_len=tree.model.max_seq_len)
  tree.data.update(pauses or {})
  values = tree.to_dict()
  config = ModelConfig(vocab_size=loaded.vocab_size, **values["model"])
  model = model or models.random_model(config, seed)
  zero = jnp.zeros((), jnp.int32)
  average = models.random_model(config, seed + 1) if has_average else None
  state = TrainState(
    step=zero, num_skipped=zero, model=model, opt_state=(), average=average
  )
  store = Store(
    workdir / "checkpoints", CheckpointConfig(**values["checkpoint"])
  )
  meta = {
    "config": values,
    "model": {**values["model"], "vocab_size": loaded.vocab_size},
    "tokenizer": loaded.fingerprint(),
    "pauses_seen": True,
    **({"data": dict(pauses)} if pauses else {}),
  }
  jax.block_until_ready(state)
  store.save(state, data={"position.json": b'{"step": 0}'}, meta=meta)
  store.close()
  return str(workdir)
