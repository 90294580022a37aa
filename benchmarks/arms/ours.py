"""The train step of pausejax, built as in `pausejax train`.

B batch, T tokens, D d_model, L layers, V vocabulary rows.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.arms.shapes import Shape
from pausejax import optimizer, sharding, train_state
from pausejax.checkpoints import leaves
from pausejax.config import TrainConfig, load_config, loader, train_config
from pausejax.data.batch import Batch
from pausejax.training import step

# The defaults of the config are GPT's; Llama's choices are settings.
KINDS: dict[str, dict[str, Any]] = {
  "gpt": dict(position="learned", norm="layernorm"),
  "llama": dict(position="rope", norm="rmsnorm", mlp="swiglu", bias=False),
}


def config(
  shape: Shape,
  kind: str = "gpt",
  overrides: Sequence[str] = (),
  *,
  backend: str = "",
) -> TrainConfig:
  """Returns the settings that a user needs on this backend, for a shape.

  On a CPU they are those of configs/smoke.py (float32, unrolled, no
  rematerialization), on an accelerator those of configs/pretrain_c4.py
  (bfloat16, a scan, remat "names").

  Args:
    shape: shape of model and batch.
    kind: "gpt" or "llama".
    overrides: changes such as "--config.model.remat=full".
    backend: "cpu" or another; empty: that of JAX, which then starts.
  """
  is_cpu = (backend or jax.default_backend()) == "cpu"
  c = load_config(f"{'smoke' if is_cpu else 'pretrain_c4'}:pause=false")
  c.data.seq_len = shape.seq_len
  c.batch_size = shape.batch_size
  c.model.num_layers = shape.num_layers
  c.model.scan_unroll = shape.num_layers if is_cpu else c.model.scan_unroll
  c.model.d_model = shape.d_model
  c.model.num_heads = shape.num_heads
  c.model.d_ff = shape.d_ff(kind)
  c.model.tied_embeddings = shape.tied
  c.model.update(KINDS[kind])
  c.optim.schedule = "constant"
  c.optim.warmup_steps = 0
  c.optim.learning_rate = 3e-4
  for override in overrides:
    loader.apply_override(c, override)
  if c.model.dtype == "auto":  # The other arms have no "auto".
    c.model.dtype = "float32" if is_cpu else "bfloat16"
  return train_config(c.to_dict())


class Trainer:
  """A state on a mesh, and the jitted train step."""

  def __init__(
    self,
    config: TrainConfig,
    vocab_size: int,
    devices: Sequence[Any] | None = None,
  ):
    """Initializes a state, by default on all devices; `<pause>` is last."""
    self.config = config
    self.model_config = config.model_config(vocab_size)
    chain, schedule = optimizer.make_optimizer(config.optim, config.num_steps)
    self._mesh = sharding.make_mesh(config.mesh, devices)
    with jax.set_mesh(self._mesh):
      abstract = train_state.abstract(self.model_config, chain)
      self.state = train_state.init_on_mesh(
        self.model_config, chain, config.seed
      )
      self._step = step.jit_train_step(
        config,
        chain,
        schedule,
        pause_id=vocab_size - 1,
        layout=jax.tree.map(lambda x: x.sharding, abstract),
      )

  def compile(self, batch: Batch) -> tuple[float, int]:
    """Compiles the step for batches of this shape.

    Returns:
      Seconds of tracing and compiling, and bytes that a step needs on each
      device, including state and batch.
    """
    start = time.perf_counter()
    with jax.set_mesh(self._mesh):
      placed = sharding.put_batch(batch)
      self._step = self._step.lower(self.state, placed).compile()
    m = self._step.memory_analysis()
    needed = m.argument_size_in_bytes + m.temp_size_in_bytes
    needed += m.output_size_in_bytes - m.alias_size_in_bytes
    return time.perf_counter() - start, needed

  def dispatch(self, batch: Batch) -> jax.Array:
    """Starts a step and returns its loss, which may be awaited."""
    with jax.set_mesh(self._mesh):
      placed = sharding.put_batch(batch)
      self.state, metrics = self._step(self.state, placed)
    return metrics["loss"]

  def step(self, batch: Batch) -> float:
    """Takes a step and returns its loss, in nats per counted target."""
    return float(self.dispatch(batch))


def weights(model: Any) -> dict[str, Any]:
  """Returns the parameters as plain arrays, for the other arms to start from.

  Returns:
    "embedding" [V, D], "position" [T, D], "norm" and "head" [D, V] (not if
    tied), and "layers", a list of L dicts; a norm or linear layer is a dict of
    "scale" or "kernel" [in, out] and, if it has one, "bias".
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
  shared = {new: outer[old] for old, new in renamed.items() if old in outer}
  return {**shared, "layers": layers}
