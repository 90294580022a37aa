"""Config files and command lines into checked values.

  --config=configs/smoke.py:pause=false   a Python file's get_config(arg)
  --config=run/config.json                the config that a run saved
  --config.optim.learning_rate=1e-3       a change to one field

Config files are Python and are run: treat them as code. What a run saves is
JSON, and reading that runs nothing.
"""

import argparse
import ast
import importlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from pausejax import errors, settings

TakeOver = Callable[[argparse.Namespace, ConfigDict], None]

_FIELD = re.compile(r"^  c\.([\w.]+) = ")


class Parser(argparse.ArgumentParser):
  """argparse with one-line errors that name the nearest right word."""

  def __init__(
    self,
    verb: str,
    description: str | None,
    *,
    config: bool,
    fields: str = "configs.base",
  ):
    """Makes the parser of a verb.

    Args:
      verb: its name.
      description: what `--help` opens with.
      config: whether it takes --config.
      fields: module whose comments document the fields of that config.
    """
    super().__init__(
      prog=f"pausejax {verb}",
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      epilog=_help_of_fields(fields) if config else None,
    )
    if config:
      self.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="config file"
      )

  def error(self, message: str):
    """Raises a UsageError in place of printing the usage."""
    raise errors.UsageError(f"{self.prog}: {message} (see {self.prog} --help)")

  def parse(
    self, argv: list[str], take_over: TakeOver | None = None
  ) -> tuple[argparse.Namespace, ConfigDict]:
    """Returns the options and, where the verb takes one, the config.

    Args:
      argv: the words behind the verb.
      take_over: changes the config by what options and config say; changes
        from the command line win over it.
    """
    overrides = [a for a in argv if a.startswith("--config.")]
    rest = [a for a in argv if not a.startswith("--config.")]
    options, unknown = self.parse_known_args(rest)
    for arg in unknown:
      self._refuse(arg)
    if not hasattr(options, "config"):
      for arg in overrides:
        self._refuse(arg)
      return options, ConfigDict()
    config = load_config(options.config)
    for arg in overrides:
      apply_override(config, arg)
    if take_over is not None:
      take_over(options, config)
      for arg in overrides:
        apply_override(config, arg)
    return options, config

  def _refuse(self, arg: str) -> None:
    name = arg.partition("=")[0]
    known = [o for action in self._actions for o in action.option_strings]
    if name.startswith("config.") or "--" + name in known:
      hint = f"; did you mean --{arg}?"
    elif name.startswith("-config"):
      hint = f"; did you mean -{arg}?"
    else:
      hint = errors.nearest(name, [k for k in known if k.startswith("--")])
    raise errors.UsageError(f"unexpected argument {arg!r}{hint}")


def shard(text: str) -> tuple[int, int]:
  """Returns (i, n) of "i/n", 1 <= i <= n."""
  found = re.fullmatch(r"(\d+)/(\d+)", text)
  errors.require(
    bool(found) and 1 <= int(found[1]) <= int(found[2]),
    f"--shard: expected i/n with 1 <= i <= n, as in 2/8, got {text!r}",
  )
  assert found
  return int(found[1]), int(found[2])


def load_config(spec: str) -> ConfigDict:
  """Returns the locked config that `file.py[:arg]` or `file.json` makes.

  Raises:
    UsageError: no such file, or it does not make a config.
  """
  name, _, arg = spec.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    siblings = [str(p) for p in path.parent.glob("*.py")]
    hint = f"; nor is there any config in {path.parent.resolve()}"
    if siblings:
      hint = errors.nearest(name, siblings)
    raise errors.UsageError(f"--config: no file {name!r}{hint}")
  if path.suffix == ".json":
    return _from_json(path)
  module_spec = importlib.util.spec_from_file_location(path.stem, path)
  if module_spec is None or module_spec.loader is None:
    raise errors.UsageError(f"--config: {name} is neither a .py nor a .json")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = module.get_config(arg)
  except errors.UserError:
    raise
  except Exception as e:
    reason = str(e).strip().splitlines() or [""]
    raise errors.UsageError(
      f"--config: {name}: {type(e).__name__}: {reason[0]}"
    ) from e
  errors.require(
    isinstance(config, ConfigDict),
    f"--config: {name}: get_config returned a {type(config).__name__}, not a "
    "ConfigDict",
  )
  return config


def apply_override(config: ConfigDict, arg: str) -> None:
  """Sets one field from `--config.a.b=value`.

  Raises:
    UsageError: no such field, or a value of another type.
  """
  path, equals, text = arg.removeprefix("--config.").partition("=")
  if not equals:
    raise errors.UsageError(f"{arg}: give its value as {arg}=VALUE")
  *parents, last = path.split(".")
  node: Any = config
  for depth, key in enumerate(parents):
    inner = node.get(key)
    if not isinstance(inner, ConfigDict):
      _refuse_field(".".join(parents[: depth + 1]), key, node)
    node = inner
  if parents[-1:] == ["kwargs"]:
    _set_kwarg(node, last, path, text)
  elif last not in node:
    _refuse_field(path, last, node)
  elif isinstance(node[last], ConfigDict):
    _replace_tree(node, last, path, text)
  else:
    node[last] = _convert(path, text, node[last])


def _refuse_field(path: str, key: str, node: Any) -> None:
  if key in node:
    raise errors.UsageError(f"config.{path} is a value and has no fields")
  raise errors.UsageError(
    f"config: unknown field {path!r}{errors.nearest(key, node.keys())}"
  )


def _replace_tree(node: Any, key: str, path: str, text: str) -> None:
  """Replaces the free-form `kwargs` by a JSON object."""
  value = _literal(text)
  if key != "kwargs" or not isinstance(value, dict):
    fields = ", ".join(f"{path}.{k}" for k in node[key])
    raise errors.UsageError(
      f"config.{path} is a group of fields, got {text!r}; set one of {fields}"
    )
  with node.unlocked():
    node[key] = ConfigDict(value)


def _set_kwarg(kwargs: ConfigDict, key: str, path: str, text: str) -> None:
  """Adds one of the free-form `kwargs`, or changes it within its type."""
  try:
    with kwargs.unlocked():
      kwargs[key] = _literal(text)
  except TypeError:
    raise errors.UsageError(
      f"config.{path}: expected {type(kwargs[key]).__name__}, got {text!r}"
    ) from None


def _convert(path: str, text: str, default: Any) -> Any:
  """Returns `text` as a value of the type of `default`."""
  kind = type(default)
  try:
    if kind is bool:
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if kind is tuple:
      parts = (part.strip(" \"'") for part in text.strip("()").split(","))
      return tuple(part for part in parts if part)
    return kind(text)
  except (ValueError, KeyError):
    name = "true or false" if kind is bool else kind.__name__
    raise errors.UsageError(
      f"config.{path}: expected {name}, got {text!r}"
    ) from None


def _literal(text: str) -> Any:
  """Returns the JSON or Python value that `text` spells, else the text."""
  for parse in (json.loads, float, ast.literal_eval):
    try:
      return parse(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
      continue
  return text


def _from_json(path: pathlib.Path) -> ConfigDict:
  from configs import base

  try:
    saved = json.loads(path.read_text())
    settings.check_fields(saved)
    config = base.get_config()
    with config.optim.unlocked():
      config.optim.kwargs = ConfigDict()
    with config.optim.kwargs.unlocked():
      config.update(saved)
    return config
  except (ValueError, TypeError, RecursionError) as e:
    reason = str(e).splitlines() or [""]
    raise errors.UsageError(
      f"--config: {path} is not a saved config: {reason[0]}"
    ) from e


def _help_of_fields(module: str) -> str:
  """Returns every field of a config module: name, default, meaning."""
  base = importlib.import_module(module)
  source = pathlib.Path(str(base.__file__)).read_text().splitlines()
  config = base.get_config()
  lines, comment = ["fields of the config, changed by --config.NAME=VALUE:"], []
  for line in source:
    field = _FIELD.match(line)
    if line.startswith("  # "):
      comment.append(line.removeprefix("  # "))
      continue
    if field and comment:
      value = config
      for key in field[1].split("."):
        value = value[key]
      text = value.to_dict() if isinstance(value, ConfigDict) else value
      lines += [f"  {field[1]} = {text!r}", f"      {' '.join(comment)}"]
    comment = []
  return "\n".join(lines)
