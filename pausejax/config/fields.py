"""Declares config fields: everything about a field in one place.

  num_layers: int = field(12, "Blocks.", minimum=1, architecture=True)

is an attribute of a frozen dataclass derived from `ConfigGroup`. The
declaration determines the default config (`tree.py`), the checks, `--help`, the
reference page, the value for files saved by older versions, whether a resumed
run may change the field, and whether a finetuning run inherits it from the run
it starts from.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pausejax import errors
from pausejax.buckets import urls

_DECLARED, _GROUP = "declared", "group"
_INT64 = 2**63


@dataclasses.dataclass(frozen=True)
class Follows:
  """A default computed from another field: value * times // divided_by.

  Attributes:
    name: dotted name of the other field, which is declared above this one.
    times: the factor.
    divided_by: the divisor, or the dotted name of a field that is it; the
      quotient is rounded down.
  """

  name: str
  times: int = 1
  divided_by: int | str = 1

  def __str__(self) -> str:
    times = f"{self.times} * " if self.times != 1 else ""
    divided = f" // {self.divided_by}" if self.divided_by != 1 else ""
    return f"{times}{self.name}{divided}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
  """The declaration of a field; see `field`."""

  default: Any
  help: str
  minimum: float | None
  maximum: float | None
  choices: tuple[str, ...]
  local_path: bool
  in_bucket: bool
  architecture: bool
  may_change: bool | tuple[str, ...]
  before: Any
  formerly: str

  def allowed(self) -> str:
    """Returns the allowed values as text, "" if all of the type are."""
    if self.choices:
      return " or ".join(
        filter(None, (", ".join(self.choices[:-1]), self.choices[-1]))
      )
    if self.minimum is None and self.maximum is None:
      return ""
    if self.maximum is None:
      return f"at least {errors.number(self.minimum)}"
    if self.minimum is None:
      return f"at most {errors.number(self.maximum)}"
    return f"{errors.number(self.minimum)} to {errors.number(self.maximum)}"

  def check(self, name: str, value: Any) -> None:
    """Raises UsageError unless `value` is allowed."""
    low = -math.inf if self.minimum is None else self.minimum
    high = math.inf if self.maximum is None else self.maximum
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
      low, high = max(low, -_INT64), min(high, _INT64 - 1)
    if (low, high) != (-math.inf, math.inf):
      errors.require_in_range(name, value, low, high)
    if self.choices:
      several = isinstance(value, (tuple, list))
      for one in value if several else (value,):
        errors.require_one_of(name, one, self.choices)
    errors.require_no_credentials(name, str(value))
    for path in str(value).split(",") if self.local_path else ():
      if not (self.in_bucket and urls.is_url(path)):
        errors.require_local(name, path.strip())


def field(
  default: Any,
  help: str,
  *,
  minimum: float | None = None,
  maximum: float | None = None,
  choices: tuple[str, ...] = (),
  local_path: bool = False,
  in_bucket: bool = False,
  architecture: bool = False,
  may_change: bool | tuple[str, ...] = False,
  before: Any = None,
  formerly: str = "",
) -> Any:
  """Declares a field of a config.

  Args:
    default: the default value; or `Follows`, in which case the class itself has
      no default.
    help: the description in `--help` and on the reference page.
    minimum: the smallest number that is allowed.
    maximum: the largest number that is allowed.
    choices: the allowed texts; for a tuple, those of each element.
    local_path: whether it is a comma-separated list of local files.
    in_bucket: whether it may also be a URL of a bucket.
    architecture: whether it decides the parameters or what they compute; a
      finetuning run inherits it from the run it starts from.
    may_change: whether a resumed run may have another value than its
      checkpoint; for a mapping, the keys that may change.
    before: the value for files saved before the field existed, which reproduces
      what that version did; None: the default.
    formerly: the name in older versions, "" if it was not renamed.
  """
  declared = Declared(
    default=default,
    help=help,
    minimum=minimum,
    maximum=maximum,
    choices=choices,
    local_path=local_path,
    in_bucket=in_bucket,
    architecture=architecture,
    may_change=may_change,
    before=before,
    formerly=formerly,
  )
  metadata = {_DECLARED: declared}
  if isinstance(default, Follows):
    return dataclasses.field(metadata=metadata)
  if isinstance(default, Mapping):
    return dataclasses.field(
      default_factory=lambda: dict(default), metadata=metadata
    )
  return dataclasses.field(default=default, metadata=metadata)


def group(kind: "type[ConfigGroup]") -> Any:
  """Declares a group of fields whose values remain a mapping.

  For a group that becomes an instance of its class, the annotation suffices.
  """
  return dataclasses.field(metadata={_GROUP: kind})


class ConfigGroup:
  """Base of the dataclasses whose attributes are fields of a config.

  Attributes:
    GROUP: name of the group in the config, "" at the top level.
  """

  GROUP: ClassVar[str] = ""

  def __post_init__(self):
    check_values(type(self), vars(self))


def check_values(kind: type, values: Mapping[str, Any]) -> None:
  """Raises UsageError unless every field has an allowed value.

  Args:
    kind: a subclass of `ConfigGroup`; the fields of its groups are not checked.
    values: name -> value.
  """
  prefix = f"{kind.GROUP}." if kind.GROUP else ""
  for name, declared in own_fields(kind).items():
    declared.check(prefix + name, values[name])


def own_fields(kind: type) -> dict[str, Declared]:
  """Returns name -> declaration of a class's fields, without its groups."""
  metadata = {f.name: f.metadata for f in dataclasses.fields(kind)}
  return {n: m[_DECLARED] for n, m in metadata.items() if _DECLARED in m}


def groups(kind: type) -> dict[str, type]:
  """Returns name -> class of a class's groups of fields."""
  kinds = {
    f.name: f.metadata.get(_GROUP, f.type) for f in dataclasses.fields(kind)
  }
  return {n: k for n, k in kinds.items() if _is_group(k)}


def _is_group(kind: Any) -> bool:
  return isinstance(kind, type) and issubclass(kind, ConfigGroup)


def all_fields(kind: type, prefix: str = "") -> Iterator[tuple[str, Declared]]:
  """Yields (dotted name, declaration) of every field, in declared order."""
  own, inner = own_fields(kind), groups(kind)
  for f in dataclasses.fields(kind):
    if f.name in own:
      yield prefix + f.name, own[f.name]
    elif f.name in inner:
      yield from all_fields(inner[f.name], f"{prefix}{f.name}.")


def renamed(kind: type) -> dict[str, str]:
  """Returns old -> new dotted name of every field that was renamed."""
  return {
    f"{name.rpartition('.')[0]}.{declared.formerly}".lstrip("."): name
    for name, declared in all_fields(kind)
    if declared.formerly
  }


def changeable(kind: type) -> Iterator[str]:
  """Yields the dotted names of all that a resumed run may change."""
  for name, declared in all_fields(kind):
    if isinstance(declared.may_change, tuple):
      yield from (f"{name}.{key}" for key in declared.may_change)
    elif declared.may_change:
      yield name


def architecture_fields(kind: type) -> tuple[str, ...]:
  """Returns the names of the fields that a finetuning run inherits."""
  return tuple(n for n, f in own_fields(kind).items() if f.architecture)
