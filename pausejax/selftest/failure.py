"""A part of the selftest that failed, as one line."""

from typing import NoReturn

from pausejax import errors


def failed(part: str, what: str, means: str, fix: str) -> errors.UserError:
  """Returns the error to raise.

  Args:
    part: the part of the selftest.
    what: what was observed, and where.
    means: what it means for a run.
    fix: what to do.
  """
  return errors.UserError(f"selftest FAILED: {part}: {what}; {means}; {fix}")


def reraise(part: str, line: str) -> NoReturn:
  """Raises the failure that a child process printed as its last line."""
  message = line.removeprefix("pausejax: ")
  if message.startswith("selftest FAILED"):
    raise errors.UserError(message)
  raise failed(part, line, "it could not be tested", "see the logs with --keep")
