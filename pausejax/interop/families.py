"""The architectures of Hugging Face that the decoder can compute.

A family is a `model_type` of transformers: the names of its modules, and how
its config.json becomes fields of `ModelConfig`. What a config.json says and the
decoder lacks is collected and refused by name. Hub files leave out keys that
have their default, so the defaults of transformers' config classes stand in the
tables.
"""

from typing import Any

from pausejax import errors
from pausejax.config import ModelConfig, default
from pausejax.interop import unsupported
from pausejax.interop.family import Family, Given, Values
from pausejax.interop.gpt_families import GPT_FAMILIES
from pausejax.interop.llama_families import LLAMA_FAMILIES

FAMILIES: dict[Any, Family] = {**LLAMA_FAMILIES, **GPT_FAMILIES}


def parse_config(values: Values) -> tuple[Family, dict[str, Any]]:
  """Returns the family and the fields of `ModelConfig` of a config.json.

  Raises:
    UserError: the architecture is not known, or has features that the decoder
      lacks, and the message names them; or a value has a wrong type or range.
  """
  kind = values.get("model_type")
  if not isinstance(kind, str):
    raise errors.UserError(
      f"config.json: model_type must be a text, got {kind!r:.60}"
    )
  if kind not in FAMILIES:
    raise errors.UserError(_unknown(kind, values))
  family = FAMILIES[kind]
  given = Given(values, family.defaults)
  unsupported.note_features(given)
  if given.missing:
    raise errors.UserError(f"config.json: {_missing(given)}")
  _require_head(family, given)
  num_ids = given.whole("vocab_size")
  fields = family.fields(given)
  if given.missing:
    raise errors.UserError(f"config.json: {_missing(given)}")
  _require_model(num_ids, fields)
  return family, fields


def _unknown(kind: str, values: Values) -> str:
  """Returns the message for a model type that is no family."""
  start = f"config.json: model_type {kind!r:.60} is not supported"
  text = values.get("text_config")
  inner = text.get("model_type") if isinstance(text, dict) else None
  if isinstance(inner, str) and inner in FAMILIES:
    return (
      f"{start}: the decoder has no images or audio; its text model is "
      f"{inner!r}, which is supported: save "
      f"{FAMILIES[inner].architecture} as a folder of its own"
    )
  feature = unsupported.feature_of(kind)
  if feature:
    return f"{start}: the decoder has no {feature}"
  given = Given(values, {})
  unsupported.note_features(given)
  if given.missing:
    return f"{start}: {_missing(given)}"
  return f"{start}{errors.nearest(kind, FAMILIES)}"


def _missing(given: Given) -> str:
  return f"the decoder has no {', no '.join(given.missing)}"


def _require_head(family: Family, given: Given) -> None:
  """Raises unless the file is of the class with a language-model head."""
  classes = given.get("architectures")
  if classes is None or classes == []:
    return
  if not isinstance(classes, list) or family.architecture not in classes:
    raise errors.UserError(
      f"config.json: architectures {classes!r:.60} must be a list with "
      f"{family.architecture}; save the model as that class"
    )


def _require_model(num_ids: int, fields: dict[str, Any]) -> None:
  """Raises unless the fields are a model that can be built."""
  tree = default().model
  try:
    tree.update(fields)
    ModelConfig(vocab_size=num_ids, **tree.to_dict())
  except errors.UserError as e:
    raise errors.UserError(f"config.json: {e.message}") from e
