"""The text of `--help` about a config: its arguments, fields and values."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from pausejax.config import fields, loader, tree

_LONGEST_NOTE = 40


def config_help(
  spec: str | None,
  config: ConfigDict | None,
  *,
  kind: type,
  uses: Sequence[str] = (),
) -> str:
  """Returns the arguments of a config file and every field with its value.

  Args:
    spec: the config file that --config names, None for none.
    config: the config that it makes; None: the defaults are shown.
    kind: the class that declares the fields.
    uses: fields and groups to show; empty: all.
  """
  defaults = tree.default(kind)
  lines = []
  if spec:
    lines += _arguments(spec)
    lines += ["", f"fields of {spec}, changed by --config.NAME=VALUE;"]
    lines += ["in parentheses the default, where it differs:"]
  else:
    lines += ["fields of the config, changed by --config.NAME=VALUE; give"]
    lines += ["--config=FILE for the values of a file and its arguments:"]
  for name, declared in fields.all_fields(kind):
    if uses and not any(f"{name}.".startswith(f"{u}.") for u in uses):
      continue
    value, default = _value(config or defaults, name), _value(defaults, name)
    note = "" if value == default else f"  ({default!r})"
    if value == default and isinstance(declared.default, fields.Follows):
      note = f"  ({declared.default})"
    note = note if len(note) < _LONGEST_NOTE else ""
    lines += [f"  {name} = {value!r}{note}", f"      {_meaning(declared)}"]
  return "\n".join(lines)


def _meaning(declared: fields.Declared) -> str:
  allowed = declared.allowed()
  return f"{declared.help} [{allowed}]" if allowed else declared.help


def _arguments(spec: str) -> list[str]:
  file, _ = loader.split(spec)
  choices = loader.arguments(spec)
  if not choices:
    return [f"{file} takes no arguments after a colon"]
  kinds = {key: _kind(choice) for key, choice in choices.items()}
  example = ",".join(f"{k}={default}" for k, (default, _) in kinds.items())
  return [
    "arguments of the config, after a colon, with their defaults:",
    f"  --config={file}:{example}",
    *(
      f"  {k} = {default}\n      {what}" for k, (default, what) in kinds.items()
    ),
  ]


def _kind(choice: Any) -> tuple[str, str]:
  """Returns the default of an argument and a text on its allowed values."""
  if isinstance(choice, tuple):
    words = [str(c).lower() for c in choice]
    return words[0], "one of " + ", ".join(words)
  return str(choice), "a whole number" if isinstance(choice, int) else "a text"


def _value(config: ConfigDict, name: str) -> Any:
  value: Any = config
  for key in name.split("."):
    value = value.get(key) if isinstance(value, ConfigDict) else None
  return value.to_dict() if isinstance(value, ConfigDict) else value
