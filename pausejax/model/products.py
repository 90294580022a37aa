"""The product with a weight, whose gradients are summed in float32.

JAX's gradient of `x @ kernel.astype(x.dtype)` for a bfloat16 input is bfloat16,
and devices sum their parts in that dtype. Here the product is computed in the
compute dtype, but sums over rows, positions and devices are float32. For
float32 activations the result is the same.

B batch axes, I inputs, O outputs.
"""

import functools

import jax
import jax.numpy as jnp

from pausejax import sharding

_ROWS = 8  # Of the smallest product on a TPU.


def compute_dtype(dtype: str) -> str:
  """Returns the dtype of activations and products for `model.dtype`.

  "auto" is float32 on CPUs and bfloat16 on all other devices: those of the mesh
  in scope, which may be described devices, or else JAX's default.
  """
  if dtype != "auto":
    return dtype
  kind = sharding.device_kind() or jax.default_backend()
  return "float32" if kind == "cpu" else "bfloat16"


@jax.custom_vjp
def dense(
  x_BI: jax.Array, kernel_IO: jax.Array, bias: jax.Array | None
) -> jax.Array:
  """Returns the product of an input and a weight, in the input's dtype.

  Args:
    x_BI: [*batch, I] in the compute dtype.
    kernel_IO: float32 [I, O].
    bias: float32 [O], or [heads, head_dim], or None. TPUs may pad the gradients
      of heads; in bfloat16 their sum over rows is then a product with ones,
      which is faster and no less exact.

  Returns:
    [*batch, O].
  """
  y_BO = x_BI @ kernel_IO.astype(x_BI.dtype)
  return y_BO if bias is None else y_BO + bias.reshape(-1).astype(x_BI.dtype)


def _dense_forward(x_BI, kernel_IO, bias):
  return dense(x_BI, kernel_IO, bias), (x_BI, kernel_IO, bias)


def _dense_backward(saved, dy_BO):
  x_BI, kernel_IO, bias = saved
  dx_BI = dy_BO @ kernel_IO.astype(x_BI.dtype).T
  if x_BI.dtype == jnp.float32 and sharding.num_shards("sequence") == 1:
    # From more batch axes than one, XLA on CPUs transposes a copy of the input,
    # for which it computes the norm again.
    x_BI, dy_BO = (x.reshape(-1, x.shape[-1]) for x in (x_BI, dy_BO))
  batch = tuple(range(x_BI.ndim - 1))
  # The first factor is transposed, so the smaller one comes first. Not in
  # bfloat16: on CPUs without bfloat16 instructions, XLA cannot run the product
  # that it makes of the transposed result.
  sums = functools.partial(
    jnp.tensordot,
    axes=(batch, batch),
    preferred_element_type=kernel_IO.dtype,
  )
  if x_BI.size <= dy_BO.size or x_BI.dtype != jnp.float32:
    dkernel_IO = sums(x_BI, dy_BO)
  else:
    dkernel_IO = sums(dy_BO, x_BI).T
  if bias is None:
    return dx_BI, dkernel_IO, None
  is_on_tpu = sharding.platform() == "tpu"
  if bias.ndim > 1 and is_on_tpu and dy_BO.dtype == jnp.bfloat16:
    # A product with a single row would become a sum again.
    ones_BO = jnp.ones((*dy_BO.shape[:-1], _ROWS), dy_BO.dtype)
    dbias_O = sums(ones_BO, dy_BO)[0]
  else:
    dbias_O = jnp.sum(dy_BO, batch, dtype=bias.dtype)
  return dx_BI, dkernel_IO, dbias_O.reshape(bias.shape)


dense.defvjp(_dense_forward, _dense_backward)
