"""The texts of a mixture are parsed once, when the config is made."""

import ast
import dataclasses
import json
import pathlib

import pytest

from pausejax import errors
from pausejax.config import DataConfig, default, saved, train_config

PACKAGE = pathlib.Path(__file__).parent.parent / "pausejax"
TASKS = ["squad", "gsm8k=1,squad=3", "b=0.1,a=1e-07,c=12345678.25"]
LATER = ["", "7:a=2", "50000:c4=1,text=3;80000:text=0.3"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("later_rates", LATER)
def test_what_is_parsed_has_a_text_that_parses_into_the_same(task, later_rates):
  data = DataConfig(task=task, later_rates=later_rates)
  first, *later = map(str, data.stages)
  again = DataConfig(task=first, later_rates=";".join(later))
  assert again.stages == data.stages
  # The text of a stage is the one given, but for a rate that was left out.
  assert ";".join(later) == later_rates
  assert first == (task if "=" in task else f"{task}=1")


def test_spaces_do_not_matter_and_the_order_is_that_of_the_text():
  data = DataConfig(task=" b = 2 ,a", later_rates=" 5:a; 9:c=1")
  assert [dict(s.rates) for s in data.stages] == [
    {"b": 2, "a": 1},
    {"a": 1},
    {"c": 1},
  ]
  assert [s.first_step for s in data.stages] == [0, 5, 9]
  assert data.task_names == ("b", "a", "c")


def test_the_settings_of_one_task_have_its_own_store():
  data = DataConfig(
    task="a=1", later_rates="3:b=1", segments_dir="b=/x=y, a=/z", seq_len=64
  )
  assert data.stores == {"b": "/x=y", "a": "/z"}
  own = data.of_task("b")
  assert own == dataclasses.replace(
    data, task="b", later_rates="", segments_dir="/x=y"
  )
  assert own.only_task == "b" and own.stores == {"b": "/x=y"}
  # The folder of a single task may have any name.
  folder = "/runs/lr=1,seed=2"
  assert DataConfig(task="a", segments_dir=folder).stores == {"a": folder}
  with pytest.raises(errors.UsageError, match=r"one task at a time.*a, b"):
    _ = data.only_task


def test_a_saved_config_keeps_the_texts():
  tree = default()
  tree.data.task, tree.data.later_rates = " text,c4 = 3.0", "9:c4"
  values = tree.to_dict()
  config = train_config(values)
  assert saved.config_to_json(values)["data"] == values["data"]
  assert dataclasses.asdict(config.data) == values["data"]
  kept = json.loads(json.dumps(saved.config_to_json(values)))
  again = saved.read_saved(saved.current(kept, "config.json"))
  assert train_config(again.to_dict()) == config


@pytest.mark.parametrize(
  ("field", "text", "part"),
  [
    ("task", "", "''"),
    ("task", "a,", "''"),
    ("task", "=1", "'=1'"),
    ("task", "a=", "'a='"),
    ("task", "a=-1", "'a=-1'"),
    ("task", "a=nan", "'a=nan'"),
    ("task", "a=1e999", "'a=1e999'"),
    ("task", "a=1,b,a=2", "'a=2'"),
    ("later_rates", "5", "STEP:RATES"),
    ("later_rates", "5:", "''"),
    ("later_rates", "x:a", "STEP:RATES"),
    ("later_rates", "0:a", "a step above 0"),
    ("later_rates", "5:a;5:b", "a step above 5"),
    ("later_rates", "9" * 5000 + ":a", "below 2^31"),
    ("later_rates", f"{2**31}:a", "below 2^31"),
    ("segments_dir", "/data", "a=FOLDER,b=FOLDER"),
    ("segments_dir", "a=/x,b=", "a=FOLDER,b=FOLDER"),
    ("segments_dir", "a=/x,a=/y", "a=FOLDER,b=FOLDER"),
  ],
)
def test_a_text_of_another_form_is_refused_when_the_config_is_made(
  field, text, part
):
  values = default().to_dict()
  values["data"].update({"task": "a=1,b=1", field: text})
  with pytest.raises(errors.UsageError) as raised:
    train_config(values)
  message = str(raised.value)
  assert message.startswith(f"data.{field}: ") and part in message
  assert len(message.splitlines()) == 1


def test_later_rates_are_read_in_the_config_only():
  for path in PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and node.attr == "later_rates":
        assert path == PACKAGE / "config" / "data.py"


# Where text with these separators is taken apart, besides the config package.
SEPARATORS = frozenset(",;=:")
PARSERS = {
  "commandline.py": "options and lists on the command line",
  "programs/lm_eval.py": "arguments that are not its own, before the harness",
  "programs/segments.py": "looks for --verify before the options are parsed",
  "programs/tasks.py": "the title in a module's docstring",
  "preflight/collectives.py": "programs that XLA printed",
  "preflight/hlo.py": "programs that XLA printed",
  "runtime/arrivals.py": "HOST:PORT of an environment variable",
  "runtime/compilation.py": "/proc/cpuinfo",
  "runtime/distributed.py": "HOST:PORT of the coordinator",
  "runtime/environment.py": "HOST:PORT of an environment variable",
  "runtime/gpu_environment.py": "XLA_FLAGS and CUDA_VISIBLE_DEVICES",
  "runtime/peers.py": "HOST:PORT of an environment variable",
  "selftest/ports.py": "HOST:PORT of a socket",
  "tasks/file_lists.py": "files: a comma may be part of a name on disk",
}


def parses(node: ast.AST) -> bool:
  """Returns whether a node takes a text apart at one of the separators."""
  methods = ("split", "rsplit", "partition", "rpartition")
  if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
    return False
  if ast.unparse(node.func) == "shlex.split":
    return True
  return node.func.attr in methods and any(
    isinstance(a, ast.Constant) and {*str(a.value)} & SEPARATORS
    for a in node.args
  )


def test_texts_of_configs_are_taken_apart_where_configs_are_read():
  found = set()
  for path in PACKAGE.rglob("*.py"):
    if any(map(parses, ast.walk(ast.parse(path.read_text())))):
      found.add(path.relative_to(PACKAGE).as_posix())
  config = {name for name in found if name.startswith("config/")}
  assert found - config == {*PARSERS, "study/arms.py"}
  names = [
    "arguments",
    "batch_sizes",
    "batch_skips",
    "fields",
    "loader",
    "mixtures",
    "number_lists",
  ]
  assert config == {f"config/{name}.py" for name in names}
