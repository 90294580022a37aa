"""Saved configs: JSON with a format number.

Format 1 had no number, and `data.pipeline` was called `data.door`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pausejax import errors, json_files
from pausejax.config import fields, tree
from pausejax.config.training import TrainConfig

FORMAT = 2
_NUMBER = "format"


def config_to_json(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the JSON object to save for a config of plain values."""
  return {_NUMBER: FORMAT, **values}


def current(saved: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Returns the fields of a saved config under their current names.

  Fields that did not exist when it was saved are not added; see `read_saved`.

  Args:
    saved: the result of `config_to_json` of this or an older version.
    where: the file, as the start of a message.

  Raises:
    UsageError: a newer version of pausejax saved it.
  """
  number = saved.get(_NUMBER, 1)
  json_files.require_format(where, number, FORMAT, errors.UsageError)
  return upgrade({k: v for k, v in saved.items() if k != _NUMBER}, number)


def upgrade(saved: dict[str, Any], format: int) -> dict[str, Any]:
  """Returns the fields of an older format under their current names."""
  if format >= FORMAT:
    return saved
  names = fields.renamed(TrainConfig).items()
  return _renamed(saved, {old: new.rpartition(".")[2] for old, new in names})


def _renamed(
  values: Mapping[str, Any], names: Mapping[str, str], prefix: str = ""
) -> dict[str, Any]:
  """Returns the tree with every field in `names` renamed."""
  return {
    names.get(prefix + name, name): (
      _renamed(value, names, f"{prefix}{name}.")
      if isinstance(value, Mapping)
      else value
    )
    for name, value in values.items()
  }


def read_saved(values: Any) -> ConfigDict:
  """Returns the config from the fields that a run saved.

  A field that did not exist when it was saved gets the value that its
  declaration gives for older files, else the default.

  Raises:
    UsageError: the values are no config.
    ValueError, TypeError, OverflowError: a value cannot be part of a config.
  """
  tree.check_fields(values, may_lack=True)
  config = tree.default()
  for name, declared in fields.all_fields(TrainConfig):
    if declared.before is not None:
      tree.put(config, name, declared.before)
  if "kwargs" in values.get("optim", {}):
    with config.optim.unlocked():
      config.optim.kwargs = ConfigDict()
  with config.optim.kwargs.unlocked():
    config.update(values)
  return config
