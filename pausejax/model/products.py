"""The product with a weight, whose gradients are summed in float32.

JAX's gradient of `x @ kernel.astype(x.dtype)` for a bfloat16 input is bfloat16,
and devices sum their parts in that dtype. Here the product is computed in the
compute dtype, but sums over rows, positions and devices are float32. For
float32 activations the result is the same.
"""

import functools

import jax
import jax.numpy as jnp

from pausejax import sharding


def compute_dtype(dtype: str) -> str:
  """Returns the dtype of activations and products for `model.dtype`.

  "auto" is float32 on CPUs and bfloat16 on all other devices: those of the mesh
  in scope, which may be described devices, or else JAX's default.
  """
  if dtype != "auto":
    return dtype
  kind = sharding.device_kind() or jax.default_backend()
  return "float32" if kind == "cpu" else "bfloat16"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None, num_in: int
) -> jax.Array:
  """Returns the product of an input and a weight, in the input's dtype.

  Args:
    x: [*batch, *inputs] in the compute dtype.
    kernel: float32 [*inputs, *outputs].
    bias: float32, the last dimensions of the outputs, or None.
    num_in: number of input dimensions.

  Returns:
    [*batch, *outputs].
  """
  y = jnp.tensordot(x, kernel.astype(x.dtype), num_in)
  return y if bias is None else y + bias.astype(x.dtype)


def _dense_forward(x, kernel, bias, num_in):
  return dense(x, kernel, bias, num_in), (x, kernel, bias)


def _dense_backward(num_in, saved, dy):
  x, kernel, bias = saved
  batch = list(range(x.ndim - num_in))
  outputs = [list(range(len(batch), dy.ndim)), list(range(num_in, kernel.ndim))]
  dx = jnp.tensordot(dy, kernel.astype(x.dtype), outputs)
  # The first factor is transposed, so the smaller one comes first. Not in
  # bfloat16: on CPUs without bfloat16 instructions, XLA cannot run the product
  # that it makes of the transposed result.
  sums = functools.partial(jnp.tensordot, preferred_element_type=kernel.dtype)
  if x.size <= dy.size or x.dtype != jnp.float32:
    dkernel = sums(x, dy, [batch, batch])
  else:
    dkernel = sums(dy, x, [batch, batch])
    dkernel = jnp.moveaxis(dkernel, range(-num_in, 0), range(num_in))
  if bias is None:
    return dx, dkernel, None
  copies = tuple(range(dy.ndim - bias.ndim))
  return dx, dkernel, jnp.sum(dy, copies, dtype=bias.dtype)


dense.defvjp(_dense_forward, _dense_backward)
