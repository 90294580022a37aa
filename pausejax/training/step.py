"""One training step and one evaluation step, as pure functions.

The loss is the sum of the cross entropy, in nats, over all counted targets of
the global batch, across microbatches and shards, divided once by their number.

B batch, T tokens, K positions of a row to which the head is applied, D d_model.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pausejax import freezing, losses, sharding
from pausejax.config import LossConfig, TrainConfig
from pausejax.model import decoder
from pausejax.model.decoder import Decoder
from pausejax.train_state import TrainState, updated_average
from pausejax.training.compiler_options import compiler_options

Metrics = dict[str, jax.Array]


def train_step(
  state: TrainState,
  batch: dict[str, jax.Array],
  *,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  loss: LossConfig,
  num_microbatches: int,
  pause_id: int,
  ema_decay: float = 0.0,
  skip_spikes: float = 0.0,
  trained: Callable[[Decoder], Decoder] = lambda model: model,
) -> tuple[TrainState, Metrics]:
  """Returns the state after one step and the metrics of the step.

  A step whose loss or gradient norm is not finite, or a spike, changes only the
  counters and the window of `spikes.py`. Its gradients are discarded inside the
  jitted function.

  Args:
    state: the state before the step.
    batch: arrays as in `data/batch.py`.
    optimizer: from `optimizer.make_optimizer`.
    schedule: the learning rate of each step that was not skipped.
    loss: the options of the cross entropy.
    num_microbatches: number of parts, dividing B, over which gradients are
      summed.
    pause_id: first id of the pauses, which are the last ids; for the metrics.
    ema_decay: decay of the average of the parameters, if the state has one.
    skip_spikes: standard deviations of a spike, if the state has a window.
    trained: `freezing.stop_gradients`, if parameters are frozen.

  Returns:
    The state, and float32 scalars: `loss` in nats per counted target, the
    sums and counts of `evaluate_batch`, `grad_norm` before clipping,
    `learning_rate` and `skipped` (0 or 1); with a window `spike` (0 or 1),
    which counts as skipped, too. All but the sums and counts are
    written to metrics.jsonl under these names.
  """
  objective = lambda model, batch: _summed_objective(
    trained(model), batch, loss=loss, pause_id=pause_id
  )
  grads, sums = _summed_grads(objective, state.model, batch, num_microbatches)
  count = jnp.maximum(sums["num_targets"], 1.0)
  grads = jax.tree.map(lambda g: g / count, grads)
  grad_norm = optax.tree.norm(grads)
  mean_loss = sums["nll"] / count
  is_finite = jnp.isfinite(mean_loss) & jnp.isfinite(grad_norm)
  is_used, spike, window = is_finite, {}, state.spikes
  if window is not None:
    is_spike = window.is_spike(mean_loss, grad_norm, skip_spikes) & is_finite
    is_used, spike = is_finite & ~is_spike, {"spike": is_spike}
    window = window.added(mean_loss, grad_norm, is_finite)

  def update(grads, model, opt_state, average):
    updates, opt_state = optimizer.update(grads, opt_state, model)
    model = optax.apply_updates(model, updates)
    if average is not None:
      count = state.step + 1 - state.num_skipped
      average = updated_average(average, model, count, ema_decay)
    return model, opt_state, average

  # Not a choice between two results, for which the old state would be copied.
  with jax.named_scope("optimizer"):
    model, opt_state, average = jax.lax.cond(
      is_used,
      update,
      lambda grads, *old: old,
      *(grads, state.model, state.opt_state, state.average),
    )
  new_state = TrainState(
    step=state.step + 1,
    num_skipped=state.num_skipped + ~is_used,
    model=model,
    opt_state=opt_state,
    average=average,
    spikes=window,
  )
  metrics = {
    **sums,
    "loss": mean_loss,
    "grad_norm": grad_norm,
    "learning_rate": jnp.asarray(schedule(state.step - state.num_skipped)),
    "skipped": ~is_used,
    **spike,
  }
  return new_state, jax.tree.map(lambda m: m.astype(jnp.float32), metrics)


def evaluate_batch(
  model: Decoder,
  batch: dict[str, jax.Array],
  *,
  loss: LossConfig,
  pause_id: int,
) -> Metrics:
  """Returns the sums of one batch; add them over batches before dividing.

  Returns:
    float32 scalars: `nll` and `num_targets` over all counted targets,
    `nll_after_pause` and `num_after_pause` over those whose input is a pause,
    `num_pauses` (inputs that are a pause), `num_pauses_in_full_rows` (targets
    that are, in rows without padding) and `num_tokens` (positions of text or a
    pause).
  """
  return _summed_objective(model, batch, loss=loss, pause_id=pause_id)[1]


def jit_train_step(
  config: TrainConfig,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  pause_id: int,
  layout: TrainState,
) -> Callable[..., Any]:
  """Returns the jitted train step of a run: (state, batch) -> (state, metrics).

  The buffers of the old state are donated.

  Args:
    config: the config of the run.
    optimizer: from `optimizer.make_optimizer`, with its `schedule`.
    schedule: the learning rate.
    pause_id: first id of the pauses.
    layout: shardings of the state; `sharding.put_batch` places batches.
  """
  step = functools.partial(
    train_step,
    optimizer=optimizer,
    schedule=schedule,
    loss=config.loss,
    num_microbatches=config.optim.num_microbatches,
    pause_id=pause_id,
    ema_decay=config.optim.ema_decay,
    skip_spikes=config.optim.skip_spikes,
    trained=freezing.stop_gradients(config.optim),
  )
  return jax.jit(
    step,
    in_shardings=(layout, sharding.batch_sharding()),
    out_shardings=(layout, sharding.replicated()),
    donate_argnums=0,
    compiler_options=compiler_options(),
  )


def jit_evaluate_batch(
  loss: LossConfig, *, pause_id: int
) -> Callable[..., Metrics]:
  """Returns `evaluate_batch`, jitted: (model, batch) -> sums."""
  return jax.jit(
    functools.partial(evaluate_batch, loss=loss, pause_id=pause_id),
    compiler_options=compiler_options(),
  )


def _summed_objective(model, batch, *, loss: LossConfig, pause_id: int):
  """Returns (objective to differentiate, metric sums) of one batch."""
  x_BTD = model(
    batch["tokens"],
    positions_BT=batch["positions"],
    segment_ids_BT=batch["segment_ids"],
    in_prefix_BT=batch.get("in_prefix"),
  )
  read = x_BTD, *(batch[n] for n in ("tokens", "targets", "loss_mask"))
  if "counted" in batch:
    read = jax.tree.map(lambda x: _positions_at(x, batch["counted"]), read)
  x_BKD, tokens_BK, targets_BK, mask_BK = read
  num_here = x_BKD.shape[1] // sharding.num_shards("sequence")
  most = min(loss.num_chunks, _most_chunks(*x_BTD.shape))
  with jax.named_scope("loss"):
    objective, nll_BK = losses.cross_entropy(
      x_BKD,
      model.head_DV(),
      targets_BK,
      mask_BK,
      head_bias_V=model.head_bias_V(),
      finish=functools.partial(decoder.finish_logits, config=model.config),
      num_chunks=_num_chunks(num_here, x_BTD.shape[1] // most),
      z_loss=loss.z_loss,
    )
  after_pause_BK = mask_BK & (tokens_BK >= pause_id)
  is_real_BT = batch["segment_ids"] > 0
  # Not among the targets, where hints may stand for pauses.
  is_pause_BT = is_real_BT & (batch["tokens"] >= pause_id)
  is_full_B1 = jnp.all(is_real_BT, axis=1, keepdims=True)
  sums = {
    "nll": nll_BK,
    "num_targets": mask_BK,
    "nll_after_pause": jnp.where(after_pause_BK, nll_BK, 0.0),
    "num_after_pause": after_pause_BK,
    "num_pauses": is_pause_BT,
    # A full row is as long as its text was, so each pause displaced one token.
    "num_pauses_in_full_rows": (batch["targets"] >= pause_id) & is_full_B1,
    "num_tokens": is_real_BT,
  }
  return objective, jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.float32), sums)


@jax.vmap
def _positions_at(x_T: jax.Array, places_K: jax.Array) -> jax.Array:
  """Returns [B, K, ...]: K positions of each row of [B, T, ...]."""
  return x_T.at[places_K].get(unique_indices=True)


def _most_chunks(batch_size: int, seq_len: int, d_model: int) -> int:
  """Returns the most chunks worth their gradients of the head.

  Each chunk reads and writes the head's gradient [D, V], so it has at least D/2
  tokens: its logits have at least half of that size.
  """
  shards = sharding.num_shards(*sharding.TOKEN_AXES)
  return max(1, 2 * batch_size * seq_len // (shards * d_model))


def _num_chunks(length: int, largest: int) -> int:
  """Returns the fewest equal chunks no larger than `largest`."""
  counts = range(-(-length // largest), length + 1)
  return next(n for n in counts if length % n == 0)


def _summed_grads(objective, model, batch, num_microbatches: int):
  """Returns (gradients, metric sums) added up over the microbatches."""
  value_and_grad = jax.value_and_grad(objective, has_aux=True)

  def one(batch):
    (_, sums), grads = value_and_grad(model, batch)
    return grads, sums

  if num_microbatches == 1:
    return one(batch)
  # Row i goes to microbatch i % num_microbatches, so that each row stays on its
  # device.
  parts = jax.tree.map(
    lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1),
    batch,
  )
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts)),
  )
  add = lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None)
  return jax.lax.scan(add, zeros, parts)[0]
