"""The run that an open model becomes: its settings, tokenizer and step 0."""

import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp

from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, default
from pausejax.data import tokenizers
from pausejax.interop import reading
from pausejax.interop.reading import OpenModel
from pausejax.runtime import distributed, run_folder
from pausejax.train_state import TrainState

_STEP_0 = {"position.json": json.dumps({"step": 0}).encode()}


def write_run(
  source: OpenModel,
  folder: pathlib.Path,
  out: pathlib.Path,
  tokenizer: pathlib.Path,
  environment: dict[str, Any],
) -> None:
  """Reads the tensors and writes the run; all processes call this together.

  The checkpoint is the last thing that is written: without it there is no run.

  Args:
    source: the model, checked.
    folder: where it is, for meta.json.
    out: the workdir of the run, which this process holds.
    tokenizer: the file of its tokenizer.
    environment: fields of meta.json on devices and versions.
  """
  values = _config(source, out / tokenizer.name)
  meta = {
    "config": values,
    "model": {**values["model"], "vocab_size": source.model.vocab_size},
    "tokenizer": tokenizers.load_tokenizer(str(tokenizer)).fingerprint(),
    "pause_id": source.model.vocab_size - 1,
    "initial": None,
    "imported": {
      "folder": str(folder),
      "model_type": source.values["model_type"],
    },
    "pauses_seen": source.pauses_seen,
    "data": {},
    **environment,
  }
  model = reading.load_params(source)
  reading.require_finite(model, folder)
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(step=zero, num_skipped=zero, model=model, opt_state=())
  store = Store(out / CHECKPOINTS, CheckpointConfig(**values["checkpoint"]))
  store.prepare(state)
  if distributed.process_index() == 0:
    run_folder.keep_inputs(out, str(tokenizer), values)
  store.save(state, data=_STEP_0, meta=meta)
  store.close()


def _config(source: OpenModel, tokenizer: pathlib.Path) -> dict[str, Any]:
  """Returns the default settings with the model's architecture."""
  tree = default()
  tree.model.update(source.fields)
  tree.data.tokenizer = str(tokenizer)
  tree.data.seq_len = min(tree.data.seq_len, source.model.max_seq_len)
  return tree.to_dict()


def summary(source: OpenModel) -> list[tuple[str, str]]:
  """Returns the rows of a table on the model; the first one has no value."""
  model, settings = source.model, source.tokenizer.settings
  sizes = [math.prod(tensor.shape) for tensor in source.tensors]
  return [
    ("the model", source.family.architecture),
    ("parameters", f"{sum(sizes):,} in {len(sizes):,} tensors"),
    ("layers", f"{model.num_layers} of width {model.d_model}"),
    ("text ids", f"{model.vocab_size - 1:,}"),
    ("<pause>", "its own row" if source.has_pause else "new: the mean row"),
    ("tokenizer", source.tokenizer.name),
    ("BOS, EOS", _special_tokens(settings)),
  ]


def _special_tokens(settings: dict[str, str]) -> str:
  """Returns the names of BOS and EOS."""
  eos = settings.get("eos_token", "the tokenizer's")
  return f"{settings.get('bos_token', eos)}, {eos}"
