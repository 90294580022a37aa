"""Parses the arguments after the colon of --config=NAME:key=value,key=value."""

import types
from collections.abc import Mapping
from typing import Any

from pausejax import errors

# In place of an argument: raises UnknownArgument, which has the choices.
ASK = "?"


class UnknownArgument(errors.UsageError):
  """A config has no argument of this name.

  Attributes:
    choices: the arguments that it has, as given to `parse_arg`.
  """

  def __init__(self, key: str, choices: Mapping[str, tuple | str | int]):
    super().__init__(
      f"config argument: unknown value {key!r}{errors.nearest(key, choices)}"
    )
    self.choices = choices


def parse_arg(arg: str, **choices: tuple | str | int) -> types.SimpleNamespace:
  """Parses the text after the colon of --config=NAME:key=value,key=value.

  Args:
    arg: the text; a missing key takes its first choice.
      **choices: key -> its allowed values, all strings or (True, False); or a
      default, if any text or whole number is allowed. `--help` lists them.

  Raises:
    UsageError: an unknown key or value, or a repeated key; the message suggests
      the nearest one.
  """
  values = {k: c[0] if isinstance(c, tuple) else c for k, c in choices.items()}
  given = [part.partition("=") for part in arg.split(",") if part]
  for place, (key, _, text) in enumerate(given):
    if key not in choices:
      raise UnknownArgument(key, choices)
    errors.require(
      key not in [k for k, _, _ in given[:place]],
      f"config argument {key}: given twice in {arg!r}",
    )
    values[key] = _argument(key, text, choices[key])
  return types.SimpleNamespace(**values)


def _argument(key: str, text: str, choice: tuple | str | int) -> Any:
  if isinstance(choice, int):
    errors.require(
      text.removeprefix("-").isdecimal(),
      f"config argument {key}: expected a whole number, got {text!r}",
    )
    return int(text)
  if isinstance(choice, str):
    errors.require(bool(text), f"config argument {key}: got no value")
    return text
  words = {str(v).lower(): v for v in choice}
  errors.require_one_of(f"config argument {key}", text.lower(), words)
  return words[text.lower()]
