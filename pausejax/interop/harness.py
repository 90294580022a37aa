"""What lm-evaluation-harness asks of a model, checked; without the harness.

Nothing is ignored: an argument is used, has the value that changes nothing, or
is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pausejax import arguments, errors
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.prompt_pauses import PromptPauses

MODEL_ARGUMENTS = (
  "checkpoint",
  "average",
  "num_pauses",
  "position",
  "filler",
  "batch_size",
  "max_length",
  "max_gen_toks",
  "add_bos_token",
  "dtype",
)
_MAX_NEW = (
  "max_gen_toks",
  "max_new_tokens",
  "max_tokens",
  "max_completion_tokens",
)
# Values of other generation arguments under which decoding is greedy.
_GREEDY = {
  "do_sample": (False, None),
  "temperature": (0, None),
  "top_p": (1, None),
  "top_k": (0, 1, None),
  "num_beams": (1, None),
  "num_return_sequences": (1, None),
  "repetition_penalty": (1, None),
}


class Generation(NamedTuple):
  """When an answer ends.

  Attributes:
    stop_texts: texts that end it.
    num_new: maximum number of new ids.
  """

  stop_texts: tuple[str, ...]
  num_new: int


def parse_generation(values: Mapping[str, Any], num_new: int) -> Generation:
  """Returns the limits in a task's `generation_kwargs`.

  Args:
    values: `until`, a text or a list of texts; `max_gen_toks` or one of the
      names that the harness takes for it; and values of greedy decoding.
    num_new: maximum number of new ids if `values` does not say.

  Raises:
    UsageError: a value asks for another decoding than greedy, or is unknown.
  """
  values = dict(values)
  until = values.pop("until", None) or []
  stop_texts = [until] if isinstance(until, str) else until
  errors.require(
    isinstance(stop_texts, list)
    and all(isinstance(t, str) for t in stop_texts),
    f"generation argument until: expected texts, got {until!r:.60}",
  )
  given = [values.pop(name, None) for name in _MAX_NEW]
  given = [value for value in given if value is not None]
  if given:
    num_new = arguments.whole_number(_MAX_NEW[0], given[0], 1)
  # The default of transformers, which several tasks give without sampling.
  if values.get("do_sample") is False and values.get("temperature") == 1:
    del values["temperature"]
  for name, value in values.items():
    errors.require(
      name in _GREEDY and value in _GREEDY[name],
      f"generation argument {name}={value!r:.60}: a pausejax model decodes "
      f"greedily up to a stop text (known: until, {', '.join(_MAX_NEW)}); "
      "leave it out",
    )
  return Generation(tuple(stop_texts), num_new)


def refuse_others(values: Mapping[str, Any]) -> None:
  """Raises UsageError for an unknown model argument that has a value.

  The device "cuda:0" counts as none: the harness' command line passes it if
  --device is not given.
  """
  for name, value in values.items():
    if value is None or (name, value) == ("device", "cuda:0"):
      continue
    hint = errors.nearest(name, MODEL_ARGUMENTS)
    if name == "device":
      hint = "; JAX uses all devices: choose them with JAX_PLATFORMS"
    elif name == "max_batch_size":
      hint = "; give batch_size, the number of requests at a time"
    raise errors.UsageError(f"model argument {name}={value!r:.60}{hint}")


def whole_batch(size: Any, num_shards: int) -> int:
  """Returns a batch size, rounded up to a multiple of `num_shards`.

  Args:
    size: a whole number, or its text, which the harness' command line gives.
    num_shards: devices over which the rows of a batch are split.

  Raises:
    UsageError: not a whole number, such as the harness' "auto".
  """
  if isinstance(size, str) and size.isdecimal():
    size = int(size)
  size = arguments.whole_number("batch_size", size, 1)
  return -(-size // num_shards) * num_shards


def description(run: SavedRun, pauses: PromptPauses) -> dict[str, Any]:
  """Returns the fields that name the model in results."""
  return {
    "checkpoint": run.place,
    "step": run.step,
    "average": run.average,
    **pauses.condition(),
    "filler": pauses.token,
    "pauses_behind_tokens": run.behind_tokens.num_per_token,
    **run.behind_tokens.note(),
    "pause_token_id": run.tokenizer.pause_id,
  }


def fingerprint(run: SavedRun, *settings: Any) -> str:
  """Returns a digest of parameters, tokenizer, pauses and other settings.

  Answers of equal fingerprints are equal. It does not contain the path: a
  copy of a run has the same one, and a run that was trained anew another.
  """
  parameters = run.meta["digests"], run.meta["model"], run.meta["tokenizer"]
  average = ["average"] * run.average
  behind = [run.behind_tokens.fingerprint()] * bool(run.behind_tokens.ids)
  return short_digest([parameters, settings, *average, *behind])


def short_digest(value: Any) -> str:
  """Returns the first 16 digits of the sha256 of a JSON value."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
