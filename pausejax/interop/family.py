"""One architecture of transformers, and its config.json while it is read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pausejax import errors

Values = Mapping[str, Any]

_MAX_SIZE = 2**24  # Of any axis; what is beyond is a damaged file.
_MAX_NUMBER = 1e12
_SHORT = 60  # Characters of a value in a message.


class Given:
  """An object of JSON while it is read: a config.json, or a part of it.

  A value of a wrong type or range raises a UserError. A value that the decoder
  cannot compute is noted, so that one message names all of them.

  Attributes:
    missing: what the decoder lacks, one text each.
  """

  def __init__(
    self,
    values: Values,
    defaults: Values,
    prefix: str = "",
    missing: list[str] | None = None,
  ):
    self._values = {**defaults, **values}
    self._prefix = prefix
    self.missing: list[str] = [] if missing is None else missing

  def get(self, name: str) -> Any:
    """Returns a value of any type; None if it is null or left out."""
    return self._values.get(name)

  def whole(
    self, name: str, default: int | None = None, maximum: int = _MAX_SIZE
  ) -> int:
    """Returns a whole number from 1 on; the default if it is null."""
    value = self._or_default(name, default)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= maximum:
      raise self._wrong(name, f"a whole number from 1 to {maximum}")
    return value

  def number(self, name: str, default: float | None = None) -> float:
    """Returns a finite number above 0; the default if it is null."""
    value = self._or_default(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _MAX_NUMBER:
      raise self._wrong(name, "a number above 0")
    return float(value)

  def flag(self, name: str) -> bool:
    """Returns a truth value; null is false."""
    value = self._or_default(name, False)
    if not isinstance(value, bool):
      raise self._wrong(name, "true or false")
    return value

  def per_layer(self, name: str, num_layers: int, kind: type) -> list[Any]:
    """Returns the first values of a list, one per layer; [] if it is null."""
    values = self._or_default(name, [])
    is_list = isinstance(values, list) and len(values) >= num_layers
    if values != [] and not (
      is_list and all(isinstance(x, kind) for x in values)
    ):
      raise self._wrong(
        name, f"a list of {kind.__name__}, one for each of {num_layers} layers"
      )
    return values[:num_layers]

  def part(self, name: str) -> "Given":
    """Returns an object in the object; an empty one if it is null."""
    value = self._or_default(name, {})
    if not isinstance(value, Mapping):
      raise self._wrong(name, "an object")
    return Given(value, {}, f"{self._prefix}{name}.", self.missing)

  def over(self, other: "Given") -> "Given":
    """Returns the object with what only the other one has."""
    values = other._values | {n: self._values[n] for n in self.names()}
    return Given(values, {}, self._prefix, self.missing)

  def names(self) -> list[str]:
    """Returns the keys whose value is not null."""
    return [n for n, value in self._values.items() if value is not None]

  def require(self, name: str, *allowed: Any) -> None:
    """Notes a feature that is missing unless the value is an allowed one."""
    value = self.get(name)
    if not any(value is x or _equal(value, x) for x in allowed):
      self.missing.append(f"{self._prefix}{name} {_short(value)}")

  def choose(self, name: str, choices: Mapping[str, str]) -> str:
    """Returns the choice of a text; notes one that has none."""
    value = self._or_default(name, None)
    if not isinstance(value, str):
      raise self._wrong(name, "a text")
    if value not in choices:
      self.missing.append(f"{self._prefix}{name} {_short(value)}")
    return choices.get(value, next(iter(choices.values())))

  def _or_default(self, name: str, default: Any) -> Any:
    value = self._values.get(name)
    return default if value is None else value

  def _wrong(self, name: str, expected: str) -> errors.UserError:
    value = self._values.get(name)
    got = _short(value) if name in self._values else "nothing"
    return errors.UserError(
      f"config.json: {self._prefix}{name} must be {expected}, got {got}"
    )


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


def _equal(value: Any, allowed: Any) -> bool:
  """Returns whether JSON values are the same; 1 is not true, but 1.0 is 1."""
  return isinstance(value, bool) == isinstance(allowed, bool) and (
    value == allowed
  )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
