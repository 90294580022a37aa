"""Loads config files and changes single fields of configs.

  mine/long.py:pause=false   a Python file's get_config("pause=false")
  smoke:pause=false          the same for a config shipped with this package
  run/config.json            the config that a run saved

Config files are Python code and are executed. Saved configs are JSON, and
reading one executes nothing.
"""

import ast
import difflib
import importlib.util
import json
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pausejax import errors, files, json_files
from pausejax.config import arguments as config_arguments
from pausejax.config import fields, saved, tree
from pausejax.config.training import TrainConfig

# What ml_collections says of a value that it cannot convert.
_WRONG_TYPE = re.compile(
  r"field .(\w+).[^.]*\. (.*) is of original type .* to type <class .(\w+).>",
  re.DOTALL,
)
# A path may hold a colon, as in runs/10:30/config.json.
_SPEC = re.compile(r"(.*?\.(?:py|json)|[^:]*)(?::(.*))?", re.DOTALL)


def shipped() -> dict[str, pathlib.Path]:
  """Returns name -> file of the configs shipped with this package.

  An installed package holds them as `pausejax/_configs`; in a checkout they are
  the files of `configs/`.
  """
  package = pathlib.Path(__file__).parent.parent
  places = (package / "_configs", package.parent / "configs")
  folder = next((p for p in places if p.is_dir()), places[0])
  return {p.stem: p for p in sorted(folder.glob("[!_]*.py"))}


def split(spec: str) -> tuple[pathlib.Path, str]:
  """Returns (file, text after the colon); raises UsageError without a file."""
  name, arg = _parsed(spec)
  names = shipped()
  if name in names:
    return names[name], arg
  path = pathlib.Path(name)
  if not path.is_file():
    # Names are compared without folder and suffix.
    near = {p.stem: str(p) for p in path.parent.glob("[!_]*.py") if _makes(p)}
    close = difflib.get_close_matches(path.stem, [*names, *near], n=1)
    hint = (
      f"; did you mean {(near.get(close[0]) or close[0])!r}?" if close else ""
    )
    raise errors.UsageError(
      f"--config: no file {name!r}{hint} "
      f"(known: {', '.join([*names, *sorted(near.values())])})"
    )
  errors.require(
    path.suffix in (".py", ".json"),
    f"--config: {path} is neither a .py nor a .json, nor one of "
    f"{', '.join(names)}",
  )
  return path, arg


def argument(spec: str) -> str:
  """Returns the text after the colon of a config, "" if there is none."""
  return _parsed(spec)[1]


def _parsed(spec: str) -> tuple[str, str]:
  """Returns (name, text after the colon), of which each may be ""."""
  match = _SPEC.fullmatch(spec)
  assert match
  return match[1], match[2] or ""


def _makes(path: pathlib.Path) -> bool:
  """Returns whether a Python file defines `get_config`."""
  try:
    return b"def get_config(" in files.read_bounded(path)
  except OSError:
    return False


def _place(path: pathlib.Path, error: BaseException) -> str:
  """Returns the config file and the last of its lines that raised."""
  names = (str(path), str(path.absolute()))
  frames = traceback.extract_tb(error.__traceback__)
  numbers = [f.lineno for f in frames if f.filename in names]
  if isinstance(error, SyntaxError) and error.filename in names:
    numbers.append(error.lineno)
  return f"{path}:{numbers[-1]}" if numbers else str(path)


def _why(error: BaseException) -> str:
  """Returns one line about an error in a config file."""
  unknown = re.search(r'Key "(\w+)" does not exist', str(error))
  if unknown:
    new = fields.renamed(TrainConfig).items()
    now = [n for old, n in new if old.rpartition(".")[2] == unknown[1]]
    names = nearest_fields(unknown[1], tree.default())
    named = " or ".join(f"config.{name}" for name in names)
    hint = f"; did you mean {named}?" if names else ""
    hint = f"; it is now config.{now[0]}" if now else hint
    return f"no field {unknown[1]!r} there{hint}"
  if wrong := _WRONG_TYPE.search(str(error)):
    name, value, expected = wrong.groups()
    return f"{name}: expected {expected}, got {value!r:.60}"
  text = error.msg if isinstance(error, SyntaxError) else error
  line = f"{type(error).__name__}: {errors.first_line(text)}"
  if isinstance(error, ImportError) and error.name == "configs":
    line += "; a config file starts from pausejax.config.default()"
  return line


def is_config(spec: str) -> bool:
  """Returns whether `spec` looks like a config, whether it exists or not."""
  name, _ = _parsed(spec)
  return name.endswith((".py", ".json")) or name in shipped()


def load_config(spec: str) -> ConfigDict:
  """Returns the locked config of `file.py[:arg]` or `file.json`.

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
    module = _module(path)
    errors.require(
      hasattr(module, "get_config"),
      f"--config: {path} defines no get_config(arg), which returns the config",
    )
    config = module.get_config(arg)
  except errors.UserError:
    raise
  except (Exception, SystemExit) as e:
    raise errors.UsageError(f"--config: {_place(path, e)}: {_why(e)}") from e
  errors.require(
    isinstance(config, ConfigDict),
    f"--config: {path}: get_config returned a {type(config).__name__}, not a "
    "ConfigDict",
  )
  return config


def arguments(spec: str) -> Mapping[str, Any]:
  """Returns key -> choices of the arguments after the colon of a config.

  Empty if the file takes none, or does not use `parse_arg`.
  """
  path, _ = split(spec)
  if path.suffix == ".json":
    return {}
  try:
    _module(path).get_config(config_arguments.ASK)
  except config_arguments.UnknownArgument as e:
    return e.choices
  except Exception:  # It does not parse its argument with `parse_arg`.
    pass
  return {}


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
  """Returns the fields that a wrong name may mean, the most likely first.

  Fields with the same last name in any group, such as optim.learning_rate for
  learning_rate; else one in the same group with a similar name; else any with
  these initials (lr), a similar name, or a name that contains it (steps).
  """
  group, _, leaf = path.rpartition(".")
  by_leaf: dict[str, list[str]] = {}
  for name in field_names(config):
    by_leaf.setdefault(name.rpartition(".")[2], []).append(name)
  own = [leaf for leaf, names in by_leaf.items() if _is_any_in(names, group)]
  for similar in (
    [leaf] if leaf in by_leaf else [],
    difflib.get_close_matches(leaf, own, n=1, cutoff=0.5),
    [n for n in by_leaf if leaf == "".join(w[:1] for w in n.split("_"))],
    difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.7),
    [n for n in by_leaf if leaf in n.split("_")],
  ):
    names = [name for n in similar for name in by_leaf[n]]
    inside = [name for name in names if _is_any_in([name], group)]
    if names:
      return inside or names
  return []


def _is_any_in(names: list[str], group: str) -> bool:
  return any(name.rpartition(".")[0] == group for name in names)


def _module(path: pathlib.Path) -> types.ModuleType:
  files.read_bounded(path)  # Raises if it is too large.
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _refuse_field(path: str, key: str, node: Any, config: ConfigDict) -> None:
  if new := fields.renamed(TrainConfig).get(path):
    raise errors.UsageError(f"config: the field {path!r} is now {new!r}")
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
    names = ", ".join(f"{path}.{k}" for k in node[key])
    raise errors.UsageError(
      f"config.{path} is a group of fields, got {text!r}; set one of {names}"
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
      element = type(default[0]) if default else str
      errors.require(
        element in (str, int, float),
        f"config.{path}: a list of lists can only be changed in a config file",
      )
      return tuple(element(part) for part in _parts(text) if part != "")
    return kind(text)
  except errors.UserError:
    raise
  except (ValueError, KeyError):
    name = "true or false" if kind is bool else kind.__name__
    raise errors.UsageError(
      f"config.{path}: expected {name}, got {text!r}"
    ) from None


def _parts(text: str) -> list[Any]:
  """Returns the elements of "a,b" or (a, b), or of a JSON list: ["a, b"]."""
  parsed = _literal(text) if text.startswith("[") else text
  if isinstance(parsed, list) and all(isinstance(p, str | int) for p in parsed):
    return parsed
  return [part.strip(" \"'") for part in text.strip("()").split(",")]


def _literal(text: str) -> Any:
  """Returns `text` parsed as a JSON or Python value, else unchanged."""
  for parse in (json.loads, float, ast.literal_eval):
    try:
      return parse(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
      continue
  return text


def _from_json(path: pathlib.Path) -> ConfigDict:
  try:
    values = json_files.loads(files.read_bounded(path))
  except ValueError as e:
    raise _not_saved(path, e) from e
  if isinstance(values, dict):
    values = saved.current(values, f"--config: {path}")
  try:
    config = saved.read_saved(values)
  except (ValueError, TypeError, OverflowError, RecursionError) as e:
    raise _not_saved(path, e) from e
  there = {*field_names(ConfigDict(values))}
  newer = [name for name in field_names(config) if name not in there]
  if newer:
    given = ", ".join(
      _with_meaning(n, tree.get_field(config, n)) for n in newer
    )
    print(
      f"pausejax: {path} was saved before these fields existed: {given}",
      file=sys.stderr,
    )
  return config


def _with_meaning(name: str, value: Any) -> str:
  """Returns "log.every=1", with what the help says of a special value."""
  declared = dict(fields.all_fields(TrainConfig)).get(name)
  about = declared and re.search(
    rf"; {re.escape(repr(value))}: ([^;.]+)", declared.help
  )
  return f"{name}={value!r}" + (f" ({about[1]})" if about else "")


def _not_saved(path: pathlib.Path, error: Exception) -> errors.UsageError:
  return errors.UsageError(
    f"--config: {path} is not a saved config: {errors.first_line(error)}; it "
    "is damaged, or was saved by a newer pausejax"
  )
