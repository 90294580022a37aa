"""Leaves out what TensorFlow's C++ logs while it is imported.

Its libraries look for GPUs, which this package hides from it, and log that they
have none, before any setting of TensorFlow's can change that.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Information and warnings in the format of absl (I0000, W0000); and the errors
# (E0000) of the search for CUDA.
_NOISE = re.compile(
  rb"WARNING: All log messages before absl::InitializeLog"
  rb"|To enable the following instructions:"
  rb"|([IW]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IW] )"
  rb"|(E\d{4} |\d{4}-\d\d-\d\d [\d:.]+: E ).*"
  rb"(cuInit|CUDA error|cuda_|cudart|cuDNN|cuBLAS|cuFFT|TensorRT)"
)


@contextlib.contextmanager
def filtered() -> Iterator[None]:
  """Holds back standard error; at the end prints all but the lines above."""
  try:
    original = os.dup(2)
  except OSError:  # It is closed.
    yield
    return
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
      os.dup2(original, 2)
      os.close(original)
      held.seek(0)
      rest = [line for line in held if not _NOISE.match(line)]
      with contextlib.suppress(OSError):
        os.write(2, b"".join(rest))
