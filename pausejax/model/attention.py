"""Causal attention: one function, three kernels with the same result.

  xla     everywhere: each block of queries against the keys it may attend to;
  splash  TPUs: the Pallas kernel that comes with JAX;
  cudnn   NVIDIA GPUs: cuDNN's fused kernel, in bfloat16.

"auto" selects the fastest kernel that supports the devices and the call.
Positions attend to themselves and to earlier positions in their own segment;
the positions of a bidirectional prefix attend to the whole prefix (Goyal et
al., 2024, figure 1), for which splash has no mask.

B batch, T query tokens, S key tokens, N query heads, K kv heads, H head_dim.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pausejax import errors, sharding

# The name of the output of a call, for policies of rematerialization. JAX's
# cuDNN primitive returns the output and the statistics of its softmax, which
# its gradient needs and which no name reaches.
OUTPUT_NAME = "attended"
CUDNN_PRIMITIVE = "dot_product_attention_fwd_wrapper"

_MAX_BLOCKS = 8  # Of queries: 8 blocks need 9/16 of the full matrix.
_MIN_BLOCK = 64
_SPLASH_BLOCKS = (512, 256, 128)  # Queries and keys at a time, largest first.


def attend(
  q_BTNH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  *,
  kind: str = "auto",
  segment_ids_BT: jax.Array | None = None,
  in_prefix_BT: jax.Array | None = None,
  window: jax.Array | int | None = None,
) -> jax.Array:
  """Returns softmax(q k / sqrt(H)) v of one pass over T tokens, [B, T, N, H].

  Args:
    q_BTNH: queries.
    k_BTKH: keys; each serves N / K query heads.
    v_BTKH: values.
    kind: "auto", "xla", "splash" or "cudnn".
    segment_ids_BT: attention stays within equal ids; None: one segment.
    in_prefix_BT: bool, True on the positions that attend to one another; None:
      no prefix is bidirectional.
    window: int32 scalar: a query attends to no key that is this many or more
      positions before it (sliding-window attention); None: to all of them.

  Raises:
    UsageError: `kind` names a kernel that does not support the call.
  """
  if kind == "auto":
    kind = _fastest(q_BTNH, in_prefix_BT, window)
  why = _obstacles(q_BTNH, in_prefix_BT, window)[kind]
  errors.require(not why, f"model.attention {kind!r}: {why}; choose auto")
  given = q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, in_prefix_BT, window
  if kind == "cudnn":
    return _cudnn(*given)
  if kind == "splash":
    return _splash(*given)
  return checkpoint_name(_xla(*given), OUTPUT_NAME)


def attend_cached(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  *,
  mask_BTS: jax.Array,
  distance_TS: jax.Array,
  window: jax.Array | int | None,
) -> jax.Array:
  """Returns softmax(q k / sqrt(H)) v over the slots that the mask allows.

  Args:
    q_BTNH: queries.
    k_BSKH: keys of all slots.
    v_BSKH: values of all slots.
    mask_BTS: bool, True where t may attend to s.
    distance_TS: int32, places in the row from s to t, as windows count them.
    window: as in `attend`.
  """
  if window is not None:
    mask_BTS &= distance_TS < window
  return jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None]
  )


def attention_mask(
  num_tokens: int,
  segment_ids_BT: jax.Array | None = None,
  in_prefix_BT: jax.Array | None = None,
  window: jax.Array | int | None = None,
) -> jax.Array:
  """Returns bool [B or 1, T, T], True where t may attend to s.

  Args:
    num_tokens: T.
    segment_ids_BT: attention stays within equal ids; None: one segment.
    in_prefix_BT: bool, True on the prefix; None: no prefix is bidirectional.
      If several examples share a row, `segment_ids_BT` is needed, too:
      prefixes within one segment count as one.
    window: as in `attend`.
  """
  return _block_mask(
    0, num_tokens, num_tokens, segment_ids_BT, in_prefix_BT, window
  )


def _fastest(q_BTNH: jax.Array, in_prefix_BT, window) -> str:
  obstacles = _obstacles(q_BTNH, in_prefix_BT, window)
  kind = {"tpu": "splash", "gpu": "cudnn"}.get(sharding.platform(), "xla")
  return "xla" if obstacles[kind] else kind


def _obstacles(q_BTNH: jax.Array, in_prefix_BT, window) -> dict[str, str]:
  """Returns for each kernel why it does not support a call, or ""."""
  num_tokens, head_dim = q_BTNH.shape[1], q_BTNH.shape[3]
  split = "it does not split a sequence (mesh.sequence)"
  is_split = sharding.num_shards("sequence") > 1
  splash = cudnn = split if is_split else ""
  if in_prefix_BT is not None:
    splash = "it has no bidirectional prefix"
  elif isinstance(window, jax.Array):
    splash = "its layers share one window (model.global_every)"
  elif num_tokens % _SPLASH_BLOCKS[-1]:
    splash = f"{num_tokens} tokens are no multiple of {_SPLASH_BLOCKS[-1]}"
  if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
    cudnn = f"it computes in bfloat16, model.dtype is {q_BTNH.dtype}"
  elif num_tokens % 2 or head_dim % 8 or head_dim > 128:
    cudnn = (
      f"it takes an even number of tokens, got {num_tokens}, and heads of a "
      f"multiple of 8 up to 128, got {head_dim}"
    )
  has_tpu = sharding.platform() == "tpu"
  # Its kernel cannot be compiled for a GPU that is only described.
  has_gpu = sharding.platform() == jax.default_backend() == "gpu"
  return {
    "xla": "",
    "splash": splash or ("" if has_tpu else "it needs a TPU"),
    "cudnn": cudnn or ("" if has_gpu else "it needs an NVIDIA GPU"),
  }


def _xla(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, in_prefix_BT, window):
  num_tokens, num_heads = q_BTNH.shape[1:3]
  # Keys and values are repeated per query head: a group axis slows XLA on CPUs.
  q_BNTH, k_BNTH, v_BNTH = (
    jnp.repeat(x.swapaxes(1, 2), num_heads // x.shape[2], axis=1)
    for x in (q_BTNH, k_BTKH, v_BTKH)
  )
  size = num_tokens // _num_blocks(num_tokens, in_prefix_BT)
  mixed = []
  for start in range(0, num_tokens, size):
    end = start + size
    # Keys after the block are visible only to a bidirectional prefix.
    seen = num_tokens if in_prefix_BT is not None else end
    may_BTS = _block_mask(
      start, end, seen, segment_ids_BT, in_prefix_BT, window
    )
    q, k, v = q_BNTH[:, :, start:end], k_BNTH[:, :, :seen], v_BNTH[:, :, :seen]
    mixed.append(_mix(q, k, v, may_BTS))
  return jnp.concatenate(mixed, axis=2).swapaxes(1, 2)


def _num_blocks(num_tokens: int, in_prefix_BT: jax.Array | None) -> int:
  """Returns the largest useful number of query blocks."""
  is_split = sharding.num_shards("sequence") > 1
  if in_prefix_BT is not None or is_split:
    return 1
  most = min(_MAX_BLOCKS, max(1, num_tokens // _MIN_BLOCK))
  return max(n for n in range(1, most + 1) if num_tokens % n == 0)


def _block_mask(start, end, seen, segment_ids_BT, in_prefix_BT, window):
  """Returns rows start .. end of `attention_mask`, up to key `seen`."""
  distance_TS = jnp.arange(start, end)[:, None] - jnp.arange(seen)
  may_BTS = (distance_TS >= 0)[None]
  if in_prefix_BT is not None:
    may_BTS |= in_prefix_BT[:, start:end, None] & in_prefix_BT[:, None, :seen]
  if segment_ids_BT is not None:
    ids_BT = segment_ids_BT
    may_BTS &= ids_BT[:, start:end, None] == ids_BT[:, None, :seen]
  if window is not None:
    may_BTS &= distance_TS < window
  return may_BTS


def _mix(q_BNTH, k_BNSH, v_BNSH, may_BTS):
  scores_BNTS = _scores(q_BNTH, k_BNSH) / math.sqrt(q_BNTH.shape[-1])
  scores_BNTS = jnp.where(may_BTS[:, None], scores_BNTS, -1e30)
  p_BNTS = jax.nn.softmax(scores_BNTS).astype(v_BNSH.dtype)
  return jnp.einsum("bnts,bnsh->bnth", p_BNTS, v_BNSH)


_SCORES = "bnth,bnsh->bnts"


@jax.custom_vjp
def _scores(q_BNTH, k_BNSH):
  """Returns the float32 products of queries and keys.

  Their gradient is rounded to the compute dtype, as in the fused kernels, so
  that no product of the backward pass multiplies float32 by float32.
  """
  return jnp.einsum(_SCORES, q_BNTH, k_BNSH, preferred_element_type=jnp.float32)


def _scores_forward(q_BNTH, k_BNSH):
  return _scores(q_BNTH, k_BNSH), (q_BNTH, k_BNSH)


def _scores_backward(saved, dscores_BNTS):
  _, pull_back = jax.vjp(functools.partial(jnp.einsum, _SCORES), *saved)
  return pull_back(dscores_BNTS.astype(saved[0].dtype))


_scores.defvjp(_scores_forward, _scores_backward)


def _splash(
  q_BTNH,
  k_BTKH,
  v_BTKH,
  segment_ids_BT,
  in_prefix_BT,
  window=None,
  interpret=False,
):
  del in_prefix_BT
  if segment_ids_BT is None:
    segment_ids_BT = jnp.zeros(q_BTNH.shape[:2], jnp.int32)
  one_shard = functools.partial(
    _splash_shard, window=window, interpret=interpret
  )
  args = (q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)
  if not sharding.has_mesh():
    return one_shard(*args)
  q_spec = sharding.spec("batch", None, "heads", None)
  kv_spec = sharding.spec("batch", None, "kv_heads", None)
  return jax.shard_map(
    one_shard,
    in_specs=(q_spec, kv_spec, kv_spec, sharding.spec("batch", None)),
    out_specs=q_spec,
    check_vma=False,  # Pallas kernels do not declare how outputs vary.
  )(*args)


def _splash_shard(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *, window, interpret):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  num_tokens, num_heads, head_dim = q_BTNH.shape[1:]
  size = next(s for s in _SPLASH_BLOCKS if num_tokens % s == 0)
  forward = ("q", "kv", "kv_compute")
  backward = ("q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
  mask = splash.CausalMask((num_tokens, num_tokens))
  if window is not None:
    mask = splash.LocalMask(mask.shape, (window - 1, 0), offset=0)
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([mask] * num_heads),
    block_sizes=splash.BlockSizes(
      **{f"block_{name}": size for name in (*forward, *backward)},
      **{f"{name}_layout": splash.QKVLayout.SEQ_MINOR for name in "qkv"},
    ),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=OUTPUT_NAME,
    interpret=interpret,
  )

  def one_row(q_TNH, k_TKH, v_TKH, ids_T):
    heads_first = [x.swapaxes(0, 1) for x in (q_TNH, k_TKH, v_TKH)]
    out_NTH = kernel(*heads_first, segment_ids=splash.SegmentIds(ids_T, ids_T))
    return jnp.swapaxes(out_NTH, 0, 1)

  q_BTNH = q_BTNH / math.sqrt(head_dim)
  return jax.vmap(one_row)(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)


def _cudnn(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, in_prefix_BT, window):
  fused = functools.partial(
    jax.nn.dot_product_attention, q_BTNH, k_BTKH, v_BTKH, implementation="cudnn"
  )
  num_tokens = q_BTNH.shape[1]
  is_traced = isinstance(window, jax.Array)
  if segment_ids_BT is None and in_prefix_BT is None and not is_traced:
    # The kernel skips what neither causality nor the window allows.
    if window is None or window >= num_tokens:
      return fused(is_causal=True)
    return fused(is_causal=True, local_window_size=(window - 1, 0))
  mask_BTS = attention_mask(num_tokens, segment_ids_BT, in_prefix_BT, window)
  return fused(mask=mask_BTS[:, None])
