"""Agreement between processes on whether to stop, at the same step.

A signal may reach one process only, or all of them at different steps. Each
process puts its exit code on its devices, and the maximum over all devices is
computed asynchronously. The result is read at the next call, so no process
blocks and all read the same value. JAX's own preemption sync point is not used:
its handler receives no signal before `initialize`, and only the handler
installed last is called.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pausejax import sharding
from pausejax.runtime.signals import StopFlag


class Agreement:
  """The exit code that all processes agreed on; 0 while there is none."""

  def __init__(self, flag: StopFlag):
    """Prepares the reduction; runs nothing yet.

    The mesh in scope has all devices of all processes.

    Args:
      flag: the flag that the signals of this process set.
    """
    self.exit_code = 0
    self.flag = flag
    mesh = sharding.current_mesh()
    self._layout = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._largest = jax.jit(jnp.max, out_shardings=sharding.replicated())
    self._codes = functools.cache(self._code_on_each_device)
    self._asked: jax.Array | None = None

  def ask(self) -> int:
    """Returns the result of the previous call; 0 at the first call.

    Every process must call it equally often. In a run of one process the
    current exit code is returned.
    """
    if jax.process_count() == 1:
      self.exit_code = self.flag.exit_code
      return self.exit_code
    codes = self._codes(self.flag.exit_code)
    answer, self._asked = self._asked, self._largest(codes)
    if answer is not None:
      self.exit_code = int(answer)
    return self.exit_code

  def _code_on_each_device(self, exit_code: int) -> jax.Array:
    """Returns int32 [devices]; this process sets the values of its own."""
    return jax.make_array_from_callback(
      (self._layout.mesh.size,),
      self._layout,
      lambda _: np.full(1, exit_code, np.int32),
    )
