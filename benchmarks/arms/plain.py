"""The simplest fast JAX trainer: a GPT of functions and dicts.

It has no scan, mesh, chunked loss or pauses: layers in a Python loop, one
product for queries, keys and values, the full logits, optax's cross entropy and
AdamW, and one jit that donates the old state.

B batch, T tokens, D d_model, F d_ff, N heads, H head size, V vocabulary rows.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pausejax.config import TrainConfig
from pausejax.data.batch import Batch


class Trainer:
  """Parameters and moments, and the jitted train step."""

  def __init__(
    self,
    config: TrainConfig,
    weights: dict[str, Any],
    *,
    attention: str = "xla",
  ):
    """Starts from `weights`, as `ours.weights` returns them."""
    optim = config.optim
    optimizer = optax.chain(
      optax.clip_by_global_norm(optim.clip_norm),
      optax.adamw(optim.learning_rate, mask=_is_decayed, **optim.kwargs),
    )
    loss_fn = functools.partial(
      _loss,
      num_heads=config.model["num_heads"],
      dtype=config.model["dtype"],
      attention=attention,
    )

    def step(params, opt_state, tokens_BT, targets_BT):
      loss, grads = jax.value_and_grad(loss_fn)(params, tokens_BT, targets_BT)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state, loss

    self._params = jax.tree.map(jnp.array, joined(weights))
    self._opt_state = jax.jit(optimizer.init)(self._params)
    self._step = jax.jit(step, donate_argnums=(0, 1))

  def dispatch(self, batch: Batch) -> jax.Array:
    """Starts a step and returns its loss, which may be awaited."""
    self._params, self._opt_state, loss = self._step(
      self._params, self._opt_state, batch["tokens"], batch["targets"]
    )
    return loss

  def step(self, batch: Batch) -> float:
    """Takes a step and returns its loss, in nats per target."""
    return float(self.dispatch(batch))


def _loss(params, tokens_BT, targets_BT, *, num_heads, dtype, attention):
  """Returns the mean over all targets, in nats."""
  p = jax.tree.map(lambda x: x.astype(dtype), params)
  x_BTD = p["embedding"][tokens_BT] + p["position"][: tokens_BT.shape[1]]
  for layer in p["layers"]:
    y_BTD = _norm(layer["attention_norm"], x_BTD)
    mixed_BTD = _attend(layer["qkv"], y_BTD, num_heads, attention)
    x_BTD += _linear(layer["mix"], mixed_BTD)
    y_BTD = _norm(layer["mlp_norm"], x_BTD)
    y_BTF = jax.nn.gelu(_linear(layer["expand"], y_BTD))
    x_BTD += _linear(layer["contract"], y_BTF)
  head_DV = p["head"] if "head" in p else p["embedding"].T
  logits_BTV = jnp.matmul(
    _norm(p["norm"], x_BTD), head_DV, preferred_element_type=jnp.float32
  )
  nll_BT = optax.softmax_cross_entropy_with_integer_labels(
    logits_BTV, targets_BT
  )
  return nll_BT.mean()


def _attend(qkv, x_BTD, num_heads, attention):
  heads = (*x_BTD.shape[:2], num_heads, -1)
  q, k, v = jnp.split(_linear(qkv, x_BTD), 3, axis=-1)
  mixed_BTNH = jax.nn.dot_product_attention(
    q.reshape(heads),
    k.reshape(heads),
    v.reshape(heads),
    is_causal=True,
    implementation=attention,
  )
  return mixed_BTNH.reshape(x_BTD.shape)


_JOINED = ("query", "key", "value")


def joined(weights: dict[str, Any]) -> dict[str, Any]:
  """Returns the weights with one "qkv" instead of three products per layer."""

  def join(layer: dict[str, Any]) -> dict[str, Any]:
    parts = [layer[name] for name in _JOINED]
    whole = {
      name: np.concatenate([part[name] for part in parts], axis=-1)
      for name in parts[0]
    }
    rest = {
      k: x for k, x in layer.items() if k not in ("query", "key", "value")
    }
    return {**rest, "qkv": whole}

  return {**weights, "layers": [join(layer) for layer in weights["layers"]]}


def _linear(layer, x):
  return x @ layer["kernel"] + layer["bias"]


def _norm(layer, x):
  y = jax.nn.standardize(x.astype(jnp.float32), epsilon=1e-5)
  return (y * layer["scale"] + layer["bias"]).astype(x.dtype)


def _is_decayed(params):
  tree = jax.tree.map(lambda x: x.ndim == 2, params)
  return {**tree, "position": False}
