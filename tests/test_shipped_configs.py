"""The files in configs/: their arguments, and the settings that they build."""

import itertools
import re

import pytest

from pausejax.config import train_config
from tests.command_lines import CONFIGS, help_lines, leaves, load

# What the top of each config file says that its argument can be.
ARGS = {
  "smoke": ["", "pause=true", "pause=false"],
  "continue_pretrain": ["", "pause=true", "pause=false"],
  "finetune": ["", "task=gsm8k", "task=squad,pauses=50", "pauses=0"],
  "finetune_smoke": ["", "task=stdlib_choice", "pauses=0"],
  "match3": ["", "arm=none", "arm=pauses", "arm=mixed,size=small"],
  "parity": ["", "arm=none", "arm=hints", "arm=pauses", "arm=both,bits=100"],
  "pretrain_c4": [
    "",
    "pause=false",
    "size=1b,optimizer=adamw",
    "optimizer=muon,pause=false",
    *(
      f"size={size},pause={pause}"
      for size, pause in itertools.product(
        ("130m", "1b", "tiny"), ("true", "false")
      )
    ),
  ],
}

STUDIES = ("study", "study_curriculum", "study_laptop", "study_smoke")


@pytest.mark.parametrize("name", [*ARGS, *STUDIES])
def test_help_lists_every_argument_that_a_config_takes(name, capsys):
  verb = "study" if name.startswith("study") else "train"
  lines = help_lines([verb, f"--config={CONFIGS / name}.py"], capsys)
  docstring = (CONFIGS / f"{name}.py").read_text().partition("`arg` is ")[2]
  keys = re.findall(r"(\w+)=", re.split(r'\."|\.\n', docstring)[0])
  assert len(keys) == (name != "study_smoke") * len({*keys})
  for key in keys:
    assert any(line.startswith(f"  {key} = ") for line in lines), key
  assert keys or any("takes no arguments" in line for line in lines)


def test_every_config_file_has_its_arguments_listed_here():
  found = {p.stem for p in CONFIGS.glob("*.py")} - {"__init__"}
  assert found == {*ARGS, *STUDIES}  # See test_study_plan.py.


@pytest.mark.parametrize(
  ("name", "arg"), [(name, arg) for name in ARGS for arg in ARGS[name]]
)
def test_every_config_builds_settings(name, arg):
  config = load(f"{CONFIGS / name}.py:{arg}")
  assert config.is_locked
  built = train_config(config.to_dict())
  assert built.model_config(vocab_size=259).num_vocab_rows == 384
  if "pause=false" in arg:
    assert built.data.pause_fraction == 0.0
  elif name in ("pretrain_c4", "continue_pretrain", "smoke"):
    assert built.data.pause_fraction == 0.1


def test_a_standard_run_differs_from_its_pause_run_in_the_pauses_only():
  for name in ("smoke", "pretrain_c4", "continue_pretrain"):
    path = CONFIGS / f"{name}.py"
    paused = leaves(load(f"{path}:pause=true").to_dict())
    standard = leaves(load(f"{path}:pause=false").to_dict())
    different = [k for k in paused if paused[k] != standard[k]]
    assert different == ["data.pause_fraction"]
