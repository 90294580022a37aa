"""The first state of a run that starts from another run's parameters.

With `init_load=state` it is the whole state of the other run. Else only
parameters are loaded; moments, step and data position are new. If the
checkpoint has no `<pause>`, or fewer, or was never trained on pauses, the rows
of the new ones are initialized (`model/pause_row.py`).

V vocabulary rows, D d_model.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import errors, sharding, train_state
from pausejax.buckets import copies
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders, leaves, restoring, saved_run
from pausejax.config import ModelConfig, TrainConfig
from pausejax.data import pipeline
from pausejax.model import decoder
from pausejax.model.pause_row import with_pause_row
from pausejax.train_state import TrainState
from pausejax.training.inputs import pause_row_init
from pausejax.training.parts import Parts


def first_state(
  config: TrainConfig, parts: Parts, initial: saved_run.SavedRun | None
) -> TrainState:
  """Returns fresh parameters, or those of the run to start from."""
  if initial is None:
    print("fresh parameters: no --init_from")
    return train_state.init_on_mesh(
      parts.model,
      parts.optimizer,
      config.seed,
      has_average=config.optim.has_average,
      finds_spikes=config.optim.finds_spikes,
    )
  what = "average of the parameters" if initial.average else "parameters"
  print(f"{what} from step {initial.step} of {initial.place}")
  if initial.behind_tokens.ids and pipeline.is_finetuning(config.data.rates):
    its, own = initial.behind_tokens, config.behind_tokens(0)
    has = f"{own}" if own.ids else "none"
    has = "them, too" if has == f"{its}" else has
    print(f"it has {its}; this finetuning has {has}")
  initial.fetch()
  return from_checkpoint(
    initial.workdir / CHECKPOINTS,
    initial.meta,
    parts.model,
    parts.optimizer,
    pause_init=pause_row_init(config.finetune, initial.tokenizer),
    num_pause_ids=config.data.num_pause_ids,
    seed=config.seed,
    has_average=config.optim.has_average,
    finds_spikes=config.optim.finds_spikes,
    average=initial.average,
  )


def continued_state(
  parts: Parts, source: saved_run.SavedRun
) -> restoring.Restored:
  """Returns the checkpoint of another run that this run continues.

  Raises:
    CheckpointUnusable: the checkpoint is damaged.
    UserError: it has other leaves than the state of this run.
  """
  with copies.named(source.url, source.workdir):
    source.fetch(*folders.ITEMS)
    folder = source.workdir / CHECKPOINTS
    restored = restoring.restore_state(folder, source.step, parts.abstract)
  reason = "; ".join(filter(None, [source.place, restored.reason]))
  return dataclasses.replace(restored, reason=reason)


def from_checkpoint(
  folder: pathlib.Path,
  meta: dict[str, Any],
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  *,
  pause_init: str | int,
  seed: int,
  num_pause_ids: int = 1,
  has_average: bool = False,
  finds_spikes: bool = False,
  average: bool = False,
) -> TrainState:
  """Returns the state at step 0 with the parameters of a checkpoint.

  Args:
    folder: the checkpoints of the other run.
    meta: meta.json of the checkpoint to use.
    config: the model of this run; its last ids are pauses.
    optimizer: initializes the moments.
    pause_init: how to set the row of a `<pause>` that the checkpoint lacks or
      was never trained on, as in `with_pause_row`. A separate head keeps its
      row, or gets the mean if it has none.
    seed: the seed of the methods that sample.
    num_pause_ids: the number of pauses of this run.
    has_average: whether this run averages its parameters.
    finds_spikes: whether this run skips spikes.
    average: whether to load the average of the other run's parameters.

  Raises:
    UserError: the names or shapes of the parameters differ from those of
      `config`, or `pause_init` is "keep" and there is no row to keep.
  """
  num_saved = meta["model"]["vocab_size"]
  is_new = num_saved < config.vocab_size
  errors.require(
    num_saved <= config.vocab_size,
    f"data.num_pause_ids: the checkpoint has {num_saved} ids, this run only "
    f"{config.vocab_size}; give it as many pauses",
  )
  errors.require(
    not (is_new and pause_init == "keep"),
    f"finetune.pause_init: the checkpoint has no <pause> to keep ({num_saved} "
    f"ids, this run {config.vocab_size}); choose another, such as mean",
  )
  saved = dataclasses.replace(config, vocab_size=num_saved)
  shapes = jax.eval_shape(lambda: decoder.init(saved, 0))
  model = restoring.restore_params(
    folder, meta["step"], sharding.placed(shapes), average=average
  )
  pause_id = config.vocab_size - num_pause_ids
  num_kept = max(num_saved - pause_id, 0)  # Pauses of the checkpoint.
  num_learned = num_kept if meta["pauses_seen"] else 0

  def make(model) -> TrainState:
    named = leaves.flatten(model)

    def with_new(table_VD, num_old: int, init: str | int) -> jax.Array:
      table_VD = _grown(table_VD, config)
      for n in range(num_old, num_pause_ids):
        table_VD = with_pause_row(table_VD, pause_id, init, seed, number=n)
      return table_VD

    named["embedding"] = with_new(named["embedding"], num_learned, pause_init)
    if "untied_head" in named:
      head_VD = with_new(named["untied_head"].T, num_kept, "mean")
      named["untied_head"] = head_VD.T
    if "head_bias" in named:
      bias_V1 = with_new(named["head_bias"][:, None], num_kept, "mean")
      named["head_bias"] = bias_V1[:, 0]
    grown = leaves.unflatten(
      jax.eval_shape(lambda: decoder.init(config, 0)), named
    )
    return train_state.fresh_state(
      grown, optimizer, has_average=has_average, finds_spikes=finds_spikes
    )

  layout = sharding.shardings(jax.eval_shape(make, model))
  return jax.jit(make, out_shardings=layout)(model)


def _grown(table_VD: jax.Array, config: ModelConfig) -> jax.Array:
  """Returns the table with as many rows as `config` has, new ones 0."""
  more = config.num_vocab_rows - table_VD.shape[0]
  return jnp.pad(table_VD, ((0, more), (0, 0)))
