"""The simplest fast JAX trainer: a GPT of functions and dicts.

It has no scan, chunked loss or pauses: layers in a Python loop, one product for
queries, keys and values, the full logits, optax's cross entropy and AdamW, and
one jit that donates the old state. `lower` splits it over devices, gathers the
weights of a layer where it uses them, and saves the outputs of products and of
splash attention for the backward pass.

B batch, T tokens, D d_model, F d_ff, N heads, H head size, V vocabulary rows.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from pausejax import sharding
from pausejax.config import ModelConfig, TrainConfig
from pausejax.data.batch import Batch
from pausejax.training.compiler_options import compiler_options


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
    step, optimizer = _step(config, config.model["dtype"], attention)
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


def lower(
  config: TrainConfig, model_config: ModelConfig, devices: Sequence[Any]
) -> jax.stages.Lowered:
  """Returns the step on TPUs that need not exist, all of them in fsdp."""
  mesh = sharding.make_mesh(config.mesh, devices)
  step, optimizer = _step(config, model_config.dtype, "splash")

  def placed(x: Any) -> jax.ShapeDtypeStruct:
    spec = PartitionSpec("fsdp") if x.ndim == 2 else PartitionSpec()
    layout = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

  params = jax.tree.map(placed, shapes(model_config))
  moments = jax.tree.map(placed, jax.eval_shape(optimizer.init, params))
  ids = placed(np.zeros((config.batch_size, config.data.seq_len), np.int32))
  with jax.set_mesh(mesh):
    return jax.jit(
      step, donate_argnums=(0, 1), compiler_options=compiler_options()
    ).lower(params, moments, ids, ids)


def shapes(c: ModelConfig) -> dict[str, Any]:
  """Returns the float32 parameters that `joined` returns, as shapes."""
  D, F, V = c.d_model, c.d_ff, c.num_vocab_rows
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  linear = lambda i, o: {"kernel": array(i, o), "bias": array(o)}
  norm = {"scale": array(D), "bias": array(D)}
  layer = {
    "attention_norm": norm,
    "qkv": linear(D, 3 * D),
    "mix": linear(D, D),
    "mlp_norm": norm,
    "expand": linear(D, F),
    "contract": linear(F, D),
  }
  head = {} if c.tied_embeddings else {"head": array(D, V)}
  return {
    "embedding": array(V, D),
    "position": array(c.max_seq_len, D),
    "layers": [layer] * c.num_layers,
    "norm": norm,
    **head,
  }


def _step(config: TrainConfig, dtype: str, attention: str):
  """Returns (the step, its optimizer)."""
  optim = config.optim
  optimizer = optax.chain(
    optax.clip_by_global_norm(optim.clip_norm),
    optax.adamw(optim.learning_rate, mask=_is_decayed, **optim.kwargs),
  )
  loss_fn = functools.partial(
    _loss,
    num_heads=config.model["num_heads"],
    dtype=dtype,
    attention=attention,
  )

  def step(params, opt_state, tokens_BT, targets_BT):
    loss, grads = jax.value_and_grad(loss_fn)(params, tokens_BT, targets_BT)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  return step, optimizer


def _loss(params, tokens_BT, targets_BT, *, num_heads, dtype, attention):
  """Returns the mean over all targets, in nats."""
  run_layer = functools.partial(
    _layer, num_heads=num_heads, dtype=dtype, attention=attention
  )
  if attention == "splash":
    run_layer = jax.checkpoint(run_layer, policy=_SAVED)
  p = {k: _used(v, dtype) for k, v in params.items() if k != "layers"}
  x_BTD = p["embedding"][tokens_BT] + p["position"][: tokens_BT.shape[1]]
  for layer in params["layers"]:
    x_BTD = run_layer(layer, x_BTD)
  head_DV = p["head"] if "head" in p else p["embedding"].T
  logits_BTV = jnp.matmul(
    _norm(p["norm"], x_BTD), head_DV, preferred_element_type=jnp.float32
  )
  nll_BT = optax.softmax_cross_entropy_with_integer_labels(
    logits_BTV, targets_BT
  )
  return nll_BT.mean()


def _used(params, dtype):
  """Returns parameters in the compute dtype, whole on each device."""
  p = jax.tree.map(lambda x: x.astype(dtype), params)
  if not sharding.has_mesh():
    return p
  return jax.lax.with_sharding_constraint(p, PartitionSpec())


def _layer(params, x_BTD, *, num_heads, dtype, attention):
  p = _used(params, dtype)
  y_BTD = _norm(p["attention_norm"], x_BTD)
  x_BTD += _linear(p["mix"], _attend(p["qkv"], y_BTD, num_heads, attention))
  y_BTD = _norm(p["mlp_norm"], x_BTD)
  y_BTF = jax.nn.gelu(_linear(p["expand"], y_BTD))
  return x_BTD + _linear(p["contract"], y_BTF)


def _attend(qkv, x_BTD, num_heads, attention):
  heads = (*x_BTD.shape[:2], num_heads, -1)
  q, k, v = (
    x.reshape(heads) for x in jnp.split(_linear(qkv, x_BTD), 3, axis=-1)
  )
  if attention == "splash":
    mixed_BTNH = jax.shard_map(
      _splash,
      in_specs=PartitionSpec("fsdp"),
      out_specs=PartitionSpec("fsdp"),
      check_vma=False,
    )(q, k, v)
  else:
    mixed_BTNH = jax.nn.dot_product_attention(
      q, k, v, is_causal=True, implementation=attention
    )
  return mixed_BTNH.reshape(x_BTD.shape)


_SAVED = jax.checkpoint_policies.save_from_both_policies(
  jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  jax.checkpoint_policies.save_only_these_names("attended"),
)


def _splash(q_BTNH, k_BTNH, v_BTNH):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  _, num_tokens, num_heads, head_dim = q_BTNH.shape
  mask = splash.CausalMask((num_tokens, num_tokens))
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([mask] * num_heads),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name="attended",
  )
  q_BTNH *= head_dim**-0.5
  heads_first = [x.swapaxes(1, 2) for x in (q_BTNH, k_BTNH, v_BTNH)]
  return jax.vmap(kernel)(*heads_first).swapaxes(1, 2)


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
