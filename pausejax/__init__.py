"""Pause-token pretraining, finetuning and inference in JAX.

  >>> import pausejax
  >>> pausejax.insert_pauses([5, 6, 7, 8], pause_id=99, pause_fraction=0.5)
  array([99,  5, 99,  6])

Names are imported on first use: `import pausejax` imports neither NumPy nor
JAX. The same is available from a shell, see `pausejax --help`.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# Name -> the module that defines it. `__init__.pyi` lists the same names for
# type checkers; a test compares the two.
_MODULES = {
  "LoadedRun": "inference.loaded",
  "PauseSpec": "pause",
  "PromptPauses": "prompt_pauses",
  "UserError": "errors",
  "insert_pauses": "api",
  "load": "inference.loaded",
  "make_batch": "api",
  "masked_loss": "losses",
  "read_metrics": "api",
  "remove_pauses": "pause",
  "train": "api",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
  """Imports a public name, or the package `pausejax.config`."""
  if name == "config":
    return importlib.import_module("pausejax.config")
  if name not in _MODULES:
    raise AttributeError(f"module 'pausejax' has no attribute {name!r}")
  return getattr(importlib.import_module(f"pausejax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
  """Returns the public names, imported or not."""
  return sorted([*__all__, "__version__", "config"])
