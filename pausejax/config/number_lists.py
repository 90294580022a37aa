"""Lists of whole numbers in a config: "0,2,10" or "0-10"."""

from pausejax import errors


def numbers(text: str, name: str) -> tuple[int, ...]:
  """Returns the numbers of a list of numbers and ranges, each once, ascending.

  Args:
    text: such as "0,2,10-12"; "" for none.
    name: the field that it is the value of, to begin a message.

  Raises:
    UsageError: it has another form.
  """
  parts = filter(None, text.split(","))
  return tuple(sorted({n for part in parts for n in _range(part, name)}))


def _range(text: str, name: str) -> range:
  """Returns the numbers of "3" or of "0-10"."""
  first, dash, last = (part.strip() for part in text.partition("-"))
  last = last if dash else first
  errors.require(
    _is_number(first) and _is_number(last) and int(first) <= int(last),
    f"{name}: {text!r} is not a number or a range such as 0-10",
  )
  return range(int(first), int(last) + 1)


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdecimal()
