"""Parses HLO text: its computations, and the trip counts of its loops.

If the compiler does not write the trip count of a loop (TPU), it follows from
the condition: the two integers that it compares are evaluated before and after
the first iteration, through tuples, copies and fusions. Their difference
changes by the same amount in every iteration.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$"
)
_CALLED = re.compile(
  r"(?:calls|to_apply|branch_computations|true_computation|"
  r"false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'known_trip_count[^\d}]*?"?n"?\W+(\d+)')
_INTEGER = re.compile(r"(pred|[su]\d+)\[\]")
_CONTINUED = re.compile(r"kernel_metadata=\{\n(.*)\n\}")  # Mosaic kernels.
_LOCATION = re.compile(
  r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)", re.MULTILINE
)
_FRAME = re.compile(r"^(\d+) \{file_location_id=(\d+)", re.MULTILINE)
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d\w*)\[([\d,]*)\]")
_UNCHANGED = (
  *("copy", "copy-done", "convert", "bitcast", "bitcast-convert", "reshape"),
  *("get-tuple-element", "opt-barrier", "optimization-barrier", "domain"),
)
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
  "add": lambda a, b: a + b,
  "subtract": lambda a, b: a - b,
  "multiply": lambda a, b: a * b,
  "maximum": max,
  "minimum": min,
}
# Iterations while `difference` is below 0 (and so on), if it grows by `step`.
_TRIP_COUNTS: dict[str, Callable[[int, int], int]] = {
  "LT": lambda difference, step: -(difference // step),
  "LE": lambda difference, step: -difference // step + 1,
  "NE": lambda difference, step: -difference // step,
}
_MIRRORED = {"GT": "LT", "GE": "LE", "NE": "NE"}

# Known part of a value: an integer, the elements of a tuple, or None.
Known = int | list[Any] | None


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO: %name = type op(operands), attributes."""

  name: str
  type: str  # As written: arrays with layouts; a tuple in parentheses.
  op: str
  rest: str  # Operands and attributes.
  is_root: bool

  def attribute(self, pattern: str) -> str | None:
    """Returns the first group of the pattern, None if it does not match."""
    match = re.search(pattern, self.rest)
    return match[1] if match else None

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    given = [text.split() for text in elements(f"({self.rest}")]
    return [words[-1].lstrip("%") for words in given if words]

  @property
  def called(self) -> list[str]:
    """Names of the computations that it calls, except those of a loop."""
    return [
      name
      for match in _CALLED.findall(self.rest)
      for name in re.findall(r"[\w.\-]+", match)
    ]


class Module:
  """The computations of a module.

  Attributes:
    computations: name -> (name -> instruction, in program order).
    entry: name of the entry computation.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {"": {}}
    self._known: dict[tuple[int, str, str], tuple[Any, Known]] = {}
    self.entry = name = ""
    for line in _CONTINUED.sub(r"kernel_metadata={\1}", text).splitlines():
      if header := _COMPUTATION.match(line):
        name = header[2]
        self.computations[name] = {}
        if header[1]:
          self.entry = name
      elif name and (match := _INSTRUCTION.match(line)):
        label, type_, op, rest = match.groups()
        root = line.lstrip().startswith("ROOT ")
        self.computations[name][label] = Instruction(
          label, type_, op, rest, root
        )

  def loop(
    self, computation: str, loop: Instruction, given: Sequence[Known]
  ) -> tuple[int | None, Known]:
    """Returns the trip count of a while, and the loop-invariant values.

    Args:
      computation: the computation that contains the loop.
      loop: the while.
      given: known values of the parameters of the computation.

    Returns:
      The trip count, None if unknown; and the known values of the parameter of
      its body that are the same in every iteration.
    """
    body = loop.attribute(r"body=%?([\w.\-]+)") or ""
    first = self._value(computation, loop.operands[0], given)
    if not isinstance(first, list):
      first = [None] * len(elements(loop.type))
    first = self._with_counters(body, first)
    second = self._step(body, first)
    same = [a if a == b else None for a, b in zip(first, second, strict=True)]
    if match := _TRIPS.search(loop.rest):
      return int(match[1]), same
    condition = loop.attribute(r"condition=%?([\w.\-]+)") or ""
    trips = self._num_trips(condition, first, second)
    return self._limit(condition) if trips is None else trips, same

  def parameters(
    self, computation: str, call: Instruction, given: Sequence[Known]
  ) -> list[Known]:
    """Returns the known parameter values of what an instruction calls."""
    return [self._value(computation, n, given) for n in call.operands]

  def _step(self, body: str, state: list[Known]) -> list[Known]:
    """Returns the known values of a loop's state after one iteration."""
    result = self._result(body, [state])
    return result if isinstance(result, list) else [None] * len(state)

  def _with_counters(self, body: str, state: list[Known]) -> list[Known]:
    """Returns the state with 0 for unknown values that change.

    These are counters whose initial value is not in the text.
    """
    zeros = [0 if value is None else value for value in state]
    after = self._step(body, zeros)
    return [
      0 if value is None and next_value not in (None, 0) else value
      for value, next_value in zip(state, after, strict=True)
    ]

  def _num_trips(self, condition: str, first, second) -> int | None:
    """Returns the trip count from the states of the first two iterations."""
    before = self._compared(condition, [first])
    after = self._compared(condition, [second])
    if before is None or after is None:
      return None
    direction, difference = before
    sign = -1 if direction in ("GT", "GE") else 1
    step = sign * (after[1] - difference)
    direction = _MIRRORED.get(direction, direction)
    if direction == "NE" and step < 0:
      sign, step = -sign, -step
    if direction not in _TRIP_COUNTS or step <= 0:
      return None
    return max(0, _TRIP_COUNTS[direction](sign * difference, step))

  def _limit(self, condition: str) -> int | None:
    """Returns the only integer in a condition: the limit of a counter."""
    scope = self.computations.get(condition, {})
    known = [self._value(condition, name, []) for name in scope]
    numbers = [value for value in known if isinstance(value, int)]
    return numbers[0] if len(numbers) == 1 else None

  def _compared(self, name: str, given) -> tuple[str, int] | None:
    """Returns (direction, left - right) of the compare at the root."""
    scope = self.computations.get(name, {})
    root = next((one for one in scope.values() if one.is_root), None)
    while root is not None and root.op in _UNCHANGED:
      root = scope.get(root.operands[0])
    if root is None:
      return None
    if root.op in ("fusion", "call"):
      return self._compared(root.called[0], self.parameters(name, root, given))
    if root.op != "compare":
      return None
    left, right = self.parameters(name, root, given)
    direction = root.attribute(r"direction=(\w+)")
    if direction is None or not isinstance(left, int):
      return None
    return (direction, left - right) if isinstance(right, int) else None

  def _result(self, name: str, given: Sequence[Known]) -> Known:
    """Returns the known value of the result of a computation."""
    for one in self.computations.get(name, {}).values():
      if one.is_root:
        return self._value(name, one.name, given)
    return None

  def _value(self, computation: str, name: str, given) -> Known:
    """Returns the known value of an integer, or of a tuple with integers."""
    # Many instructions may take one result. The entry holds `given`, so that
    # no other list gets its id.
    key = id(given), computation, name
    if key not in self._known:
      one = self.computations.get(computation, {}).get(name)
      value = one and self._evaluate(computation, one, given)
      self._known[key] = given, value
    return self._known[key][1]

  def _evaluate(self, computation: str, one: Instruction, given) -> Known:
    if one.op == "parameter":
      index = int(one.rest.partition(")")[0])
      return given[index] if index < len(given) else None
    if not _INTEGER.search(one.type):
      return None
    if one.op == "constant":
      text = one.rest.partition(")")[0]
      return int(text) if re.fullmatch(r"-?\d+", text) else None
    if one.op in ("fusion", "call"):
      operands = self.parameters(computation, one, given)
      return self._result(one.called[0], operands)
    if one.op not in (*_UNCHANGED, *_ARITHMETIC, "tuple"):
      return None
    operands = self.parameters(computation, one, given)
    if one.op == "tuple":
      return operands
    if one.op == "get-tuple-element":
      index = int(one.attribute(r"index=(\d+)") or 0)
      whole = operands[0]
      return whole[index] if isinstance(whole, list) else None
    if one.op in _UNCHANGED:
      return operands[0]
    a, b = operands
    if not isinstance(a, int) or not isinstance(b, int):
      return None
    return _wrapped(_ARITHMETIC[one.op](a, b), one.type)


def source_lines(text: str) -> dict[str, tuple[str, int, str]]:
  """Returns stack_frame_id -> (file, line, function) from the tables of HLO."""
  files = _names(text, "FileNames")
  functions = _names(text, "FunctionNames")
  places = {
    place: (files.get(file, ""), int(line), functions.get(function, ""))
    for place, file, function, line in _LOCATION.findall(text)
  }
  return {
    frame: places[place]
    for frame, place in _FRAME.findall(text)
    if place in places
  }


def _names(text: str, table: str) -> dict[str, str]:
  """Returns number -> name from a table in front of the computations."""
  _, _, rest = text.partition(f"\n{table}\n")
  rows = rest.partition("\n\n")[0]
  return dict(re.findall(r'^(\d+) "(.*)"$', rows, re.MULTILINE))


def _wrapped(value: int, type_: str) -> int:
  """Returns the integer wrapped to its type: u8 254 + 10 is 8."""
  bits = type_.partition("[")[0].lstrip("predsu")
  kind, size = type_[0], 2 ** int(bits or 1)
  value %= size
  return value - size if kind == "s" and value >= size // 2 else value


def array_shapes(type_: str) -> list[tuple[str, tuple[int, ...]]]:
  """Returns (dtype, shape) of the arrays of a type, also those of a tuple."""
  return [
    (dtype, tuple(map(int, filter(None, dims.split(",")))))
    for dtype, dims in _ARRAY.findall(type_)
  ]


def type_bytes(type_: str) -> int:
  """Returns the bytes of the arrays of a type, without padding."""
  return sum(
    math.prod(shape) * itemsize(dtype) for dtype, shape in array_shapes(type_)
  )


def itemsize(dtype: str) -> int:
  """Returns bytes per element of an HLO dtype; 4-bit ones count as a byte."""
  bits = re.search(r"\d+", dtype)
  return max(1, int(bits[0]) // 8) if bits else 1


def elements(type_: str) -> list[str]:
  """Returns the elements in the first parentheses, at their outer level.

  Elements of a tuple type may be tuples themselves.
  """
  result, depth = [""], 0
  for letter in type_[1:]:
    if letter == ")" and depth == 0:
      break
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and depth == 0:
      result.append("")
    else:
      result[-1] += letter
  return result
