"""Writes a run as a model of transformers.

  config.json, generation_config.json
  model.safetensors, or several of them with model.safetensors.index.json
  tokenizer.json, tokenizer_config.json, special_tokens_map.json
  README.md, pausejax_config.json

D d_model, V vocabulary rows.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pausejax import errors, json_files, locks, sharding
from pausejax.checkpoints import leaves
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.interop import (
  hf_config,
  hf_tokenizer,
  layouts,
  model_card,
  reading,
  tensor_writer,
)
from pausejax.interop.family import Family
from pausejax.interop.layouts import Tensor
from pausejax.model.decoder import Decoder
from pausejax.runtime import distributed

MAX_SHARD_BYTES = 5 * 10**9
_NAMESPACE = "pausejax"  # The key of config.json that marks an export.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
  """An export that is checked, before any parameter is read.

  Attributes:
    family: the class that it becomes.
    texts: name -> content of all small files.
    shards: file name -> the tensors in it.
    dtype: of the tensors.
    notes: how the tokenizer differs from the run's, one sentence each.
  """

  family: Family
  texts: Mapping[str, str]
  shards: Mapping[str, list[Tensor]]
  dtype: str
  notes: tuple[str, ...]

  @property
  def summary(self) -> str:
    """The class, its size and its files, as text for the user."""
    tensors = [t for group in self.shards.values() for t in group]
    count = sum(math.prod(t.shape) for t in tensors)
    return (
      f"{self.family.architecture}, {count:,} parameters in {self.dtype}, "
      f"{len(self.shards)} file(s) of safetensors"
    )


def prepare_export(
  saved: SavedRun,
  name: str,
  *,
  dtype: str = "float32",
  max_shard_bytes: int = MAX_SHARD_BYTES,
  scores: Sequence[model_card.CardScore] = (),
) -> Export:
  """Returns what an export of a run consists of.

  Args:
    saved: the run.
    name: name of the exported model, for its card.
    dtype: of the tensors, a key of `tensor_writer.DTYPES`.
    max_shard_bytes: largest size of a file with tensors.
    scores: metrics for the card.

  Raises:
    UserError: no class of transformers computes the model, or tokenizer.json
      cannot express the tokenizer.
  """
  num_pause_ids = len(saved.tokenizer.pause_ids)
  errors.require(
    num_pause_ids == 1,
    f"{saved.place}: data.num_pause_ids is {num_pause_ids}, an exported model "
    "has one <pause>; use the run with pausejax, or train one with 1",
  )
  model, training = saved.model, model_card.describe_training(saved)
  family, values = hf_config.exported_config(model)
  tokenizer = hf_tokenizer.exported_tokenizer(
    saved.tokenizer,
    saved.tokenizer_spec,
    training.pauses,
    model_type=values["model_type"],
    max_length=model.max_seq_len,
  )
  ids = {f"{n}_token_id": i for n, i in tokenizer.special_ids.items()}
  own = {
    "pause_token_id": saved.tokenizer.pause_id,
    "num_pauses": training.pauses.num_pause_tokens,
    "position": training.pauses.position,
    "pauses_seen": saved.meta["pauses_seen"],
    "step": saved.step,
  }
  config = {**values, **ids, "dtype": dtype, "torch_dtype": dtype}
  generation = {
    **ids,
    "do_sample": False,
    "suppress_tokens": [saved.tokenizer.pause_id],
  }
  card = model_card.model_card(
    saved,
    training,
    architecture=family.architecture,
    out=name,
    scores=scores,
    has_chat_template=tokenizer.has_chat_template,
    tokenizer_class=tokenizer.loader,
    tokenizer_notes=tokenizer.notes,
  )
  tensors = layouts.tensors(
    family, reading.leaf_shapes(model), model.vocab_size
  )
  shards = tensor_writer.shards(tensors, dtype, max_shard_bytes)
  return Export(
    family=family,
    texts={
      "config.json": _json({**config, _NAMESPACE: own}),
      "generation_config.json": _json(generation),
      **tokenizer.files,
      "README.md": card,
      "pausejax_config.json": model_card.config_text(saved),
      **tensor_writer.index_file(shards, dtype),
    },
    shards=shards,
    dtype=dtype,
    notes=tokenizer.notes,
  )


def _json(value: Any) -> str:
  return json.dumps(value, indent=2) + "\n"


def write_export(export: Export, model: Decoder, out: pathlib.Path) -> None:
  """Writes the folder; it appears whole, in place of an earlier export.

  All processes call this together, with the mesh in scope; process 0 writes.
  One tensor at a time is gathered from the devices.

  Raises:
    UserError: `out` holds other files, or another process writes it.
  """
  is_writer = distributed.process_index() == 0
  with _replaced(out) if is_writer else contextlib.nullcontext(out) as folder:
    for name, tensors in export.shards.items():
      values = _values(export.family, tensors, model)
      if is_writer:
        tensor_writer.write_shard(folder / name, tensors, export.dtype, values)
      else:
        for _ in values:
          pass
    for name, text in export.texts.items() if is_writer else ():
      (folder / name).write_text(text, encoding="utf-8", newline="")


def _values(
  family: Family, tensors: Sequence[Tensor], model: Decoder
) -> Iterator[np.ndarray]:
  """Yields the value of each tensor; all processes take part."""
  named = leaves.flatten(model)
  take = jax.jit(
    _part, static_argnames="shape", out_shardings=sharding.replicated()
  )
  for tensor in tensors:
    parts = [take(named[p.leaf], p.layer, shape=p.shape) for p in tensor.parts]
    yield layouts.to_tensor(family, tensor, list(map(np.asarray, parts)))


def _part(
  leaf: jax.Array, layer: jax.Array | int | None, shape: tuple[int, ...]
) -> jax.Array:
  """Returns one layer of a leaf, or its rows that are ids."""
  x = leaf if layer is None else leaf[layer]
  return x[tuple(slice(n) for n in shape)]


def require_free(out: pathlib.Path) -> bool:
  """Returns whether a folder holds an earlier export, which is replaced.

  Raises:
    UserError: it holds anything else.
  """
  errors.require_local("--out", str(out))
  if not out.is_dir():
    errors.require(not out.exists(), f"--out: {out} is a file, name a folder")
    return False
  if not any(out.iterdir()):
    return False
  config = out / "config.json"
  is_export = config.is_file() and _NAMESPACE in json_files.read(
    config, dict, "name another folder"
  )
  if not is_export:
    raise errors.UserError(
      f"--out: {out} is not empty and holds no earlier export; name another "
      "folder"
    )
  return True


@contextlib.contextmanager
def _replaced(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a new folder beside `out`, which then takes its place.

  What an interrupted export left beside it is removed by the next one.
  """
  new, old = (out.with_name(f"{out.name}.{end}") for end in ("partial", "old"))
  new.mkdir(parents=True, exist_ok=True)
  lock = new / "lock"
  with locks.hold(lock, f"{out}: another process exports to it; wait for it"):
    try:
      require_free(out)
      _remove(old, *(path for path in new.iterdir() if path != lock))
      yield new
      lock.unlink()
      if out.exists():
        out.rename(old)
      new.rename(out)
    finally:
      _remove(new, old)


def _remove(*paths: pathlib.Path) -> None:
  for path in paths:
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink(missing_ok=True)
