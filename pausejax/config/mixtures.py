"""Mixtures of tasks: three texts of a config, parsed here and nowhere else.

  data.task          gsm8k=1,squad=3                  rates from step 0 on
  data.later_rates   50000:c4=1,text=3;80000:text=1   rates from later steps on
  data.segments_dir  c4=/data/c4,text=/data/books     a store for each task

A config and its saved JSON hold the texts; `DataConfig` parses them when it is
made, and has what the rest reads: `stages`, `rates` and `stores`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from pausejax import errors


@dataclasses.dataclass(frozen=True)
class Stage:
  """The rates of tasks from a step on.

  Attributes:
    first_step: the step, counted from 0.
    rates: task -> relative number of examples, in the order of the text.
  """

  first_step: int
  rates: Mapping[str, float]

  def __str__(self) -> str:
    """Returns the text that `stages` parses into this stage."""
    rates = (f"{n}={str(r).removesuffix('.0')}" for n, r in self.rates.items())
    step = f"{self.first_step}:" if self.first_step else ""
    return step + ",".join(rates)


def stages(task: str, later_rates: str) -> tuple[Stage, ...]:
  """Returns the stages of a run, the first at step 0.

  Args:
    task: a task, or rates as in "gsm8k=1,squad=3".
    later_rates: "" or STEP:RATES, separated by ";".

  Raises:
    UsageError: a rate that is not positive, a task twice in one stage, or
      steps that do not increase.
  """
  parsed = [Stage(0, rates(task, "data.task"))]
  for part in filter(None, later_rates.split(";")):
    parsed.append(_later(part.strip(), parsed[-1].first_step))
  return tuple(parsed)


def rates(text: str, name: str) -> dict[str, float]:
  """Returns task -> rate of "squad" (rate 1) or of "gsm8k=1,squad=3".

  Args:
    text: the text.
    name: the field or option that it is the value of, to begin a message.

  Raises:
    UsageError: it has another form.
  """
  parsed: dict[str, float] = {}
  for part in text.split(","):
    task, equals, number = (word.strip() for word in part.partition("="))
    rate = _rate(number) if equals else 1.0
    errors.require(
      bool(task) and rate > 0 and task not in parsed,
      f"{name}: {part!r} is not TASK or TASK=RATE with a positive rate, each "
      "task once, as in 'gsm8k=1,squad=3'; `pausejax tasks list` shows all",
    )
    parsed[task] = rate
  return parsed


def stores(segments_dir: str, names: Sequence[str]) -> dict[str, str]:
  """Returns task -> the folder of its store; empty where none is named.

  Args:
    segments_dir: a folder; for several tasks TASK=FOLDER, separated by ",".
    names: the tasks of the run.

  Raises:
    UsageError: several tasks, and a part is not TASK=FOLDER, each task once.
  """
  if not segments_dir or len(names) == 1:
    return dict.fromkeys(names, segments_dir) if segments_dir else {}
  parsed: dict[str, str] = {}
  for part in segments_dir.split(","):
    task, _, folder = (word.strip() for word in part.partition("="))
    if not folder or task in parsed:
      raise wrong_stores(segments_dir, names)
    parsed[task] = folder
  return parsed


def wrong_stores(segments_dir: str, names: Sequence[str]) -> errors.UsageError:
  """Returns the error of a mixture without exactly one store for each task."""
  expected = ",".join(f"{name}=FOLDER" for name in names)
  return errors.UsageError(
    f"data.segments_dir: a mixture needs a store for each task, {expected}, "
    f"got {segments_dir!r}"
  )


def _later(text: str, before: int) -> Stage:
  """Returns the stage of STEP:RATES, whose step is above `before`."""
  step, colon, rest = text.partition(":")
  is_step = step.isdecimal() and len(step) <= 10
  errors.require(
    bool(colon) and is_step and before < int(step) < 2**31,
    f"data.later_rates: {text!r} is not STEP:RATES with a step above {before} "
    "and below 2^31, as in '50000:c4=1,text=3;80000:text=1'",
  )
  return Stage(int(step), rates(rest, "data.later_rates"))


def _rate(text: str) -> float:
  """Returns a positive finite number, 0.0 for any other text."""
  try:
    rate = float(text)
  except ValueError:
    return 0.0
  return rate if 0 < rate < float("inf") else 0.0
