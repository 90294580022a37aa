"""Arguments of the Python API, checked and converted in one way.

B rows, T positions.
"""

import math
import operator
import os
import pathlib
from typing import Any

import numpy as np

from pausejax import errors

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1

_RANKS = {"[T]": (1,), "[T] or [B, T]": (1, 2)}


def whole_number(
  name: str, value: Any, low: float = 0, high: float = math.inf
) -> int:
  """Returns an integer of Python, NumPy or JAX as an int.

  Raises:
    UsageError: a bool, a float (even 2.0) or another type, or a number outside
      [low, high].
  """
  try:
    number = None if isinstance(value, bool) else operator.index(value)
  except TypeError:
    number = None
  if number is None:
    raise errors.UsageError(
      f"{name}: must be a whole number, got {_short(value)}"
    )
  errors.require_in_range(name, number, low, high)
  return number


def id_array(
  name: str,
  value: Any,
  *,
  shape: str,
  max_id: int = MAX_INT64,
  may_be_empty: bool = False,
) -> np.ndarray:
  """Returns ids as an array, of the dtype that they have.

  Args:
    name: the argument, for messages.
    value: a list, nested lists or an array.
    shape: the shapes that are allowed, a name in `_RANKS`.
    max_id: the largest id that is allowed; the smallest is 0.
    may_be_empty: whether no ids are allowed.

  Raises:
    UsageError: not an array of integers, another shape, or an id out of range.
  """
  try:
    ids = np.asarray(value)
  except (ValueError, TypeError, OverflowError) as e:
    raise errors.UsageError(
      f"{name}: expected whole numbers {shape}: {errors.first_line(e)}"
    ) from e
  if may_be_empty and ids.shape == (0,):
    return ids.astype(int) if ids.dtype.kind == "f" else ids  # [] is float.
  got = f"{ids.dtype} {list(ids.shape)}" if ids.ndim else _short(value)
  errors.require(
    ids.ndim in _RANKS[shape] and ids.dtype.kind in "iu" and ids.size > 0,
    f"{name}: expected whole numbers {shape}, got {got}",
  )
  for wrong in (ids.min(), ids.max()):
    errors.require(
      0 <= wrong <= max_id,
      f"{name}: ids must be from 0 to {errors.number(max_id)}, got {wrong}",
    )
  return ids


def as_list(name: str, value: Any) -> list[Any]:
  """Returns the elements of a list or array; raises UsageError for others."""
  try:
    return list(value)
  except TypeError as e:
    raise errors.UsageError(
      f"{name}: expected a list, got {_short(value)}"
    ) from e


def path(name: str, value: Any) -> str:
  """Returns a path as text; raises UsageError if it cannot name a file."""
  try:
    text = os.fspath(value)
    is_path = b"\0" not in os.fsencode(pathlib.Path(text))
  except (TypeError, UnicodeError) as e:
    raise errors.UsageError(
      f"{name}: expected a path, got {_short(value)}"
    ) from e
  errors.require(is_path, f"{name}: expected a path, got {_short(value)}")
  return text


def _short(value: Any) -> str:
  """Returns the start of a value's `repr`, on one line."""
  return f"{' '.join(repr(value).split()):.60}"
