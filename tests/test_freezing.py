"""Parameters that are not trained, in the whole run or in its first steps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import errors, freezing, optimizer, sharding, train_state
from pausejax.checkpoints import leaves
from pausejax.config import OptimConfig, default, train_config
from pausejax.training import step
from tests import models, toys
from tests.test_sharding import mesh_of_8, one_device_mesh

FREEZE = ("embedding", "blocks/query", "norm", "mlp")
FROZEN = (
  "embedding",
  "blocks/attention_norm/scale",
  "blocks/contract/bias",
  "blocks/expand/kernel",
  "blocks/query/bias",
  "final_norm/bias",
)
TRAINED = ("blocks/key/kernel", "position_embedding", "untied_head")


def config(**changes):
  """The config of a run whose learning rate shows in every parameter."""
  tree = default()
  tree.optim.update(warmup_steps=0, learning_rate=0.01)
  tree.loss.update(num_chunks=4)
  values = tree.to_dict()
  return train_config({**values, "optim": {**values["optim"], **changes}})


def steps(made_from, num_steps: int, total: int = 10, **model):
  """Returns the states before and after each of the steps, and the metrics."""
  made, schedule = optimizer.make_optimizer(made_from.optim, total)
  state = models.train_state(made, **model)
  state.model.embedding[...] = state.model.embedding[...].at[0].set(-0.0)
  train = jax.jit(
    functools.partial(
      step.train_step,
      optimizer=made,
      schedule=schedule,
      loss=made_from.loss,
      num_microbatches=made_from.optim.num_microbatches,
      pause_id=models.PAUSE_ID,
      trained=freezing.stop_gradients(made_from.optim),
    )
  )
  states, metrics = [state], []
  for i in range(num_steps):
    after, measured = train(states[-1], models.batch(i))
    states.append(after)
    metrics.append(measured)
  return states, metrics


def bits(model) -> dict[str, np.ndarray]:
  """Every parameter as integers: -0.0 and 0.0 differ."""
  return {
    n: np.asarray(x).view(np.uint32) for n, x in leaves.flatten(model).items()
  }


def changed(before, after) -> dict[str, np.ndarray]:
  """Where the bits of each parameter differ."""
  a, b = bits(before.model), bits(after.model)
  return {name: a[name] != b[name] for name in a}


def test_frozen_parameters_keep_their_bits_and_have_no_state():
  states, _ = steps(config(freeze=FREEZE, num_microbatches=2), 2)
  moved = changed(states[0], states[-1])
  for name in FROZEN:
    assert not moved[name].any(), name
  for name in TRAINED:
    assert moved[name].any(), name
  moments = leaves.flatten(states[0].opt_state)
  for name in FROZEN:
    assert not any(n.endswith(f"/{name}") for n in moments), name
  for name in TRAINED:
    assert sum(n.endswith(f"/{name}") for n in moments) == 2, name


@pytest.mark.slow
def test_the_norm_of_the_gradient_is_that_of_the_trained_parameters():
  (before, _), (measured,) = steps(config(freeze=FREEZE), 1)
  objective = lambda model: step._summed_objective(
    model, models.batch(), loss=config().loss, pause_id=models.PAUSE_ID
  )[0]
  grads = jax.jit(jax.grad(objective))(before.model)
  trained = freezing.frozen_and_trained(grads, FREEZE)[1]
  squares = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(trained))
  count = float(measured["num_targets"])
  assert float(measured["grad_norm"]) == pytest.approx(
    math.sqrt(squares) / count, rel=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon", "lamb", "adafactor", "dog"])
def test_any_optimizer_leaves_frozen_blocks_alone(name):
  frozen = config(name=name, kwargs={}, freeze=("blocks",))
  states, _ = steps(frozen, 1)
  for leaf, differs in changed(*states).items():
    assert differs.any() != leaf.startswith("blocks/"), leaf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lamb", "dog"])
def test_layers_are_frozen_and_have_no_state(name):
  frozen = config(name=name, kwargs={}, freeze=("blocks[:-1]", "mlp"))
  states, _ = steps(frozen, 1, num_layers=3)
  for leaf, differs in changed(*states).items():
    if "expand" in leaf or leaf == "blocks/contract/kernel":
      assert not differs.any(), leaf
    elif leaf == "blocks/key/bias":  # Its gradient is 0 but for rounding.
      assert not differs[:2].any()
    elif leaf.startswith("blocks/"):
      assert not differs[:2].any() and differs[2].any(), leaf
    else:
      assert differs.any(), leaf
  moments = leaves.flatten(states[0].opt_state)
  query = [x for n, x in moments.items() if n.endswith("/query/kernel")]
  assert query and {x.shape[0] for x in query} == {1}


@pytest.mark.slow
def test_frozen_parameters_need_less_memory():
  def needed(**changes):
    made_from = config(**changes)
    made, schedule = optimizer.make_optimizer(made_from.optim, 10)
    shape = models.model_config(d_model=128, d_ff=512)
    state = jax.eval_shape(lambda: train_state.init_state(shape, made, 0))
    train = functools.partial(
      step.train_step,
      optimizer=made,
      schedule=schedule,
      loss=made_from.loss,
      num_microbatches=2,
      pause_id=models.PAUSE_ID,
      trained=freezing.stop_gradients(made_from.optim),
    )
    compiled = jax.jit(train, donate_argnums=0).lower(state, models.batch())
    memory = compiled.compile().memory_analysis()
    return memory.argument_size_in_bytes, memory.temp_size_in_bytes

  whole, some = needed(), needed(freeze=("blocks",))
  blocks = models.model(d_model=128, d_ff=512).blocks
  size = 4 * sum(x.size for x in jax.tree.leaves(blocks))
  # Two moments; and their gradients, of which some share memory.
  assert whole[0] - some[0] == pytest.approx(2 * size, rel=0.01)
  assert whole[1] - some[1] > 0.5 * size


@pytest.mark.parametrize(
  "variant", ["llama", pytest.param("paper", marks=pytest.mark.slow)]
)
def test_first_only_the_row_of_pause_is_trained_then_everything(variant):
  model = models.VARIANTS[variant]
  states, metrics = steps(
    config(pause_only_steps=2, pause_only_learning_rate=0.1), 3, **model
  )
  moved = changed(states[0], states[2])
  for name, differs in moved.items():
    if name == "embedding":
      assert differs[models.PAUSE_ID].all()
      assert not np.delete(differs, models.PAUSE_ID, axis=0).any()
    elif name == "untied_head":
      assert differs[:, models.PAUSE_ID].any()
      assert not np.delete(differs, models.PAUSE_ID, axis=1).any()
    else:
      assert not differs.any(), name
  rest = states[2].opt_state.rest
  assert not any(np.any(x) for x in jax.tree.leaves(rest))
  moved = changed(states[2], states[3])
  assert all(differs.any() for differs in moved.values())
  rates = [float(m["learning_rate"]) for m in metrics]
  assert rates == pytest.approx([0.1, 0.1, 0.01])


@pytest.mark.slow
def test_what_follows_is_a_run_of_the_remaining_steps():
  grads = [jax.tree.map(lambda x, i=i: x * i, models.model()) for i in (1, 2)]
  follow = optimizer.make_optimizer(config(pause_only_steps=2).optim, 10)[0]
  alone = optimizer.make_optimizer(config().optim, 8)[0]
  model = models.model()
  state, plain = follow.init(model), alone.init(model)
  for grad in (grads[0], grads[0]):
    state = jax.jit(follow.update)(grad, state, model)[1]
  for grad in grads:
    ours, state = jax.jit(follow.update)(grad, state, model)
    theirs, plain = jax.jit(alone.update)(grad, plain, model)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_a_frozen_embedding_and_its_row_of_pause_first():
  states, _ = steps(config(pause_only_steps=1, freeze=("embedding",)), 2)
  first, second = (changed(*states[i : i + 2]) for i in (0, 1))
  assert first["embedding"][models.PAUSE_ID].all()
  assert not second["embedding"].any() and second["blocks/key/kernel"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes", [dict(freeze=FREEZE), dict(pause_only_steps=1)]
)
def test_eight_devices_train_as_one(changes):
  # Adam would turn with the sign of gradients that are 0 but for rounding.
  made_from = config(name="sgd", kwargs={}, **changes)
  made, schedule = optimizer.make_optimizer(made_from.optim, 10)
  shape = dict(d_model=32, num_heads=8, num_kv_heads=8)

  def run(mesh):
    with jax.set_mesh(mesh):
      abstract = train_state.abstract(models.model_config(**shape), made)
      layout = jax.tree.map(lambda x: x.sharding, abstract)
      train = step.jit_train_step(
        made_from, made, schedule, pause_id=models.PAUSE_ID, layout=layout
      )
      state = jax.device_put(models.train_state(made, **shape), layout)
      for i in range(2):
        state, _ = train(state, sharding.put_batch(models.batch(i)))
      return leaves.flatten(state.model)

  one, eight = run(one_device_mesh()), run(mesh_of_8(2, 2, 2))
  for name in one:
    np.testing.assert_allclose(
      one[name], eight[name], rtol=1e-4, atol=1e-6, err_msg=name
    )


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    (dict(freeze=("embeding",)), "optim.freeze: unknown value 'embeding'"),
    (dict(freeze=("embeding",)), "did you mean 'embedding'?"),
    (dict(freeze=("bias", "blocks[7:]")), "blocks[7:] is none of the 2 layers"),
    (dict(freeze=("blocks[:-9]",)), "blocks[:-9] is none of the 2 layers"),
    (dict(freeze=("blocks/querry",)), "did you mean 'blocks/query'?"),
    (dict(freeze=("",)), "unknown value ''"),
    (dict(freeze=("block[:1]",)), "unknown value 'block[:1]'"),
    (dict(freeze=("blocks[1]",)), "unknown value 'blocks[1]'"),
    (dict(freeze=("embed", "norm", "bias")), "nothing is left to train"),
    (dict(pause_only_steps=11), "is more than num_steps 10"),
  ],
)
def test_user_errors_are_one_line_before_anything_is_computed(
  changes, fragment
):
  with pytest.raises(errors.UsageError) as caught:
    made, _ = optimizer.make_optimizer(config(**changes).optim, 10)
    jax.eval_shape(made.init, models.model())
  assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_names_what_is_frozen():
  freeze = ("embedding", "bias", "blocks[1:]")
  fields = {**default().optim.to_dict(), "freeze": freeze}
  model = models.model()
  rows = optimizer.treatments(OptimConfig(**fields), model)
  number = f"{model.embedding[...].size:,}"
  assert ("token embedding", number, "none: frozen", "no", "x 0") in rows
  total = sum(int(row[1].replace(",", "")) for row in rows[1:])
  assert total == sum(x.size for x in jax.tree.leaves(model))


@pytest.mark.slow
def test_a_run_stopped_in_either_phase_resumes_to_the_same_bits(tmp_path):
  corpus = tmp_path / "corpus"
  toys.write_corpus(corpus)
  words = (
    "--config.num_steps=6",
    "--config.optim.pause_only_steps=3",
    "--config.optim.freeze=blocks/query,norm",
  )
  output = toys.finish(toys.command(corpus, tmp_path / "whole", *words))
  assert "the first 3 steps train only the row of <pause>" in output
  for step_ in (2, 4, 6):
    stop = f"--config.stop_at_step={step_}"
    toys.finish(toys.command(corpus, tmp_path / "parts", *words, stop))
  whole, parts = (toys.rows(tmp_path / name) for name in ("whole", "parts"))
  assert [r["loss"] for r in whole] == [r["loss"] for r in parts]
  digests = [
    toys.last_meta(tmp_path / n)["digests"] for n in ("whole", "parts")
  ]
  assert digests[0] == digests[1]
  standard = "--config.data.pause_fraction=0"
  process = toys.start(toys.command(corpus, tmp_path / "no", *words, standard))
  output, _ = process.communicate()
  assert process.returncode == 2
  assert "no sequence of this run contains" in output
