"""Checks that the examples of a task can be trained on and evaluated.

Each function takes loaded examples (`data/finetuning/examples.py`) and either
raises a UserError that names the first bad example, or returns numbers.
"""

import functools
from collections.abc import Sequence

import numpy as np

from pausejax import errors, tasks
from pausejax.data.finetuning import prompts

_NONSENSE = "qzxv jkwy"
_MAX_ERRORS = 0.01  # Of all examples, at most.


def require_sound(condition: bool, message: str) -> None:
  """Raises a UserError with the message unless the condition is true."""
  if not condition:
    raise errors.UserError(message)


def require_texts(rows: Sequence[tasks.Example]) -> None:
  """Raises if a prefix, a target or an option is empty."""
  for row in rows:
    has_target = bool(row.target.strip()) or (row.options and row.label == -1)
    for name, is_there in (
      ("prefix", bool(row.prefix.strip())),
      ("target", has_target),
      ("option", all(option.strip() for option in row.options)),
    ):
      require_sound(bool(is_there), f"example {row.id!r}: empty {name}")


def judge(task: tasks.Task, rows: Sequence[tasks.Example]) -> str:
  """Returns the scores of the task's own targets under its metrics.

  Official metrics reject a few answers of the published sets, such as "." in
  SQuAD, which normalizes to nothing: one example in a hundred is allowed.

  Raises:
    UserError: a metric fails, rejects too many references, or accepts nonsense.
  """
  faults = [fault for row in rows if (fault := _fault(task, row))]
  summary = f"{len(faults):,} of {len(rows):,} examples are misjudged"
  summary += f", the first: {faults[0]}" if faults else ""
  require_sound(len(faults) <= _MAX_ERRORS * len(rows), summary)
  named = sum(row.target in row.references for row in rows)
  means = ", ".join(
    f"{name} {_mean_of_targets(name, m, rows):.2%}"
    for name, m in task.metrics.items()
  )
  return (
    f"{named:,} targets are literally among the references; targets score "
    f"{means}; {summary}"
  )


def _fault(task: tasks.Task, row: tasks.Example) -> str:
  """Returns how a metric misjudges an example, or ""."""
  for name, metric in task.metrics.items():
    value = functools.partial(_value, name, metric, row)
    for reference in row.references:
      if value(reference, [reference]) != 1.0:
        return (
          f"example {row.id!r}: {name} of the reference {reference!r:.60} "
          f"against itself is {value(reference, [reference])}, not 1.0"
        )
    if value(_NONSENSE, row.references) == 1.0:
      return f"example {row.id!r}: {name} of {_NONSENSE!r} is not below 1.0"
    value("", row.references)  # The answer of a model that stops immediately.
    if value(row.target, row.references) == 0.0:
      return f"example {row.id!r}: {name} of its target {row.target!r:.60} is 0"
  return ""


def _mean_of_targets(name: str, metric, rows) -> float:
  values = [_value(name, metric, r, r.target, r.references) for r in rows]
  return float(np.mean(values))


def _value(name: str, metric, row: tasks.Example, answer: str, known) -> float:
  where = f"example {row.id!r}: metric {name!r} of {answer!r:.60}"
  try:
    value = float(metric(answer, known))
  except Exception as e:
    raise errors.UserError(f"{where}: {type(e).__name__}: {e}") from e
  require_sound(0.0 <= value <= 1.0, f"{where}: {value} is not in [0, 1]")
  return value


def options(rows: Sequence[tasks.Example]) -> str:
  """Returns counts of options and labels; `read_split` checked them."""
  sizes = {len(row.options) for row in rows}
  unknown = sum(row.label == -1 for row in rows)
  twice = sum(len({*row.options}) < len(row.options) for row in rows)
  return (
    f"ids all different, {min(sizes)} to {max(sizes)} options, {unknown:,} "
    f"without a published label, {twice:,} with two equal options"
  )


def num_cut(format_: prompts.Format, rows, targets, seq_len: int) -> int | None:
  """Returns the truncated prefixes; None if pauses and target do not fit."""
  lengths = [seq_len + 1 - len(target) for target in targets]
  try:
    return format_.prompts(rows, lengths).num_cut
  except errors.UsageError:
    return None


def round_trip(task: tasks.Task, format_: prompts.Format, rows, targets) -> str:
  """Scores the targets after encoding and decoding, like answers."""
  name, metric = task.primary_metric, task.metrics[task.primary_metric]
  values = [
    _value(name, metric, row, format_.answer(ids), row.references)
    for row, ids in zip(rows, targets, strict=True)
  ]
  require_sound(
    any(values), f"no target survives the tokenizer and stop text: {name} is 0"
  )
  return f"targets from ids score {name} {np.mean(values):.2%}"
