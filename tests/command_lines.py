"""Command lines of `train`, and configs as they load, for several tests."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from pausejax import cli
from pausejax.config import loader

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SMOKE = str(CONFIGS / "smoke.py")


def fails(argv, capsys) -> str:
  """Runs a command line that must be refused; returns its one line."""
  assert cli.main(argv) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert len(err.splitlines()) == 1, err
  assert err.startswith("pausejax: ") and err.endswith("\n")
  return err


def train(workdir, *arguments, config=SMOKE):
  return ["train", f"--config={config}", f"--workdir={workdir}", *arguments]


def saved_tree(spec, *overrides):
  """What a run writes to config.json, as Python reads it."""
  return json.loads(json.dumps(load(spec, *overrides).to_dict()))


def load(spec, *overrides) -> ConfigDict:
  config = loader.load_config(str(spec))
  for override in overrides:
    loader.apply_override(config, f"--config.{override}")
  return config


def leaves(tree, prefix=""):
  """Dotted name -> value of every field; the free kwargs are one field."""
  found = {}
  for key, value in tree.items():
    if isinstance(value, dict) and key != "kwargs":
      found |= leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


def help_lines(argv, capsys) -> list[str]:
  with pytest.raises(SystemExit) as done:
    cli.main([*argv, "--help"])
  assert done.value.code == 0
  return capsys.readouterr().out.splitlines()
