"""Errors that a user can cause, and the checks that raise them.

A message has one line: what is wrong, what was given, what is allowed, and how
to fix it. The command line prints it without a traceback and exits with
`exit_code`. It may repeat text of a damaged or hostile file: characters that a
terminal would obey are escaped, credentials in URLs are left out, and a long
message loses its middle.
"""

import difflib
import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

_MAX_NAMES = 40  # Known names that a message lists.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")  # Of a URL.
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")  # Of a signed URL.
_MAX_START, _MAX_END = 1500, 400  # Characters of a message that are kept.


class UserError(ValueError):
  """An error that only the user can fix: a file, a checkpoint, a machine.

  Attributes:
    message: what is wrong; printed as one line.
    details: a table to print below it, "" for none.
  """

  exit_code = 1

  def __init__(self, message: str, details: str = ""):
    self.message = one_line(message)
    self.details = "\n".join(map(one_line, details.split("\n")))
    whole = [self.message, self.details] if details else [self.message]
    super().__init__("\n".join(whole))


class UsageError(UserError):
  """A wrong command line or config value, reported before any work starts."""

  exit_code = 2


class CheckpointUnusable(UserError):
  """Checkpoints exist but none can be used; starting over would lose them.

  Nothing was changed. Launchers must not start the run again.
  """

  exit_code = 3


class Diverged(UserError):
  """Training diverged: the parameters or too many steps are not finite.

  Launchers must not start the run again.
  """

  exit_code = 4


def one_line(text: str) -> str:
  """Returns a text as a message: printable, short, without credentials."""
  text = _QUERY.sub(r"\1...", _CREDENTIALS.sub("...@", text))
  if not text.isprintable():
    text = " ".join(text.splitlines())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
  if len(text) > _MAX_START + _MAX_END:
    text = f"{text[:_MAX_START]} [...] {text[-_MAX_END:]}"
  return text


def nearest(name: object, known: Iterable[str]) -> str:
  """Returns "; did you mean 'x'?" and the known names, as a message's end."""
  known = sorted(known)
  lower = {str(one).lower(): one for one in known}
  close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
  hint = f"; did you mean {lower[close[0]]!r}?" if close else ""
  more = ", ..." if len(known) > _MAX_NAMES else ""
  names = ", ".join(known[:_MAX_NAMES])
  return f"{hint} (known: {names or 'none'}{more})"


def number(value: float) -> str:
  """Returns a bound of a range, the limits of integers as powers of two."""
  for bits in (31, 32, 63, 64):
    names = {2**bits - 1: f"2**{bits} - 1", -(2**bits): f"-2**{bits}"}
    if value in names:
      return names[int(value)]
  return str(value)


def first_line(error: object) -> str:
  """Returns the first line of an exception's message, "" if it has none."""
  return next(iter(str(error).strip().splitlines()), "")


def require(condition: bool, message: str) -> None:
  """Raises `UsageError(message)` unless `condition` holds."""
  if not condition:
    raise UsageError(message)


def require_local(name: str, path: str) -> None:
  """Raises if a path is a URL, such as gs://bucket/run.

  What may be in a bucket is checked by `buckets/urls.py`. Elsewhere, `gs:`
  would be a folder on this machine.
  """
  scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|(gs|s3|file):/", path)
  require(
    scheme is None,
    f"{name}: got {path!r}, which is not a path on this machine; name a local "
    "or mounted folder (gs:// and s3:// URLs: docs/buckets.md)",
  )


def require_no_credentials(name: str, text: str) -> None:
  """Raises if a text has a URL with credentials, which would be saved."""
  require(
    _CREDENTIALS.search(text) is None,
    f"{name}: {text!r:.200} has credentials in a URL, which would be saved "
    "with the run; give them in the environment (docs/buckets.md)",
  )


def require_in_range(
  name: str, value: Any, low: float, high: float = math.inf
) -> None:
  """Raises unless `value` is a finite number with low <= value <= high."""
  kind = type(value)
  is_number = issubclass(kind, numbers.Real) and kind is not bool
  # Not converted to float, since an int may be too large for one.
  ok = is_number and low <= value <= high and value != math.inf
  bound = f"at least {number(low)}"
  if high != math.inf:
    bound = f"from {number(low)} to {number(high)}"
  given = f"{value!r:.60}" + ("..." if len(repr(value)) > 60 else "")
  require(ok, f"{name}: must be a finite number {bound}, got {given}")


def require_one_of(name: str, value: object, known: Iterable[str]) -> None:
  """Raises unless `value` is in `known`; suggests the nearest known one."""
  known = list(known)
  if value not in known:
    raise UsageError(f"{name}: unknown value {value!r}{nearest(value, known)}")


def require_same(what: str, actual: dict, expected: dict) -> None:
  """Raises a UserError naming every key of `expected` whose value differs."""
  differ = [
    f"{key} is {actual.get(key)!r}, this run needs {value!r}"
    for key, value in expected.items()
    if actual.get(key) != value
  ]
  if differ:
    raise UserError(f"{what} does not fit: " + "; ".join(differ))
