"""Optimizers by name, their schedules, and what weight decay touches."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pausejax import errors, optimizer, schedules, sharding
from pausejax.checkpoints import leaves
from pausejax.config import MeshConfig, OptimConfig, default
from tests import models

NUM_LAYERS = 2
# Every public function of optax that takes a learning rate.
NAMES = sorted(
  name
  for module in (optax, optax.contrib)
  for name, function in inspect.getmembers(module, inspect.isfunction)
  if "learning_rate" in inspect.signature(function).parameters
)


def config(**changes) -> OptimConfig:
  fields = {**default().optim.to_dict(), "warmup_steps": 0, **changes}
  return OptimConfig(**fields)


@functools.cache
def decoder():
  """Heads, feed-forwards and a vocabulary that Adafactor factors."""
  return models.model(d_model=128, num_heads=1, num_kv_heads=1, d_ff=256)


@functools.cache
def few_leaves():
  """Every kind of leaf, in half the time to compile."""
  model = jax.tree.map(lambda x: x, decoder())
  for name in ("key", "value", "expand", "mlp_norm"):
    setattr(model.blocks, name, None)
  model.position_embedding = None
  return model


def gradients(step: int, like=None):
  rng = np.random.default_rng(step)
  draw = lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype)
  return jax.tree.map(draw, decoder() if like is None else like)


def apart(model) -> dict:
  """The same parameters as plain arrays, a dict for each layer."""
  named = leaves.flatten(model)
  stacks = {n: x for n, x in named.items() if n.startswith("blocks/")}
  layers = [{n: x[i] for n, x in stacks.items()} for i in range(NUM_LAYERS)]
  return {"blocks": layers} | {n: named[n] for n in named if n not in stacks}


def is_matrix(path) -> bool:
  name = jax.tree_util.keystr(path)
  return "kernel" in name or "head" in name or "'embedding'" in name


def unstacked_optimizer(name: str, schedule) -> optax.GradientTransformation:
  """Optax's optimizer of the name, with masks from the parameters' names."""
  factory = getattr(optax.contrib, name, None) or getattr(optax, name)
  mask = functools.partial(
    jax.tree_util.tree_map_with_path, lambda path, _: is_matrix(path)
  )
  known = inspect.signature(factory).parameters
  kwargs = {k: mask for k in ("mask", "weight_decay_mask") if k in known}

  def dimensions(path, x):
    name = jax.tree_util.keystr(path)
    if "kernel" not in name:
      return None
    split = x.ndim - 1 if "mix" in name else 1
    axes = tuple(range(x.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:split], axes[split:])

  if "muon_weight_dimension_numbers" in known:
    kwargs["muon_weight_dimension_numbers"] = functools.partial(
      jax.tree_util.tree_map_with_path, dimensions
    )
  return factory(learning_rate=schedule, **kwargs)


def three_steps(made: optax.GradientTransformation, params, grads):
  """Returns the parameters after three steps and the last update."""

  @jax.jit
  def step(params, state, grad):
    updates, state = made.update(grad, state, params)
    return optax.apply_updates(params, updates), state, updates

  state = jax.jit(made.init)(params)
  for grad in grads:
    params, state, updates = step(params, state, grad)
  return params, updates


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_gradients_are_clipped_as_by_optax(largest):
  grads = {"a": jnp.arange(1.0, 5.0), "b": -jnp.ones((2, 3))}
  ours, theirs = (
    make(largest)
    for make in (optimizer._clip_by_global_norm, optax.clip_by_global_norm)
  )
  found, state = ours.update(grads, ours.init(grads))
  wanted, _ = theirs.update(grads, theirs.init(grads))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), found, wanted
  )
  assert state == theirs.init(grads)
  zeros = jax.tree.map(jnp.zeros_like, grads)
  jax.tree.map(
    np.testing.assert_array_equal, ours.update(zeros, state)[0], zeros
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_equals_itself_on_separate_layers_or_is_refused(name):
  tested = config(name=name, kwargs={}, learning_rate=0.01, clip_norm=0.0)
  try:
    made, schedule = optimizer.make_optimizer(tested, 10)
  except errors.UsageError as e:
    assert "\n" not in e.message and name in e.message
    assert "adamw" in e.message
    return
  grads = [gradients(step, few_leaves()) for step in range(3)]
  found = three_steps(made, few_leaves(), grads)
  plain = unstacked_optimizer(name, schedule)
  wanted = three_steps(plain, apart(few_leaves()), list(map(apart, grads)))
  # The last update is what is left of large sums: rounding shows.
  for ours, theirs, most in zip(found, wanted, (1e-6, 1e-5), strict=True):
    for a, b in zip(*map(jax.tree.leaves, (apart(ours), theirs)), strict=True):
      assert np.isfinite(a).all()
      assert np.abs(a - b).max() <= most * np.abs(b).max()


@pytest.mark.slow
def test_optimizers_in_use_are_accepted_and_others_refused():
  accepted = set(optimizer.optimizer_names(config()))
  assert accepted <= set(NAMES)
  assert accepted >= {"adamw", "lion", "muon", "adafactor", "sgd", "lamb"}
  for name in set(NAMES) - accepted:
    with pytest.raises(errors.UsageError):
      optimizer.make_optimizer(config(name=name, kwargs={}), 10)
  # What is evaluated elsewhere than it is trained, and what needs the loss.
  assert not accepted & {"schedule_free_adamw", "momo", "sophia", "lbfgs"}


@pytest.mark.parametrize("name", optimizer.optimizer_names(config()))
def test_optimizers_that_need_gradients_do_not_train_the_pause_row_first(name):
  made, _ = optimizer.make_optimizer(config(name=name, kwargs={}), 10)
  params = {"row": nnx.Param(jnp.ones((1, 8)), axes=("vocab", "embed"))}
  updates = three_steps(
    made, params, [jax.tree.map(jnp.zeros_like, params)] * 3
  )
  is_finite = all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
  assert is_finite == (name not in optimizer.NAN_AT_ZERO)
  if not is_finite:
    first = config(name=name, kwargs={}, pause_only_steps=2)
    with pytest.raises(errors.UsageError, match=f"not with optax.{name}"):
      optimizer.make_optimizer(first, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizer.optimizer_names(config()))
def test_states_are_laid_out_over_a_mesh_and_saved(name):
  made, _ = optimizer.make_optimizer(config(name=name, kwargs={}), 10)
  mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, sequence=1, tensor=2))
  shapes = jax.eval_shape(made.init, models.model(d_model=128, num_layers=3))
  with jax.set_mesh(mesh):
    placed = sharding.placed(shapes)
  for x in jax.tree.leaves(placed):
    x.sharding.shard_shape(x.shape)  # Raises where it does not divide.
  jax.eval_shape(leaves.digests, leaves.flatten(shapes))


@pytest.mark.slow
def test_optimizers_with_norms_per_leaf_treat_stacked_layers_separately():
  # Or the comparison above would compare nothing.
  grads = [gradients(step, few_leaves()) for step in range(3)]
  raw = three_steps(optax.lamb(0.01), few_leaves(), grads)[0]
  made, _ = optimizer.make_optimizer(
    config(name="lamb", kwargs={}, learning_rate=0.01, clip_norm=0.0), 10
  )
  ours = three_steps(made, few_leaves(), grads)[0]
  a, b = (x.blocks.query.kernel[...] for x in (raw, ours))
  assert np.abs(a - b).max() > 1e-4 * np.abs(b).max()


def test_muon_moves_block_matrices_and_adam_all_else():
  made, _ = optimizer.make_optimizer(
    config(name="muon", kwargs={}, learning_rate=1.0, clip_norm=0.0), 10
  )
  updates = three_steps(made, few_leaves(), [gradients(0, few_leaves())])[1]
  # Newton-Schulz leaves singular values near 1, Adam's first step one size.
  matrix = np.asarray(updates.blocks.query.kernel[...][0]).reshape(128, -1)
  spectrum = np.linalg.svd(matrix, compute_uv=False)
  assert spectrum.min() > 0.3 and spectrum.max() < 1.3
  for x in (updates.embedding, updates.untied_head, updates.final_norm.scale):
    assert np.ptp(np.abs(x[...])) < 0.1 * np.abs(x[...]).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "lamb", "dog"])
def test_multipliers_scale_the_learning_rate_of_embeddings_and_head(name):
  def updates(**changes):
    fields = dict(name=name, kwargs={}, learning_rate=0.01, clip_norm=0.0)
    made, _ = optimizer.make_optimizer(config(**fields, **changes), 10)
    return three_steps(made, few_leaves(), [gradients(0, few_leaves())])[1]

  one = updates()
  other = updates(embedding_lr_multiplier=0.5, head_lr_multiplier=0.0)
  assert not other.untied_head[...].any()
  if name == "dog":  # One distance a group, hence not one of all.
    return
  a, b = other.embedding[...], one.embedding[...]
  np.testing.assert_allclose(a, 0.5 * b, rtol=1e-5)
  same = jax.tree.leaves(other.blocks), jax.tree.leaves(one.blocks)
  for a, b in zip(*same, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
  ("name", "key"),
  [
    ("adamw", "weight_decay"),
    ("muon", "adam_weight_decay"),
    ("novograd", "weight_decay"),
    ("adafactor", "weight_decay_rate"),
  ],
)
def test_weight_decay_never_moves_vectors(name, key):
  made, _ = optimizer.make_optimizer(config(name=name, kwargs={key: 0.5}), 10)
  zeros = jax.tree.map(jnp.zeros_like, few_leaves())
  updates = three_steps(made, few_leaves(), [zeros])[1]
  assert updates.embedding[...].all() and updates.untied_head[...].all()
  assert not updates.blocks.query.bias[...].any()
  assert not updates.final_norm.scale[...].any()


def test_the_table_names_the_rule_for_every_parameter():
  fields = dict(name="muon", kwargs={"weight_decay": 0.1})
  table = optimizer.treatments(
    config(**fields, head_lr_multiplier=0.5), decoder()
  )
  number = f"{sum(x.size for x in jax.tree.leaves(decoder().untied_head)):,}"
  assert ("head", number, "adam (in muon)", "no", "x 0.5") in table
  assert [row[2:] for row in table if "block matrices" in row] == [
    ("muon", "0.1", "x 1")
  ]


def test_adamw_keeps_the_layout_of_its_state():
  made, _ = optimizer.make_optimizer(config(), 10)
  state = leaves.flatten(jax.eval_shape(made.init, decoder()))
  assert state["1/0/mu/blocks/query/kernel"].shape == (NUM_LAYERS, 128, 1, 128)


def test_weight_decay_touches_matrices_only():
  model = models.model(head_bias=True)
  decayed = optimizer.decay_mask(("heads", "kv_heads", "mlp", "vocab"))(model)
  is_decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/"): flag
    for path, flag in jax.tree_util.tree_flatten_with_path(decayed)[0]
  }
  for name, flag in is_decayed.items():
    is_matrix = "kernel" in name or name.startswith(("embed", "untied_head"))
    assert flag == is_matrix, name


def test_only_decayed_parameters_shrink_under_zero_gradients():
  kwargs = {"weight_decay": 0.5}
  made, _ = optimizer.make_optimizer(config(name="adamw", kwargs=kwargs), 10)
  model = models.model(head_bias=True)
  zeros = jax.tree.map(lambda x: 0 * x, model)
  updates, _ = jax.jit(made.update)(zeros, made.init(model), model)
  assert (updates.blocks.query.kernel[...] != 0).all()
  assert (updates.blocks.query.bias[...] == 0).all()
  assert (updates.final_norm.scale[...] == 0).all()
  assert (updates.head_bias[...] == 0).all()


@pytest.mark.parametrize(
  "schedule", ["cosine", "linear", "rsqrt", "wsd", "constant"]
)
def test_schedules_warm_up_to_the_peak_and_never_exceed_it(schedule):
  made = optimizer.make_schedule(
    config(
      schedule=schedule,
      learning_rate=0.5,
      warmup_steps=5,
      decay_steps=10,
      final_fraction=0.2,
    ),
    50,
  )
  rates = np.asarray(jax.jit(jax.vmap(made))(np.arange(51)))
  assert rates[0] > 0
  assert rates[4] == pytest.approx(0.5) and rates.max() <= 0.5 + 1e-7
  assert (np.diff(rates[:5]) > 0).all() and (np.diff(rates[5:]) <= 1e-8).all()


def test_a_schedule_that_was_not_meant_is_noted():
  wsd = config(schedule="wsd", decay_steps=10)
  assert schedules.schedule_notes(wsd, 100, 0) == []
  assert schedules.schedule_notes(wsd, 100, 90) == []
  (late,) = schedules.schedule_notes(wsd, 100, 91)
  assert "began at step 90" in late and "before step 91" in late
  (unused,) = schedules.schedule_notes(config(decay_steps=10), 100, 0)
  assert "decay_steps=10 has no effect" in unused and "cosine" in unused
  assert schedules.schedule_notes(config(), 100, 50) == []
  (constant,) = schedules.schedule_notes(config(schedule="wsd"), 100, 0)
  assert "is constant after the warm-up" in constant
  (rising,) = schedules.schedule_notes(config(warmup_steps=100), 100, 0)
  assert "only rises" in rising


def test_schedules_end_where_they_say():
  def last(schedule):
    fields = dict(schedule=schedule, learning_rate=1.0, warmup_steps=4)
    fields |= dict(decay_steps=10, final_fraction=0.1)
    return optimizer.make_schedule(config(**fields), 100)

  assert float(last("cosine")(100)) == pytest.approx(0.1)
  assert float(last("linear")(52)) == pytest.approx(0.55)
  assert float(last("linear")(100)) == pytest.approx(0.1)
  assert float(last("wsd")(89)) == pytest.approx(1.0)
  assert float(last("wsd")(100)) == pytest.approx(0.1)
  # Four times the warm-up: half the peak.
  assert float(last("rsqrt")(16)) == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    ({"name": "adamm"}, "did you mean 'adam"),
    ({"name": "scale_by_adam"}, "unknown value 'scale_by_adam'"),
    ({"name": "sm3", "kwargs": {}}, "cannot be used"),
    ({"kwargs": {"b1": "x"}}, "cannot be used"),
    ({"kwargs": {"b3": 0.5}}, "optim.kwargs: optax.adamw takes no 'b3'"),
    ({"kwargs": {"learning_rate": 0.5}}, "takes no 'learning_rate'"),
    ({"schedule": "wsd", "decay_steps": 11}, "decay_steps 11"),
  ],
)
def test_user_errors_are_one_line(changes, fragment):
  with pytest.raises(errors.UsageError) as caught:
    optimizer.make_optimizer(config(**changes), 10)
  assert fragment in str(caught.value) and "\n" not in str(caught.value)
