"""The class of transformers that computes a model, and its config.json.

The inverse of `families.parse_config`: the first class is chosen whose
config.json is read back as the same model.
"""

from typing import Any

from pausejax import errors
from pausejax.config import ModelConfig, default
from pausejax.interop import config_keys, families
from pausejax.interop.computed_fields import computed_fields
from pausejax.interop.family import Family

# Their heads divide the width: transformers refuses others.
_EVEN_HEADS = (
  "llama",
  "gemma3_text",
  "gpt_neox",
  "gpt2",
  "phi",
  "stablelm",
)


def exported_config(model: ModelConfig) -> tuple[Family, dict[str, Any]]:
  """Returns the simplest class that computes a model, and its config.json.

  Raises:
    UserError: no class computes it; the message names what the nearest one
      lacks.
  """
  nearest: tuple[list[str], Family] | None = None
  for kind, write in config_keys.WRITERS.items():
    family = families.FAMILIES[kind]
    values = {
      "architectures": [family.architecture],
      "model_type": kind,
      **write(model),
    }
    lacks = _differences(model, values)
    if not lacks:
      return family, values
    if nearest is None or len(lacks) < len(nearest[0]):
      nearest = lacks, family
  assert nearest is not None
  lacks, family = nearest
  named = [f"model.{name} {getattr(model, name)!r}" for name in lacks]
  raise errors.UserError(
    "no class of transformers computes this model; the nearest, "
    f"{family.architecture}, has no {', no '.join(named)}"
  )


def _differences(model: ModelConfig, values: dict[str, Any]) -> list[str]:
  """Returns the fields in which a model differs from its config.json."""
  own, read = computed_fields(model), computed_fields(_read_back(values))
  names = [
    name
    for name, value in own.items()
    if value is not None and value != read[name]
  ]
  is_uneven = model.d_model % model.num_heads != 0
  if is_uneven and values["model_type"] in _EVEN_HEADS:
    names.append("num_heads")
  return names


def _read_back(values: dict[str, Any]) -> ModelConfig:
  _, fields = families.parse_config(values)
  tree = default().model
  tree.update(fields)
  return ModelConfig(vocab_size=values["vocab_size"], **tree.to_dict())
