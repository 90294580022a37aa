"""Pause-token pretraining, finetuning and inference in JAX.

  >>> import pausejax
  >>> pausejax.insert_pauses([5, 6, 7, 8], pause_id=99, pause_fraction=0.5)
  array([99,  5, 99,  6])

Names are imported when they are first used: `import pausejax` alone imports
neither NumPy nor JAX. The same from a shell: `pausejax --help`.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# Name -> the module that defines it. `__init__.pyi` says the same to type
# checkers, and a test that they agree.
_MODULES = {
  "LoadedRun": "inference.loaded",
  "PauseSpec": "pause",
  "PromptPauses": "pause",
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
  return sorted([*globals(), *_MODULES, "config"])
