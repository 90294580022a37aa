"""Whether to stop: the same answer in every process, at the same step.

A signal may reach one process alone, or all of them at different steps. Each
one puts its exit code on its devices, the largest is taken over all of them,
and what comes out is read one question later, when it is long there: nobody
waits, and everybody reads the same. JAX's own preemption sync point is not
used: it installs a handler that hears nothing before `initialize`, and the
handler that was installed last is the only one that is called.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pausejax.runtime.signals import StopFlag


class Agreement:
  """The exit code that all processes agreed on, 0 until there is one."""

  def __init__(self, flag: StopFlag, mesh: Mesh):
    """Asks nothing yet.

    Args:
      flag: set by the signals of this process.
      mesh: all devices of all processes.
    """
    self.exit_code = 0
    self.flag = flag
    self._layout = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    everywhere = NamedSharding(mesh, PartitionSpec())
    self._largest = jax.jit(jnp.max, out_shardings=everywhere)
    self._codes = functools.cache(self._code_on_each_device)
    self._asked: jax.Array | None = None

  def ask(self) -> int:
    """Returns the answer to the question before; 0 the first time.

    Every process must ask equally often. A process alone knows at once.
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
    """Returns int32 [devices], of which this process fills in its own."""
    return jax.make_array_from_callback(
      (self._layout.mesh.size,),
      self._layout,
      lambda _: np.full(1, exit_code, np.int32),
    )
