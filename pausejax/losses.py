"""Masked cross entropy without the full logits.

The head and the softmax run over one chunk of positions at a time, and the
gradient of a chunk is computed while its logits exist: three matrix products
per chunk, and only the gradients of the vectors and of the head are kept. The
full [B, T, V] logits never exist.

On a mesh, each shard scans over its own chunks, and the head's gradient is
reduced once, after the last chunk.

B batch, T tokens, C tokens of a chunk, D d_model, V vocabulary rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pausejax import errors, sharding


def cross_entropy(
  x_BTD: jax.Array,
  head_DV: jax.Array,
  targets_BT: jax.Array,
  loss_mask_BT: jax.Array,
  *,
  head_bias_V: jax.Array | None = None,
  finish: Callable[[jax.Array], jax.Array],
  num_chunks: int,
  z_loss: float,
) -> tuple[jax.Array, jax.Array]:
  """Returns the summed objective and each target's negative log-likelihood.

  The objective is the sum over counted targets of nll + z_loss * log(Z)^2,
  where Z normalizes the softmax (z-loss: Chowdhery et al., 2022, section 5).
  Divide by the number of counted targets once, after all sums are added.

  Args:
    x_BTD: the decoder's final vectors, in the compute dtype.
    head_DV: float32 head.
    targets_BT: int32 ids in [0, V).
    loss_mask_BT: bool, True where the target counts. Other positions
      contribute exactly 0 to the value and to every gradient.
    head_bias_V: float32 bias of the head; None: it has none.
    finish: logits from the products of vectors and head, plus the bias, float32
      [..., V] to the same, element by element: `decoder.finish_logits`. Ids
      that it sets to -inf get probability 0.
    num_chunks: number of chunks, which divides the T of a device; more chunks
      need less memory.
    z_loss: weight of the z-loss, 0 for none.

  Returns:
    (objective, nll_BT): float32 scalar in nats, to differentiate, and float32
    [B, T] for metrics, which is 0 where the target does not count and has no
    gradient.
  """
  return _loss(
    x_BTD,
    (head_DV, head_bias_V),
    targets_BT,
    loss_mask_BT,
    _Options(finish=finish, num_chunks=num_chunks, z_loss=z_loss),
  )


def masked_loss(
  logits_BTV: jax.Array, targets_BT: jax.Array, loss_mask_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the summed loss and the number of targets that count.

  For trainers that hold logits; `cross_entropy` never makes them. Divide the
  sums once, after adding them up over microbatches and devices:

  >>> logits = np.zeros((1, 3, 4), np.float32)
  >>> targets = np.array([[1, 3, 2]])
  >>> mask = targets != 3  # 3 is the id of `<pause>`.
  >>> nats, count = pausejax.masked_loss(logits, targets, mask)
  >>> print(f"{nats / count:.4f} nats over {count} targets")
  1.3863 nats over 2 targets

  Args:
    logits_BTV: float [..., V], unnormalized.
    targets_BT: int [...], ids in [0, V). Another id that counts makes the loss
      NaN.
    loss_mask_BT: bool [...], True where the target counts. Other positions
      contribute exactly 0 to the value and to every gradient.

  Returns:
    (float32 scalar in nats, int32 scalar).

  Raises:
    UsageError: another dtype, or shapes that do not fit together.
  """
  _require_fit(logits_BTV, targets_BT, loss_mask_BT)
  # Replaced before the softmax: a gradient of NaN times 0 would be NaN.
  safe_BTV = jnp.where(loss_mask_BT[..., None], logits_BTV, 0.0)
  log_prob_BTV = jax.nn.log_softmax(safe_BTV.astype(jnp.float32))
  # JAX reads NaN after the last id, but counts negative ids from the end.
  ids_BT = jnp.where(targets_BT < 0, log_prob_BTV.shape[-1], targets_BT)
  ids_BT1 = jnp.where(loss_mask_BT, ids_BT, 0)[..., None]
  nll_BT = -jnp.take_along_axis(log_prob_BTV, ids_BT1, axis=-1)[..., 0]
  total = jnp.sum(jnp.where(loss_mask_BT, nll_BT, 0.0))
  return total, jnp.sum(loss_mask_BT, dtype=jnp.int32)


def _require_fit(logits_BTV: Any, targets_BT: Any, loss_mask_BT: Any) -> None:
  """Raises UsageError unless `masked_loss` accepts arrays of these types."""
  arguments = {
    "logits": (logits_BTV, jnp.floating, "float [..., V]"),
    "targets": (targets_BT, jnp.integer, "int [...]"),
    "loss_mask": (loss_mask_BT, jnp.bool_, "bool [...]"),
  }
  for name, (value, kind, expected) in arguments.items():
    dtype = getattr(value, "dtype", None)
    errors.require(
      dtype is not None and jnp.issubdtype(dtype, kind),
      f"{name}: expected an array, {expected}, got "
      f"{dtype or type(value).__name__}",
    )
  errors.require(
    logits_BTV.ndim > 0
    and logits_BTV.shape[:-1] == targets_BT.shape == loss_mask_BT.shape,
    "expected logits [..., V], targets [...] and loss_mask [...], got "
    f"{[*logits_BTV.shape]}, {[*targets_BT.shape]}, {[*loss_mask_BT.shape]}",
  )


class _Options(NamedTuple):
  """Static arguments of the loss."""

  finish: Callable[[jax.Array], jax.Array]
  num_chunks: int
  z_loss: float


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss(x_BTD, head, targets_BT, loss_mask_BT, options):
  args = x_BTD, head, targets_BT, loss_mask_BT
  return _over_shards(*args, options, with_grads=False)[0]


def _forward(x_BTD, head, targets_BT, loss_mask_BT, options):
  args = x_BTD, head, targets_BT, loss_mask_BT
  return _over_shards(*args, options, with_grads=True)


def _backward(options, grads, cotangents):
  del options
  dx_BTD, dhead = grads
  scale = cotangents[0]
  dhead = jax.tree.map(lambda x: scale * x, dhead)
  return (scale * dx_BTD).astype(dx_BTD.dtype), dhead, None, None


_loss.defvjp(_forward, _backward)


def _over_shards(x_BTD, head, targets_BT, mask_BT, options, with_grads):
  """Returns ((objective, nll_BT), (dx_BTD, gradient of the head) or None)."""
  head_DV, bias_V = head
  # Cast here, so that a sharded head is all-gathered in that dtype.
  head = head_DV.astype(x_BTD.dtype), bias_V
  args = x_BTD, head, targets_BT, mask_BT
  scan = functools.partial(_scan_chunks, options=options, with_grads=with_grads)
  if sharding.num_shards(*sharding.TOKEN_AXES) == 1:
    return scan(*args)
  tokens, whole = sharding.spec("batch", "sequence"), jax.P()

  def one_shard(*args):
    (objective, nll_BT), grads = scan(*args)
    if grads is not None:
      # The only reduction over shards, after all chunks.
      grads = grads[0], jax.lax.psum(grads[1], sharding.TOKEN_AXES)
    return (jax.lax.psum(objective, sharding.TOKEN_AXES), nll_BT), grads

  return jax.shard_map(
    one_shard,
    in_specs=(tokens, whole, tokens, tokens),
    out_specs=((whole, tokens), (tokens, whole) if with_grads else None),
    axis_names=set(sharding.TOKEN_AXES),
  )(*args)


def _scan_chunks(x_BTD, head, targets_BT, mask_BT, *, options, with_grads):
  finish, num_chunks, z_loss = options
  w_DV, bias_V = head
  ids_V = jnp.arange(w_DV.shape[1])

  def one_chunk(carry, chunk):
    objective, dhead = carry
    x_BCD, targets_BC, mask_BC = chunk
    products_BCV = jnp.einsum(
      "bcd,dv->bcv", x_BCD, w_DV, preferred_element_type=jnp.float32
    )
    if bias_V is not None:
      products_BCV += bias_V
    logits_BCV, pull_back = jax.vjp(finish, products_BCV)
    # A comparison, not a gather, stays local when V is sharded.
    is_target_BCV = ids_V == targets_BC[..., None]
    log_z_BC = _log_sum_exp(logits_BCV)
    right_BC = jnp.sum(jnp.where(is_target_BCV, logits_BCV, 0.0), axis=-1)
    nll_BC = jnp.where(mask_BC, log_z_BC - right_BC, 0.0)
    penalty_BC = jnp.where(mask_BC, z_loss * jnp.square(log_z_BC), 0.0)
    objective += jnp.sum(nll_BC + penalty_BC)
    if not with_grads:
      return (objective, dhead), (nll_BC, None)

    p_BCV = jnp.exp(logits_BCV - log_z_BC[..., None])
    dlogits_BCV = p_BCV * (1 + 2 * z_loss * log_z_BC)[..., None] - is_target_BCV
    dlogits_BCV = jnp.where(mask_BC[..., None], dlogits_BCV, 0.0)
    dproducts_BCV = pull_back(dlogits_BCV)[0].astype(x_BCD.dtype)
    dx_BCD = jnp.einsum("bcv,dv->bcd", dproducts_BCV, w_DV)
    dhead_DV, dbias_V = dhead
    dhead_DV += jnp.einsum(
      "bcd,bcv->dv", x_BCD, dproducts_BCV, preferred_element_type=jnp.float32
    )
    if dbias_V is not None:
      dbias_V += jnp.sum(dproducts_BCV, (0, 1), dtype=jnp.float32)
    return (objective, (dhead_DV, dbias_V)), (nll_BC, dx_BCD)

  if num_chunks == 1:
    # Without a loop, nothing is added to zeros of the size of the head.
    start = 0.0, jax.tree.map(lambda _: 0.0, head)
    chunk = x_BTD, targets_BT, mask_BT
    (objective, dhead), (nll_BT, dx_BTD) = one_chunk(start, chunk)
    return (objective, nll_BT), (dx_BTD, dhead) if with_grads else None

  # Zeros that vary over the mesh as the data does, as shard_map requires.
  zero = 0.0 * jnp.sum(mask_BT, dtype=jnp.float32)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape) + zero, head)
  (objective, dhead), (nll, dx) = jax.lax.scan(
    one_chunk,
    (zero, zeros if with_grads else zero),
    _split((x_BTD, targets_BT, mask_BT), num_chunks),
  )
  grads = (_join(dx), dhead) if with_grads else None
  return (objective, _join(nll)), grads


def _log_sum_exp(logits_BCV: jax.Array) -> jax.Array:
  """Returns log(sum(exp(logits))) over the vocabulary."""
  if sharding.platform() == "gpu":
    return _log_sum_exp_in_one_pass(logits_BCV)
  return jax.nn.logsumexp(logits_BCV, axis=-1)


def _log_sum_exp_in_one_pass(logits_BCV: jax.Array) -> jax.Array:
  """Returns log(sum(exp(logits))), and reads the logits once, not twice.

  The sum of a part is relative to the part's maximum (Milakov & Gimelshein,
  2018, section 3). On GPUs, XLA compiles this to one kernel.
  """

  def merge(a, b):
    (high_a, sum_a), (high_b, sum_b) = a, b
    smaller = jnp.exp(-jnp.abs(high_a - high_b))
    total = jnp.where(
      high_a >= high_b, sum_a + sum_b * smaller, sum_a * smaller + sum_b
    )
    return jnp.maximum(high_a, high_b), total

  # Not -inf, whose difference from itself is NaN.
  lowest = jnp.finfo(jnp.float32).min
  parts = jnp.maximum(logits_BCV, lowest), jnp.ones_like(logits_BCV)
  start = jnp.float32(lowest), jnp.float32(0)
  high_BC, sum_BC = jax.lax.reduce(parts, start, merge, (logits_BCV.ndim - 1,))
  return high_BC + jnp.log(sum_BC)


def _split(tree, num_chunks: int):
  """[B, T, ...] -> [num_chunks, B, T / num_chunks, ...]."""
  return jax.tree.map(
    lambda x: jnp.moveaxis(
      x.reshape(x.shape[0], num_chunks, -1, *x.shape[2:]), 1, 0
    ),
    tree,
  )


def _join(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])
