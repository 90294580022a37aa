"""Converts meta.json of older versions to the current format.

Format 1 had no SHA-256 of meta.json and of the data. Format 2 called the
data pipeline `door`, in the config and in the fingerprint of the data. Format 4
is written beside format 3, by processes that share no folder: each array is in
files by shard, not in a database.
"""

from collections.abc import Mapping
from typing import Any

from pausejax.config import saved as saved_configs

FORMAT, FORMAT_OF_SHARDS = 3, 4
# Pausejax 0.1.0 compares no format, but every field of the tokenizer's
# fingerprint before it reads anything else: this one makes it refuse the step
# in one line.
_REFUSED_BY_0_1 = {"pausejax": "0.2.0 or newer"}


def meta_to_json(run: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a run as meta.json has them."""
  fields = dict(run)
  if "config" in run:
    fields["config"] = saved_configs.config_to_json(run["config"])
  if "tokenizer" in run:
    fields["tokenizer"] = {**run["tokenizer"], **_REFUSED_BY_0_1}
  return fields


def upgrade(saved: dict[str, Any], format: int, where: str) -> dict[str, Any]:
  """Returns the fields of meta.json as this version reads them.

  Args:
    saved: the fields of meta.json; damaged ones are not changed.
    format: their format, at most `FORMAT_OF_SHARDS`.
    where: the checkpoint, as the start of a message.

  Raises:
    UsageError: a newer version saved the config in it.
  """
  fields = dict(saved)
  config, data = fields.get("config"), fields.get("data")
  if isinstance(config, Mapping):
    where = f"the config in {where}"
    fields["config"] = saved_configs.current(config, where)
  if isinstance(tokenizer := fields.get("tokenizer"), Mapping):
    fields["tokenizer"] = {
      name: tokenizer[name] for name in tokenizer if name not in _REFUSED_BY_0_1
    }
  if format < FORMAT and isinstance(data, Mapping):
    fields["data"] = {"pipeline" if n == "door" else n: data[n] for n in data}
  return fields
