"""Mixtures of tasks as written in a config: "gsm8k=1,squad=3"."""

from pausejax import errors
from pausejax.config import DataConfig


def mixture(spec: str) -> dict[str, float]:
  """Returns task -> rate of "squad" or of "gsm8k=1,squad=3".

  Rates are relative numbers of examples.

  Raises:
    UsageError: a rate that is not a positive number.
  """
  rates = {}
  for part in spec.split(","):
    name, equals, text = part.strip().partition("=")
    try:
      rate = float(text) if equals else 1.0
    except ValueError:
      rate = 0.0
    errors.require(
      0 < rate < float("inf") and name not in rates,
      f"data.task: {part!r} is not TASK or TASK=RATE with a positive rate, "
      "each task once, as in 'gsm8k=1,squad=3'",
    )
    rates[name] = rate
  return rates


def rate_stages(data: DataConfig) -> list[tuple[int, dict[str, float]]]:
  """Returns (first step, task -> rate) of `data.task` and `data.later_rates`.

  Raises:
    UsageError: later rates are not STEP:RATES, or steps do not increase.
  """
  stages = [(0, mixture(data.task))]
  for part in filter(None, data.later_rates.split(";")):
    step, colon, rates = part.strip().partition(":")
    is_later = step.isdecimal() and int(step) > stages[-1][0]
    errors.require(
      bool(colon) and is_later,
      f"data.later_rates: {part!r} is not STEP:RATES with a step above "
      f"{stages[-1][0]}, as in '50000:c4=1,text=3;80000:text=1'",
    )
    stages.append((int(step), mixture(rates)))
  return stages
