"""The architectures of Hugging Face that the decoder can compute.

A family is a `model_type` of transformers: the names of its modules, and how
its config.json becomes fields of `ModelConfig`. What a config.json says and the
decoder lacks is collected and refused by name. Hub files leave out keys that
have their default, so the defaults of transformers' config classes stand in the
tables.
"""

from typing import Any

from pausejax import errors
from pausejax.interop.family import Family, Given, Values
from pausejax.interop.gpt_families import GPT_FAMILIES
from pausejax.interop.llama_families import LLAMA_FAMILIES

FAMILIES: dict[Any, Family] = {**LLAMA_FAMILIES, **GPT_FAMILIES}


def parse_config(values: Values) -> tuple[Family, dict[str, Any]]:
  """Returns the family and the fields of `ModelConfig` of a config.json.

  Raises:
    UserError: the architecture is not known, or has features that the decoder
      lacks; the message names them.
  """
  kind = values.get("model_type")
  if kind not in FAMILIES:
    raise errors.UserError(
      f"config.json: model_type {kind!r} is not supported"
      f"{errors.nearest(kind, FAMILIES)}"
    )
  family = FAMILIES[kind]
  given = Given(values, family.defaults)
  fields = family.fields(given)
  if given.missing:
    raise errors.UserError(
      f"config.json: the decoder has no {', no '.join(given.missing)}"
    )
  return family, fields
