"""The first state of a run that starts from another run's parameters.

Only parameters are loaded; moments, step and data position are new. If the
checkpoint has no `<pause>`, or was never trained on it, the row of `<pause>` is
initialized.

V vocabulary rows, D d_model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import errors, sharding, train_state
from pausejax.checkpoints import leaves, saved_run
from pausejax.checkpoints.store import Store
from pausejax.config import ModelConfig, TrainConfig
from pausejax.model import decoder
from pausejax.train_state import TrainState
from pausejax.training.parts import Parts


def first_state(
  config: TrainConfig, parts: Parts, initial: saved_run.SavedRun | None
) -> TrainState:
  """Returns fresh parameters, or those of the run to start from."""
  if initial is None:
    print("fresh parameters: no --init_from")
    return train_state.init_on_mesh(parts.model, parts.optimizer, config.seed)
  print(f"parameters from step {initial.step} of {initial.workdir}")
  return from_checkpoint(
    Store(initial.workdir / "checkpoints", None),
    initial.meta,
    parts.model,
    parts.optimizer,
    pause_init=config.finetune.pause_init,
    seed=config.seed,
  )


def from_checkpoint(
  store: Store,
  meta: dict[str, Any],
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  *,
  pause_init: str,
  seed: int,
) -> TrainState:
  """Returns the state at step 0 with the parameters of a checkpoint.

  Args:
    store: the checkpoints of the other run.
    meta: meta.json of the checkpoint to use.
    config: the model of this run; `<pause>` is its last id.
    optimizer: initializes the moments.
    pause_init: how to set the row of a `<pause>` that the checkpoint lacks or
      was never trained on: "mean" of all other rows, "normal" as for fresh
      parameters, or "keep".
    seed: the seed of "normal".

  Raises:
    UserError: the names or shapes of the parameters differ from those of
      `config`, or `pause_init` is "keep" and there is no row to keep.
  """
  num_saved = meta["model"]["vocab_size"]
  is_new = num_saved < config.vocab_size
  errors.require(
    not (is_new and pause_init == "keep"),
    f"finetune.pause_init: the checkpoint has no <pause> to keep ({num_saved} "
    f"ids, this run {config.vocab_size}); choose mean or normal",
  )
  saved = dataclasses.replace(config, vocab_size=num_saved)
  shapes = jax.eval_shape(lambda: decoder.init(saved, 0))
  model = store.restore_params(sharding.placed(shapes), meta["step"])
  fresh = is_new or not meta["pauses_seen"]

  def make(model) -> TrainState:
    named = leaves.flatten(model)
    named["embedding"] = _rows(
      named["embedding"], config, pause_init if fresh else "keep", seed
    )
    if "untied_head" in named:
      head_VD = _rows(named["untied_head"].T, config, "keep", seed)
      named["untied_head"] = head_VD.T
    grown = leaves.unflatten(
      jax.eval_shape(lambda: decoder.init(config, 0)), named
    )
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
      step=zero, num_skipped=zero, model=grown, opt_state=optimizer.init(grown)
    )

  layout = sharding.shardings(jax.eval_shape(make, model))
  return jax.jit(make, out_shardings=layout)(model)


def _rows(
  table_VD: jax.Array, config: ModelConfig, pause_init: str, seed: int
) -> jax.Array:
  """Returns the table with the rows of `config`, `<pause>` initialized."""
  more = config.num_vocab_rows - table_VD.shape[0]
  table_VD = jnp.pad(table_VD, ((0, more), (0, 0)))
  pause_id = config.vocab_size - 1
  if pause_init == "mean":
    row_D = jnp.mean(table_VD[:pause_id], axis=0)
  elif pause_init == "normal":
    shape = table_VD.shape[1:]
    row_D = decoder.INIT_STDDEV * jax.random.normal(jax.random.key(seed), shape)
  else:
    return table_VD
  return table_VD.at[pause_id].set(row_D)
