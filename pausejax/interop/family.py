"""One architecture of transformers, and its config.json while it is read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pausejax import errors

Values = Mapping[str, Any]


class Given:
  """A config.json while it is read.

  Attributes:
    missing: what the decoder lacks, one text each.
  """

  def __init__(self, values: Values, defaults: Values):
    self._values = {**defaults, **{k: v for k, v in values.items()}}
    self.missing: list[str] = []

  def __getitem__(self, name: str) -> Any:
    if self._values.get(name) is None:
      raise errors.UserError(f"config.json has no {name!r}")
    return self._values[name]

  def get(self, name: str, default: Any = None) -> Any:
    """Returns a value; null counts as left out."""
    value = self._values.get(name)
    return default if value is None else value

  def require(self, name: str, *allowed: Any) -> None:
    """Notes a feature that is missing unless the value is an allowed one."""
    value = self._values.get(name)
    if value not in allowed:
      self.missing.append(f"{name} {value!r}")

  def choose(self, name: str, choices: Mapping[str, str]) -> str:
    """Returns the choice of a value; notes one that has none."""
    self.require(name, *choices)
    return choices.get(self._values.get(name, ""), next(iter(choices.values())))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
  """One `model_type`.

  Attributes:
    architecture: its class with a language-model head in transformers.
    modules: our module -> the name of the module there; "{}" is the layer.
    defaults: values of keys that a config.json may leave out.
    fields: config.json -> fields of `ModelConfig` that differ from the base.
    fused: how queries, keys and values share one matrix: "" if they do not,
      "concatenated", or "interleaved" per head.
    is_transposed: whether matrices are stored as [in, out] (GPT-2).
  """

  architecture: str
  modules: Mapping[str, str]
  defaults: Values
  fields: Callable[[Given], dict[str, Any]]
  fused: str = ""
  is_transposed: bool = False
