"""study.json, of this version and of older ones, as plain values."""

import json
import pathlib
import re
from typing import Any

from pausejax import json_files

FORMAT = 3
_SAVED = {"cells": {str: [str]}}
_SHIPPED_PATH = re.compile(r"--config=configs/(\w+)\.py")
FIX = "choose another --workdir, or remove it and start the study again"


def read_saved_plan(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields of study.json, including the cells.

  Raises:
    UserError: it is damaged, or a newer version wrote it.
  """
  saved = json_files.read(path, _SAVED, FIX, format=("format", FORMAT))
  return upgrade(saved, saved.pop("format", 1))


def upgrade(saved: dict[str, Any], format: int) -> dict[str, Any]:
  """Returns the fields of study.json of an older format as of this one.

  Format 2 had no pretrain_seeds. Format 1 had no format number either. Its
  words set data.door, now data.pipeline; its commands may name a config of this
  package by its path in a checkout.
  """
  if format < 3:
    saved = {"pretrain_seeds": [], **saved}
  if format > 1:
    return saved
  old, new = "--config.data.door=", "--config.data.pipeline="
  saved = json.loads(json.dumps(saved).replace(old, new))
  cells = {
    name: [_SHIPPED_PATH.sub(r"--config=\1", line) for line in commands]
    for name, commands in saved["cells"].items()
  }
  return {**saved, "cells": cells}
