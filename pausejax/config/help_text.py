"""What `--help` says of a config: its arguments, fields and their values."""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from pausejax.config import loader

_LONGEST_NOTE = 40
_FIELD = re.compile(r"^  c\.([\w.]+) = ")


def text(
  spec: str | None,
  config: ConfigDict | None,
  *,
  fields: str,
  uses: Sequence[str] = (),
) -> str:
  """Returns the arguments of a config file and every field with its value.

  Args:
    spec: the config file that --config names, None for none.
    config: what it makes; None: the defaults of `fields` are shown.
    fields: module whose comments document the fields.
    uses: fields and groups to show; empty: all.
  """
  module = importlib.import_module(fields)
  defaults = module.get_config()
  lines = []
  if spec:
    lines += _arguments(spec)
    lines += ["", f"fields of {spec}, changed by --config.NAME=VALUE;"]
    lines += [f"in parentheses the value in {fields}, where it is another:"]
  else:
    lines += ["fields of the config, changed by --config.NAME=VALUE; give"]
    lines += ["--config=FILE for the values of a file and its arguments:"]
  for name, meaning in _documented(module):
    if uses and not any(f"{name}.".startswith(f"{u}.") for u in uses):
      continue
    value, default = _value(config or defaults, name), _value(defaults, name)
    note = "" if value == default else f"  ({default!r})"
    note = note if len(note) < _LONGEST_NOTE else ""
    lines.append(f"  {name} = {value!r}{note}")
    lines += [f"      {meaning}"] if meaning else []
  return "\n".join(lines)


def _arguments(spec: str) -> list[str]:
  file, _ = loader.split(spec)
  choices = loader.arguments(spec)
  if not choices:
    return [f"{file} takes no arguments behind a colon"]
  kinds = {key: _kind(choice) for key, choice in choices.items()}
  example = ",".join(f"{k}={default}" for k, (default, _) in kinds.items())
  return [
    "arguments of the config, behind a colon, with their defaults:",
    f"  --config={file}:{example}",
    *(
      f"  {k} = {default}\n      {what}" for k, (default, what) in kinds.items()
    ),
  ]


def _kind(choice: Any) -> tuple[str, str]:
  """Returns the default of an argument and what else it may be."""
  if isinstance(choice, tuple):
    words = [str(c).lower() for c in choice]
    return words[0], "one of " + ", ".join(words)
  return str(choice), "a whole number" if isinstance(choice, int) else "a text"


def _documented(module: Any) -> Iterator[tuple[str, str]]:
  """Yields (name, meaning) of each field, "" for one without a comment."""
  comment: list[str] = []
  for line in inspect.getsource(module.get_config).splitlines():
    field = _FIELD.match(line)
    if line.startswith("  # "):
      comment.append(line.removeprefix("  # "))
      continue
    if field and (comment or not line.endswith(" = ConfigDict()")):
      yield field[1], " ".join(comment)
    comment = []


def _value(config: ConfigDict, name: str) -> Any:
  value: Any = config
  for key in name.split("."):
    value = value.get(key) if isinstance(value, ConfigDict) else None
  return value.to_dict() if isinstance(value, ConfigDict) else value
