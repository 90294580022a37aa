"""Config files that a command line names: wrong ones, and saved ones."""

import json
import math

import pytest

from pausejax import errors
from pausejax.config import loader, train_config
from tests.command_lines import CONFIGS, SMOKE, fails, load, saved_tree, train

# Behind `train --workdir=...`; {} is an empty folder.
WRONG_CONFIGS = [
  ("configs/smok.py", "no file 'configs/smok.py'"),
  (f"{CONFIGS}/smok.py", "smoke.py'?"),
  (f"{CONFIGS}/smoke", "smoke.py'?"),
  (f"{CONFIGS}", "no file"),
  ("", "no file ''"),
  ("{}/none/x.py", "no file"),
  ("{}/run/config.json", "no file"),
  (f"{CONFIGS}/pretrain_c4.py:size=2b", "did you mean '1b'?"),
  (f"{CONFIGS}/pretrain_c4.py:siz=1b", "did you mean 'size'?"),
  (f"{CONFIGS}/pretrain_c4.py:size", "known: 130m, 1b, tiny"),
  (f"{CONFIGS}/pretrain_c4.py:size=1b;pause=true", "unknown value"),
  (f"{SMOKE}:pause=0", "known: false, true"),
  (f"{SMOKE}:standard", "known: pause"),
  ("study_smoke:pause=true", "known: none"),
]


@pytest.mark.parametrize(("config", "fragment"), WRONG_CONFIGS)
def test_a_wrong_config_is_one_line(config, fragment, tmp_path, capsys):
  config = config.replace("{}", str(tmp_path))
  assert fragment in fails(train(tmp_path / "run", config=config), capsys)


GOOD = "from pausejax import config\ndef get_config(arg=''):\n  "


@pytest.mark.parametrize(
  ("source", "fragment"),
  [
    ("def get_config(:\n", "SyntaxError"),
    ("", "get_config"),
    ("import no_such_module\n", "no_such_module"),
    ("from configs import base\n", "pausejax.config.default()"),
    ("def get_config():\n  pass\n", "TypeError"),
    ("raise RuntimeError('two\\nlines')\n", "RuntimeError: two"),
    ("raise RuntimeError\n", "RuntimeError"),
    ("def get_config(arg):\n  return None\n", "returned a NoneType"),
    ("def get_config(arg):\n  return {'seed': 0}\n", "returned a dict"),
    (
      f"{GOOD}c = config.default(); c.num_step = 5; return c\n",
      "no field 'num_step' there; did you mean config.num_steps?",
    ),
    (
      f"{GOOD}c = config.default(); c.data.door = 'seqio'; return c\n",
      "no field 'door' there; it is now config.data.pipeline",
    ),
    (f"{GOOD}c = config.default(); c.data.seq = 5; return c\n", "seq"),
    (
      f"{GOOD}c = config.default(); c.num_steps = 'x'; return c\n",
      "num_steps",
    ),
    (
      f"{GOOD}c = config.default(); c.num_steps = -5; return c\n",
      "num_steps: must",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): c.data.sed = 5\n"
      "  return c\n",
      "unknown field 'data.sed'",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): del c.seed\n"
      "  return c\n",
      "the field 'seed' is missing",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked(): del c.data\n"
      "  return c\n",
      "the field 'data' is missing",
    ),
    (
      f"{GOOD}c = config.default()\n  with c.unlocked():\n"
      "    c.model.vocab_size = 5\n  return c\n",
      "unknown field 'model.vocab_size'",
    ),
    (
      f"{GOOD}c = config.default(); c.data.files = None; return c\n",
      "data.files: expected str, got None",
    ),
    (
      f"{GOOD}c = config.default(); c.mesh = None; return c\n",
      "mesh: expected a group of fields, got None",
    ),
    (
      "from ml_collections import ConfigDict\n"
      "def get_config(arg):\n  return ConfigDict()\n",
      "is missing",
    ),
  ],
)
def test_a_config_file_that_fails_is_one_line(
  source, fragment, tmp_path, capsys
):
  path = tmp_path / "mine.py"
  path.write_text(source)
  message = fails(train(tmp_path / "run", config=path), capsys)
  assert fragment in message


def test_a_config_file_of_another_kind_is_one_line(tmp_path, capsys):
  for name in ("config.yaml", "config", "config.txt"):
    (tmp_path / name).write_text("num_steps: 5\n")
    message = fails(train(tmp_path / "run", config=tmp_path / name), capsys)
    assert "neither a .py nor a .json" in message


@pytest.mark.parametrize(
  "text",
  [
    "",
    "{",
    "[]",
    "3",
    "null",
    '"text"',
    "{}",
    '{"num_steps": 5}',
    '{"name": "package", "version": "1.0"}',
    "[" * 100_000,
    "\udcff",
  ],
)
def test_json_that_is_no_saved_config_is_one_line(text, tmp_path, capsys):
  path = tmp_path / "config.json"
  path.write_bytes(text.encode("utf-8", "surrogateescape"))
  message = fails(train(tmp_path / "run", config=path), capsys)
  assert f"{path} is not a saved config" in message


@pytest.mark.parametrize(
  ("path", "value", "fragment"),
  [
    ("num_steps", "5", "num_steps: expected int, got '5'"),
    ("num_steps", 5.5, "num_steps: expected int, got 5.5"),
    ("num_steps", True, "num_steps: expected int, got True"),
    ("num_steps", None, "num_steps: expected int, got None"),
    ("num_stepz", 5, "did you mean 'num_steps'?"),
    ("data", None, "data: expected a group of fields, got None"),
    ("data", 5, "data: expected a group of fields, got 5"),
    ("data.seq_lem", 5, "did you mean 'seq_len'?"),
    ("data.files", ["a"], "data.files: expected str"),
    ("model.bias", 1, "model.bias: expected bool, got 1"),
    ("optim.learning_rate", "fast", "optim.learning_rate: expected float"),
    ("optim.learning_rate", math.nan, "optim.learning_rate: must be a finite"),
    ("optim.decay_axes", "heads", "optim.decay_axes: expected tuple"),
    ("optim.decay_axes", ["heads", 3], "optim.decay_axes"),
    ("optim.kwargs", None, "optim.kwargs: expected a group of fields"),
    ("optim.kwargs", {"b.1": 3}, "is not a saved config"),
  ],
)
def test_a_saved_config_with_a_wrong_value_is_one_line(
  path, value, fragment, tmp_path, capsys
):
  tree = saved_tree(SMOKE)
  node = tree
  *parents, last = path.split(".")
  for key in parents:
    node = node[key]
  node[last] = value
  file = tmp_path / "config.json"
  file.write_text(json.dumps(tree))
  assert fragment in fails(train(tmp_path / "run", config=file), capsys)


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    (f"{SMOKE}:pause=true,pause=false", "pause: given twice"),
    (f"{CONFIGS}/finetune.py:task=", "task: got no value"),
    (f"{CONFIGS}/finetune.py:pauses=ten", "pauses: expected a whole number"),
    ("smok", "did you mean 'smoke'?"),
    ("smoke.py:pause=true", "did you mean 'smoke'?"),
    ("config/smoke.py", "did you mean 'smoke'?"),
  ],
)
def test_a_wrong_config_spec_names_the_nearest_right_one(
  spec, words, tmp_path, capsys
):
  assert words in fails(train(tmp_path / "run", config=spec), capsys)


def test_a_saved_config_takes_no_argument_and_its_path_may_hold_a_colon(
  tmp_path,
):
  (tmp_path / "10:30").mkdir()
  path = tmp_path / "10:30" / "config.json"
  path.write_text(json.dumps(saved_tree(SMOKE)))
  assert load(path).num_steps == 200
  with pytest.raises(errors.UsageError, match="takes no 'pause=true'"):
    load(f"{path}:pause=true")


@pytest.mark.parametrize(
  "overrides",
  [
    (),
    ("num_steps=7", "optim.learning_rate=1", "optim.decay_axes=mlp"),
    ("model.num_kv_heads=2", "model.d_ff=96", "model.max_seq_len=1024"),
    ("data.files=Ünï/*.txt", "optim.decay_axes="),
    ("optim.kwargs.eps=1e-7", "optim.kwargs.nesterov=true"),
    ("optim.name=sgd", 'optim.kwargs={"momentum": 0.9}'),
    ("optim.name=sgd", "optim.kwargs={}"),
    ("optim.kwargs.mu_dtype=bfloat16", "optim.kwargs.weight_decay=None"),
    ("seed=-9223372036854775808",),
  ],
)
def test_a_saved_config_loads_back_equal(overrides, tmp_path):
  config = load(SMOKE, *overrides)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
  again = load(path)
  assert again.is_locked
  assert again.to_dict() == config.to_dict()
  assert train_config(again.to_dict()) == train_config(config.to_dict())
  # And saved once more it is the same file.
  assert json.dumps(again.to_dict(), indent=2) + "\n" == path.read_text()


def test_a_saved_config_takes_overrides(tmp_path):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(saved_tree(SMOKE)))
  config = load(path, "num_steps=9", "optim.kwargs.eps=1e-9", "data.task=text")
  assert (config.num_steps, config.optim.kwargs.eps) == (9, 1e-9)
  with pytest.raises(errors.UsageError, match="did you mean 'num_steps'"):
    loader.apply_override(config, "--config.num_step=9")
