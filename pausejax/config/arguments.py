"""Parses the arguments after the colon of --config=NAME:key=value,key=value."""

import itertools
import types
from collections.abc import Mapping, Sequence
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
      f"config argument: unknown name {key!r}{errors.nearest(key, choices)}"
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
  given = pairs(arg)
  for place, (key, text) in enumerate(given):
    if key not in choices:
      raise UnknownArgument(key, choices)
    errors.require(
      key not in [k for k, _ in given[:place]],
      f"config argument {key}: given twice in {arg!r}",
    )
    values[key] = _argument(key, text, choices[key])
  return types.SimpleNamespace(**values)


def pairs(arg: str) -> list[tuple[str, str]]:
  """Returns (key, value) of each part of key=value,key=value, in order."""
  parts = [part.partition("=") for part in arg.split(",") if part]
  return [(key, value) for key, _, value in parts]


def last_value(words: Sequence[str], option: str) -> str:
  """Returns the last value of an option in words, "" if it is not given."""
  value = ""
  for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
    if word.startswith(option + "="):
      value = word.removeprefix(option + "=")
    elif word == option and not following.startswith("-"):
      value = following
  return value


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
