"""Reads JSON files and checks that they have the expected shape.

A shape is a type (`float` is finite, and may be a whole number; whole numbers
have at most 64 bits; `object` is anything), None, a tuple of alternative
shapes, [shape] for a list, {str: shape} for an object with any keys, or
{"name": shape, "other?": shape} for an object with at least the key `name`, and
optionally `other`.
"""

import collections
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import errors, files

Shape = Any

_NAMES = {
  str: "a text",
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  dict: "an object",
  list: "a list",
  None: "null",
}


def read(
  path: os.PathLike[str] | str,
  shape: Shape,
  fix: str,
  *,
  format: tuple[str, int] | None = None,
) -> Any:
  """Returns the value of a JSON file.

  Args:
    path: path of the file.
    shape: the shape that the value must have.
    fix: how to fix a damaged file, as the end of the message.
    format: (name, newest): the field with the number of the file's format, 1 if
      it is missing, and the newest known number; checked before the shape.

  Raises:
    UserError: the file cannot be read, is too large (`files.MAX_BYTES`) or not
      JSON, or has a newer format or another shape.
  """
  try:
    text = files.read_bounded(path)
  except OSError as e:
    raise errors.UserError(f"{path} cannot be read: {e}; {fix}") from e
  if format is None:
    return parse(text, shape, str(path), fix)
  name, newest = format
  value = parse(text, dict, str(path), fix)
  require_format(str(path), value.get(name, 1), newest)
  return _checked(value, shape, str(path), fix)


def parse(text: str | bytes, shape: Shape, where: str, fix: str) -> Any:
  """Returns the value of a JSON text, as `read` does.

  Raises:
    UserError: as in `read`; the message starts with `where`.
  """
  try:
    value = loads(text)
  except ValueError as e:
    raise errors.UserError(
      f"{where} is damaged: not JSON ({errors.first_line(e)}); {fix}"
    ) from e
  return _checked(value, shape, where, fix)


def _checked(value: Any, shape: Shape, where: str, fix: str) -> Any:
  """Returns the value; raises UserError if it has another shape."""
  if problem := mismatch(value, shape):
    raise errors.UserError(f"{where} is damaged: {problem}; {fix}")
  return value


def loads(text: str | bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: not JSON, not Unicode, nested too deeply, or an object has a
      key twice.
  """
  try:
    return json.loads(text, object_pairs_hook=_once)
  except RecursionError:
    raise ValueError("nested too deeply") from None


def flat_fields(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"a.b": value} of nested objects, with tuples as lists."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flat_fields(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = list(value) if isinstance(value, tuple) else value
  return flat


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the object; raises if a key occurs twice."""
  result = dict(pairs)
  if len(result) < len(pairs):
    ((key, count),) = collections.Counter(k for k, _ in pairs).most_common(1)
    raise ValueError(f"the key {key!r} occurs {count} times")
  return result


def require_format(
  where: str,
  number: Any,
  newest: int,
  error: type[errors.UserError] = errors.UserError,
) -> None:
  """Raises unless a file has a format that this version reads.

  Args:
    where: the file, as the start of the message.
    number: the number of its format.
    newest: the newest number that this version supports.
    error: the error class to raise.

  Raises:
    UserError: a newer version of pausejax wrote the file, or `number` is not a
      valid format.
  """
  if not isinstance(number, int) or isinstance(number, bool) or number < 1:
    raise error(f"{where} is damaged: its format is {number!r:.60}")
  if number > newest:
    raise error(
      f"{where} has format {number}, this version of pausejax reads formats 1 "
      f"to {newest}; nothing was changed; install the version that wrote it, "
      "or a newer one"
    )


def mismatch(value: Any, shape: Shape, name: str = "") -> str:
  """Returns how a value differs from a shape, "" if it fits.

  Args:
    value: a JSON value; tuples count as lists.
    shape: the shape that it must have.
    name: name of the value, as the start of the message.
  """
  if isinstance(shape, tuple):
    problems = [mismatch(value, one, name) for one in shape]
    return "" if "" in problems else f"{name or 'it'}: {_got(shape, value)}"
  if not _is_kind(value, shape):
    return f"{name or 'it'}: {_got(shape, value)}"
  if isinstance(shape, list):
    items = [(f"{name}[{i}]", x, shape[0]) for i, x in enumerate(value)]
  elif isinstance(shape, dict):
    items, missing = _fields(value, shape, name)
    if missing:
      return f"{name}.{missing} is missing".lstrip(".")
  else:
    return ""
  return next(filter(None, (mismatch(x, s, n) for n, x, s in items)), "")


def _fields(
  value: Mapping[str, Any], shape: Mapping[Any, Shape], name: str
) -> tuple[list[tuple[str, Any, Shape]], str]:
  """Returns ((name, value, shape) of each field, the first missing one)."""
  prefix = f"{name}." if name else ""
  if str in shape:
    return [(prefix + k, x, shape[str]) for k, x in value.items()], ""
  items = []
  for key, expected in shape.items():
    field = key.removesuffix("?")
    if field in value:
      items.append((prefix + field, value[field], expected))
    elif field == key:
      return [], field
  return items, ""


def _is_kind(value: Any, shape: Shape) -> bool:
  if shape is object:
    return True
  if shape is None:
    return value is None
  if isinstance(shape, list) or shape is list:
    return isinstance(value, Sequence) and not isinstance(value, str)
  if isinstance(shape, dict):
    return isinstance(value, Mapping)
  if isinstance(value, bool):
    return shape is bool
  if isinstance(value, str):
    return shape is str and _is_text(value)
  if isinstance(value, int):
    return shape in (int, float) and not _is_too_long(value)
  if isinstance(value, float):
    return shape is float and math.isfinite(value)
  return isinstance(value, shape)


def _is_too_long(value: Any) -> bool:
  return isinstance(value, int) and value.bit_length() > 64


def _is_text(value: str) -> bool:
  """Returns whether a text can be encoded: it has no lone surrogate."""
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def _got(shape: Shape, value: Any) -> str:
  kinds = shape if isinstance(shape, tuple) else (shape,)
  known = [*_NAMES]  # A list: shapes may not be hashable.
  names = [_NAMES[kind if kind in known else type(kind)] for kind in kinds]
  more = ", which has more than 64 bits" if _is_too_long(value) else ""
  return f"expected {' or '.join(names)}, got {value!r:.60}{more}"
