"""Config files, and changes to single fields of them.

  configs/smoke.py:pause=false   a Python file's get_config("pause=false")
  run/config.json                the config that a run saved

Config files are Python and are run: treat them as code. What a run saves is
JSON, and reading that runs nothing.
"""

import ast
import difflib
import importlib.util
import json
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import configs
from configs import base
from pausejax import errors
from pausejax.config import schema

# A path may hold a colon, as in runs/10:30/config.json.
_SPEC = re.compile(r"(.*?\.(?:py|json)|[^:]*)(?::(.*))?", re.DOTALL)


def split(spec: str) -> tuple[pathlib.Path, str]:
  """Returns (file, text behind the colon); raises UsageError if none there."""
  found = _SPEC.fullmatch(spec)
  assert found
  name, arg = found[1], found[2] or ""
  path = pathlib.Path(name)
  if not path.is_file():
    shipped = pathlib.Path(os.path.relpath(next(iter(configs.__path__))))
    found = [p for f in (shipped, path.parent) for p in f.glob("[!_]*.py")]
    # By name without folder and suffix: only that may be right.
    names = {p.stem: str(p) for p in found}
    close = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"; did you mean {names[close[0]]!r}?" if close else ""
    known = ", ".join(sorted({*map(str, found)}))
    raise errors.UsageError(
      f"--config: no file {name!r}{hint} (known: {known})"
    )
  errors.require(
    path.suffix in (".py", ".json"),
    f"--config: {path} is neither a .py nor a .json",
  )
  return path, arg


def load_config(spec: str) -> ConfigDict:
  """Returns the locked config that `file.py[:arg]` or `file.json` makes.

  Raises:
    UsageError: no such file, or it does not make a config.
  """
  path, arg = split(spec)
  if path.suffix == ".json":
    errors.require(
      not arg, f"--config: {path} is a saved config and takes no {arg!r}"
    )
    return _from_json(path)
  try:
    config = _module(path).get_config(arg)
  except errors.UserError:
    raise
  except Exception as e:
    raise errors.UsageError(
      f"--config: {path}: {type(e).__name__}: {errors.first_line(e)}"
    ) from e
  errors.require(
    isinstance(config, ConfigDict),
    f"--config: {path}: get_config returned a {type(config).__name__}, not a "
    "ConfigDict",
  )
  return config


def arguments(spec: str) -> Mapping[str, Any]:
  """Returns key -> choices of what may stand behind the colon of a config.

  Empty if the file takes none, or does not read them by `base.parse_arg`.
  """
  path, _ = split(spec)
  if path.suffix == ".json":
    return {}
  try:
    _module(path).get_config(base.ASK)
  except base.UnknownArgument as e:
    return e.choices
  except Exception:  # It reads its argument in a way of its own.
    pass
  return {}


def saved(tree: Any) -> ConfigDict:
  """Returns the config that a run saved, as plain values.

  One of an older version lacks fields; they take the defaults of today.

  Raises:
    UsageError: the tree is no config.
    ValueError, TypeError, OverflowError: a value cannot be part of a config.
  """
  schema.check_fields(tree, may_lack=True)
  config = base.get_config()
  if "kwargs" in tree.get("optim", {}):
    with config.optim.unlocked():
      config.optim.kwargs = ConfigDict()
  with config.optim.kwargs.unlocked():
    config.update(tree)
  return config


def added(tree: Mapping[str, Any], config: ConfigDict) -> list[str]:
  """Returns the fields of a config that the saved tree does not have."""
  there = field_names(ConfigDict(tree))
  return [name for name in field_names(config) if name not in there]


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
  """Returns the dotted names of all fields; the free kwargs are one field."""
  names = []
  for key, value in config.items():
    if isinstance(value, ConfigDict) and key != "kwargs":
      names += field_names(value, f"{prefix}{key}.")
    else:
      names.append(prefix + key)
  return names


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
      if key in node:
        name = ".".join(parents[: depth + 1])
        raise errors.UsageError(f"config.{name} is a value and has no fields")
      _refuse_field(path, key, node, config)
    node = inner
  if parents[-1:] == ["kwargs"]:
    _set_kwarg(node, last, path, text)
  elif last not in node:
    _refuse_field(path, last, node, config)
  elif isinstance(node[last], ConfigDict):
    _replace_tree(node, last, path, text)
  else:
    node[last] = _convert(path, text, node[last])


def nearest_fields(path: str, config: ConfigDict) -> list[str]:
  """Returns the fields that a wrong name may mean, the likeliest first.

  Those of the same last name in any group, such as optim.learning_rate for
  learning_rate; else one of the same group that is spelled alike; else any with
  these initials (lr), spelled alike, or with this word in them (steps).
  """
  group, _, leaf = path.rpartition(".")
  by_leaf: dict[str, list[str]] = {}
  for name in field_names(config):
    by_leaf.setdefault(name.rpartition(".")[2], []).append(name)
  own = [leaf for leaf, names in by_leaf.items() if _is_any_in(names, group)]
  for found in (
    [leaf] if leaf in by_leaf else [],
    difflib.get_close_matches(leaf, own, n=1, cutoff=0.5),
    [n for n in by_leaf if leaf == "".join(w[:1] for w in n.split("_"))],
    difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.7),
    [n for n in by_leaf if leaf in n.split("_")],
  ):
    names = [name for n in found for name in by_leaf[n]]
    inside = [name for name in names if _is_any_in([name], group)]
    if names:
      return inside or names
  return []


def _is_any_in(names: list[str], group: str) -> bool:
  return any(name.rpartition(".")[0] == group for name in names)


def _module(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _refuse_field(path: str, key: str, node: Any, config: ConfigDict) -> None:
  names = nearest_fields(path, config)
  hint = " or ".join(map(repr, names))
  hint = f"; did you mean {hint}?" if names else ""
  groups = difflib.get_close_matches(key, node.keys(), n=1, cutoff=0.5)
  if not names and groups:
    hint = f"; did you mean {groups[0]!r}?"
  known = ", ".join(sorted(node.keys()))
  raise errors.UsageError(
    f"config: unknown field {path!r}{hint} (known: {known})"
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
      element = type(default[0]) if default else str
      errors.require(
        element in (str, int, float),
        f"config.{path}: a list of lists is changed in a config file only",
      )
      return tuple(element(part) for part in parts if part)
    return kind(text)
  except errors.UserError:
    raise
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
  try:
    tree = json.loads(path.read_text("utf-8"))
    config = saved(tree)
  except (ValueError, TypeError, OverflowError, RecursionError) as e:
    raise errors.UsageError(
      f"--config: {path} is not a saved config: {errors.first_line(e)}"
    ) from e
  for name in added(tree, config):
    print(
      f"pausejax: {path} does not have {name}, so it has the default",
      file=sys.stderr,
    )
  return config
