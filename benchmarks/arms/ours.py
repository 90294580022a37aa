"""The train step of pausejax, put together as `pausejax train` does it.

B batch, T tokens, D d_model, L layers, V vocabulary rows.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.arms.shapes import Shape
from configs import smoke
from pausejax import batching, commandline, optimizer, settings, sharding
from pausejax.checkpoints import leaves
from pausejax.training import state, step

# The defaults of configs/base.py are GPT's; Llama's choices are settings.
KINDS: dict[str, dict[str, Any]] = {
  "gpt": dict(position="learned", norm="layernorm"),
  "llama": dict(position="rope", norm="rmsnorm", mlp="swiglu", bias=False),
}


def config(
  shape: Shape, kind: str = "gpt", overrides: Sequence[str] = ()
) -> settings.TrainConfig:
  """Returns what a user of a CPU sets: configs/smoke.py, of another shape.

  Args:
    shape: of model and batch.
    kind: "gpt" or "llama".
    overrides: such as "--config.model.remat=full".
  """
  c = smoke.get_config("pause=false")
  c.data.seq_len = shape.seq_len
  c.batch_size = shape.batch_size
  c.model.num_layers = c.model.scan_unroll = shape.num_layers
  c.model.d_model = shape.d_model
  c.model.num_heads = shape.num_heads
  c.model.d_ff = shape.d_ff(kind)
  c.model.tied_embeddings = shape.tied
  c.model.update(KINDS[kind])
  c.optim.schedule = "constant"
  c.optim.warmup_steps = 0
  c.optim.learning_rate = 3e-4
  for override in overrides:
    commandline.apply_override(c, override)
  return settings.train_config(c.to_dict())


class Trainer:
  """A state on a mesh of all devices, and the jitted step that moves it."""

  def __init__(self, config: settings.TrainConfig, shape: Shape):
    """Makes a fresh state of seed 0."""
    self.config = config
    self.model_config = config.model_config(shape.vocab_size)
    chain, schedule = optimizer.make(config.optim, config.num_steps)
    self._mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(self._mesh):
      abstract = state.abstract(self.model_config, chain, self._mesh)
      self.state = state.init_on_mesh(self.model_config, chain, 0, self._mesh)
    self._step = step.jit_train_step(
      functools.partial(
        step.train_step,
        optimizer=chain,
        schedule=schedule,
        loss=config.loss,
        num_microbatches=config.optim.num_microbatches,
        pause_id=shape.pause_id,
      ),
      jax.tree.map(lambda x: x.sharding, abstract),
      self._mesh,
    )

  def compiled(self, batch: batching.Batch) -> Any:
    """Returns the compiled step, to ask for its memory."""
    with jax.set_mesh(self._mesh):
      placed = sharding.put_batch(batch, self._mesh)
      return self._step.lower(self.state, placed).compile()

  def dispatch(self, batch: batching.Batch) -> jax.Array:
    """Starts a step and returns its loss, which may be awaited."""
    with jax.set_mesh(self._mesh):
      placed = sharding.put_batch(batch, self._mesh)
      self.state, metrics = self._step(self.state, placed)
    return metrics["loss"]

  def step(self, batch: batching.Batch) -> float:
    """Takes a step and returns its loss, in nats per counted target."""
    return float(self.dispatch(batch))


def weights(model: Any) -> dict[str, Any]:
  """Returns the parameters as plain arrays, for the other arms to start from.

  Returns:
    "embedding" [V, D], "position" [T, D], "norm" and "head" [D, V] (not if
    tied), and "layers", a list of L dicts; a norm or linear layer is a dict of
    "scale" or "kernel" [in, out] and, where it has one, "bias".
  """
  named = {k: np.asarray(x) for k, x in leaves.flatten(model).items()}
  inner = {
    name.removeprefix("blocks/"): x
    for name, x in named.items()
    if name.startswith("blocks/")
  }
  num_layers = model.config.num_layers
  d_model = model.config.d_model

  def flat(name: str, x: np.ndarray) -> np.ndarray:
    if not name.endswith("kernel"):
      return x.reshape(-1)
    # Inputs of "mix" are its first two dimensions.
    return x.reshape(-1, d_model) if "mix" in name else x.reshape(len(x), -1)

  layers = [
    leaves.nest({name: flat(name, x[i]) for name, x in inner.items()})
    for i in range(num_layers)
  ]
  outer = leaves.nest(
    {k: x for k, x in named.items() if not k.startswith("blocks/")}
  )
  renamed = {
    "embedding": "embedding",
    "position_embedding": "position",
    "final_norm": "norm",
    "untied_head": "head",
  }
  found = {new: outer[old] for old, new in renamed.items() if old in outer}
  return {**found, "layers": layers}
