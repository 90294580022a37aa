"""One step: sums divided once, skipped when not finite, paired by class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import optimizer, train_state
from pausejax.config import LossConfig, ModelConfig, OptimConfig, default
from pausejax.training import step
from tests import models

LOSS = LossConfig(num_chunks=4, z_loss=0.0)


@functools.cache
def make_step(num_microbatches=1, learning_rate=3e-4):
  fields = default().optim.to_dict()
  fields |= dict(warmup_steps=2, learning_rate=learning_rate)
  made, schedule = optimizer.make_optimizer(OptimConfig(**fields), 10)
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LOSS,
    num_microbatches=num_microbatches,
    pause_id=models.PAUSE_ID,
  )
  return jax.jit(train), models.train_state(made)


@pytest.mark.slow
def test_loss_and_classes_equal_a_numpy_reference():
  train, start = make_step()
  batch = models.batch()
  _, metrics = train(start, batch)
  logits_BTV = np.asarray(start.model.logits(models.apply(start.model, batch)))
  logits_BTV = logits_BTV[..., : models.VOCAB_SIZE].astype(np.float64)
  log_z_BT = np.log(np.exp(logits_BTV).sum(-1))
  targets_BT, mask_BT = batch["targets"], batch["loss_mask"]
  right_BT = np.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
  nll_BT = log_z_BT - right_BT
  # Position k is ignored when token k+1 is a pause; a pause itself counts.
  assert (mask_BT == (targets_BT != models.PAUSE_ID)).all()
  at_pause_BT = mask_BT & (batch["tokens"] == models.PAUSE_ID)
  assert at_pause_BT.any()
  # float32 against float64.
  assert float(metrics["loss"]) == pytest.approx(nll_BT[mask_BT].mean(), 1e-5)
  assert float(metrics["nll_after_pause"]) == pytest.approx(
    nll_BT[at_pause_BT].sum(), 1e-5
  )
  assert int(metrics["num_targets"]) == mask_BT.sum()
  assert (
    int(metrics["num_pauses"]) == (batch["tokens"] == models.PAUSE_ID).sum()
  )
  assert int(metrics["num_pauses_in_full_rows"]) == (~mask_BT).sum()
  # Where a target is a hint, the input after it is still a pause.
  hinted = {
    "targets": np.where(mask_BT, targets_BT, 5),
    "loss_mask": np.ones_like(mask_BT),
  }
  _, with_hints = train(start, {**batch, **hinted})
  assert with_hints["num_pauses"] == metrics["num_pauses"]


@pytest.mark.slow
def test_the_vector_before_a_pause_gets_no_gradient_of_its_own():
  """The last position's vector feeds its own target only: ignored means 0."""
  _, start = make_step()
  batch = models.batch(batch_size=1)
  batch["targets"][0, -1] = models.PAUSE_ID
  batch["loss_mask"][0, -1] = False
  objective = functools.partial(
    step.evaluate_batch, loss=LOSS, pause_id=models.PAUSE_ID
  )

  def loss(positions_TD):
    moved = jax.tree.map(lambda x: x, start.model)
    moved.position_embedding[...] = positions_TD
    return objective(moved, batch)["nll"]

  # `nll` carries no gradient by design; the objective does.
  positions_TD = start.model.position_embedding[...]
  assert (jax.jit(jax.grad(loss))(positions_TD) == 0).all()

  def total(positions_TD):
    moved = jax.tree.map(lambda x: x, start.model)
    moved.position_embedding[...] = positions_TD
    return step._summed_objective(
      moved, batch, loss=LOSS, pause_id=models.PAUSE_ID
    )[0]

  grad_TD = jax.jit(jax.grad(total))(positions_TD)
  assert (grad_TD[-1] == 0).all() and (grad_TD[-2] != 0).any()


@pytest.mark.slow
def test_microbatches_give_the_same_step_for_uneven_counts():
  batch = models.batch()
  batch["loss_mask"][:3] = False  # Very different counts in each part.
  outcomes = []
  for num_microbatches in (1, 4):
    train, start = make_step(num_microbatches)
    outcomes.append(train(start, batch))
  (one, one_metrics), (four, four_metrics) = outcomes
  assert int(one_metrics["num_targets"]) == int(four_metrics["num_targets"])
  np.testing.assert_allclose(
    one_metrics["loss"], four_metrics["loss"], rtol=1e-6
  )
  np.testing.assert_allclose(
    one_metrics["grad_norm"], four_metrics["grad_norm"], rtol=1e-5
  )
  # Adam's first step is learning_rate * sign: sums in another order turn it
  # only where the gradient is noise, and then by 2 learning rates at most.
  for a, b in zip(
    jax.tree.leaves(one.model), jax.tree.leaves(four.model), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2 * 1.5e-4)


@pytest.mark.parametrize(
  ("length", "largest", "wanted"),
  [(1024, 128, 8), (80, 128, 1), (752, 128, 8), (296, 128, 4), (7, 3, 7)],
)
def test_positions_are_divided_into_few_equal_chunks(length, largest, wanted):
  assert step._num_chunks(length, largest) == wanted


@pytest.mark.parametrize(
  ("shape", "wanted"),
  [
    ((2, 256, 768), 1),
    ((8, 256, 384), 10),
    ((4, 2048, 2048), 8),
    ((1, 8, 64), 1),
  ],
)
def test_a_chunk_has_at_least_half_as_many_tokens_as_d_model(shape, wanted):
  assert step._most_chunks(*shape) == wanted


def test_the_compiled_step_updates_the_state_in_place():
  fields = default().model
  fields.update(num_layers=1, d_model=128, num_heads=2, num_kv_heads=2)
  fields.update(d_ff=512, max_seq_len=32, dtype="float32", remat="none")
  fields.update(scan_unroll=1, tied_embeddings=True)
  config = ModelConfig(vocab_size=8192, **fields.to_dict())
  made, schedule = optimizer.make_optimizer(
    OptimConfig(**default().optim.to_dict()), 100
  )
  train = functools.partial(
    step.train_step,
    optimizer=made,
    schedule=schedule,
    loss=LossConfig(num_chunks=8, z_loss=0.0),
    num_microbatches=1,
    pause_id=8191,
  )
  state = jax.eval_shape(lambda: train_state.init_state(config, made, 0))
  batch = models.batch(batch_size=1, seq_len=32)
  compiled = jax.jit(train, donate_argnums=0).lower(state, batch).compile()
  size = lambda tree: sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= size(state)
  # The gradients and the logits. A copy of the moments would add 2.
  assert memory.temp_size_in_bytes < 2.25 * size(state.model)
  # 32 tokens are one chunk: no loop sums the head's gradient. XLA's older code
  # has one over the tokens, which adds their rows of the embedding's gradient.
  loops = [x for x in compiled.as_text().splitlines() if " while(" in x]
  assert all("/scatter-add" in loop for loop in loops), loops


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_changes_only_the_counters(bad):
  train, start = make_step()
  poisoned = jax.tree.map(lambda x: x, start)
  poisoned.model.final_norm.scale[...] = (
    start.model.final_norm.scale[...].at[0].set(bad)
  )
  after, metrics = train(poisoned, models.batch())
  assert metrics["skipped"] == 1
  assert int(after.step) == 1 and int(after.num_skipped) == 1
  for a, b in zip(
    jax.tree.leaves((after.model, after.opt_state)),
    jax.tree.leaves((poisoned.model, poisoned.opt_state)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_a_skipped_step_does_not_use_up_the_schedule():
  train, start = make_step()
  _, clean = train(start, models.batch())
  skipped = jax.tree.map(lambda x: x, start)
  skipped = train_state.TrainState(
    step=skipped.step + 1,
    num_skipped=skipped.num_skipped + 1,
    model=skipped.model,
    opt_state=skipped.opt_state,
  )
  _, later = train(skipped, models.batch())
  assert clean["learning_rate"] == later["learning_rate"]


@pytest.mark.slow
def test_a_fixed_batch_is_learned():
  train, start = make_step(learning_rate=3e-2)
  batch, losses = models.batch(), []
  for _ in range(10):
    start, metrics = train(start, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_the_compiled_step_never_holds_the_full_logits():
  batch_size, seq_len, vocab_size = 4, 512, 32_000
  fields = default().model
  fields.update(num_layers=1, d_model=32, num_heads=1, num_kv_heads=1, d_ff=64)
  fields.update(max_seq_len=seq_len, dtype="float32", remat="full")
  config = ModelConfig(vocab_size=vocab_size, **fields.to_dict())
  made, schedule = optimizer.make_optimizer(
    OptimConfig(**default().optim.to_dict()), 100
  )
  batch = models.batch(batch_size=batch_size, seq_len=seq_len)
  abstract = jax.eval_shape(lambda: train_state.init_state(config, made, 0))

  def temporary_bytes(num_chunks):
    train = functools.partial(
      step.train_step,
      optimizer=made,
      schedule=schedule,
      loss=LossConfig(num_chunks=num_chunks, z_loss=0.0),
      num_microbatches=1,
      pause_id=vocab_size - 1,
    )
    lowered = jax.jit(train).lower(abstract, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  full_logits = 4 * batch_size * seq_len * config.num_vocab_rows
  assert temporary_bytes(1) > full_logits
  # What is left is mostly the gradients and the attention scores.
  assert temporary_bytes(16) < 0.5 * full_logits
