"""Config trees: the default, the checks, and the conversion to classes.

A tree is a ConfigDict, or nested mappings of plain values as in JSON; files and
command lines change it. All other code reads the classes (`training.py`).
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference

from pausejax import errors
from pausejax.config import fields
from pausejax.config.model import ModelConfig
from pausejax.config.training import TrainConfig

_ACCEPTED = {int: int, float: (int, float), str: str, bool: bool}


def default(kind: type = TrainConfig) -> Any:
  """Returns the locked ConfigDict of every field with its default.

  Args:
    kind: the class that declares the fields.
  """
  root = ConfigDict()
  _add_defaults(root, root, kind)
  return root.lock()


def _add_defaults(root: ConfigDict, node: ConfigDict, kind: type) -> None:
  own, inner = fields.own_fields(kind), fields.groups(kind)
  for field in dataclasses.fields(kind):
    name = field.name
    if name in own:
      value = own[name].default
      if isinstance(value, fields.Follows):
        value = _reference(root, value)
      node[name] = ConfigDict(value) if isinstance(value, Mapping) else value
    elif name in inner:
      node[name] = ConfigDict()
      _add_defaults(root, node[name], inner[name])


def _reference(root: ConfigDict, follows: fields.Follows) -> Any:
  """Returns a value that changes with the field that it refers to."""

  def reference(name: str) -> Any:
    node, last = _place(root, name)
    return node.get_oneway_ref(last)

  value, divisor = reference(follows.name), follows.divided_by
  if follows.times != 1:
    value = value * follows.times
  if isinstance(divisor, str):
    return FieldReference(value, op=_Op(_quotient, [reference(divisor)]))
  return value // divisor if divisor != 1 else value


class _Op(NamedTuple):
  """An operation that a reference applies when its value is read."""

  fn: Callable[..., Any]
  args: list[Any]


def _quotient(value: int, divisor: int) -> int:
  """Returns the quotient; 0 by a field that is 0, which its check refuses."""
  return value // divisor if divisor else 0


def get_field(config: ConfigDict, name: str) -> Any:
  """Returns the value of a field by its dotted name."""
  node, last = _place(config, name)
  return node[last]


def put(config: ConfigDict, name: str, value: Any) -> None:
  """Sets a field by its dotted name."""
  node, last = _place(config, name)
  node[last] = value


def _place(config: ConfigDict, name: str) -> tuple[Any, str]:
  """Returns (the group of a field, its name in the group)."""
  *parents, last = name.split(".")
  node: Any = config
  for parent in parents:
    node = node[parent]
  return node, last


def train_config(tree: Mapping[str, Any]) -> TrainConfig:
  """Returns the checked config of a tree of plain values.

  Raises:
    UsageError: a field is unknown, missing, or has a wrong type or value.
  """
  check_fields(tree)
  # First, since fields of groups may follow them.
  fields.check_values(TrainConfig, tree)
  built = {
    name: kind(**tree[name])
    for name, kind in fields.groups(TrainConfig).items()
    if kind is not ModelConfig  # It needs the tokenizer's vocabulary.
  }
  return TrainConfig(**{**tree, **built})


def check_fields(tree: Any, *, may_lack: bool = False) -> None:
  """Raises unless the tree has exactly the known fields, each of its type.

  Args:
    tree: nested mappings.
    may_lack: whether fields may be missing, as in a config that an older
      version saved; the data and the model may not.

  Raises:
    UsageError: a field is wrong; the message names the first one.
  """
  _check_group(TrainConfig, tree, may_lack and {"data", "model"} <= {*tree})
  for name, kind in fields.groups(TrainConfig).items():
    if name in tree:
      _check_group(kind, tree[name], may_lack)


def _check_group(kind: type, values: Any, may_lack: bool) -> None:
  errors.require(
    isinstance(values, Mapping),
    f"config: expected fields, got a {type(values).__name__}",
  )
  prefix = f"{kind.GROUP}." if kind.GROUP else ""
  groups = fields.groups(kind)
  known = {**fields.own_fields(kind), **groups}
  types = {f.name: f.type for f in dataclasses.fields(kind) if f.name in known}
  for name in values:
    if name not in types:
      new = fields.renamed(kind).get(name)
      hint = f"; it is now {prefix + new!r}" if new else ""
      hint = hint or errors.nearest(name, types)
      raise errors.UsageError(f"config: unknown field '{prefix}{name}'{hint}")
  for name, expected in types.items():
    if may_lack and name not in values:
      continue
    errors.require(
      name in values, f"config: the field {prefix + name!r} is missing"
    )
    is_group = name in groups
    _check_type(prefix + name, values[name], Mapping if is_group else expected)


def _check_type(name: str, value: Any, expected: Any) -> None:
  if typing.get_origin(expected) is tuple:
    kind, accepted = "tuple", (tuple, list)
  elif expected in _ACCEPTED:
    kind, accepted = expected.__name__, _ACCEPTED[expected]
  else:
    kind, accepted = "a group of fields", Mapping
  if isinstance(value, str):
    _require_text(name, value)
  is_bool = isinstance(value, bool)
  errors.require(
    isinstance(value, accepted) and is_bool == (expected is bool),
    f"{name}: expected {kind}, got {value!r}",
  )


def _require_text(name: str, value: str) -> None:
  """Raises unless a text can be printed and be part of a file name."""
  errors.require(
    "\0" not in value and not re.search("[\ud800-\udfff]", value),
    f"{name}: {value!r} contains a NUL or half a surrogate pair; remove it",
  )
