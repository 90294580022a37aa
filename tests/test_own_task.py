"""The task in docs/own_task.md, and modules and entry points of tasks."""

import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

from pausejax import cli, errors, tasks
from pausejax.tasks import registry
from tests.task_samples import DOCS, load, write


@pytest.fixture
def my_task(tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
  """The file in docs/own_task.md and a little data, in the current folder."""
  text = (DOCS / "own_task.md").read_text()
  code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
  (tmp_path / "my_tasks.py").write_text(code)
  row = {"id": "fr", "country": "France", "capitals": ["Paris"]}
  none = {"id": "xx", "country": "Nowhere", "capitals": []}
  write(tmp_path, {"train.jsonl": [row], "test.jsonl": [row, none]})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  tasks.names()  # Imports those of the package.
  monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})
  yield tmp_path
  sys.modules.pop("my_tasks", None)


def test_the_task_in_the_documentation_works(my_task, data_config, capsys):
  tasks.import_module("my_tasks")
  loaded = load(data_config, "my_task", "test", my_task)
  (row,) = loaded.rows
  assert row.id == "fr" and row.target == "Paris"
  assert row.prefix == "Question: What is the capital of France?\nAnswer:"
  assert loaded.num_unusable == {"a country without a capital": 1}
  (my_task / "theirs.json").write_text('{"fr": "the Paris"}')
  command = "score --task=my_task --tasks_module=my_tasks --local_dir=."
  assert cli.main([*command.split(), "--predictions=theirs.json"]) == 0
  assert "  100.000 em, percent" in capsys.readouterr().out
  assert cli.main(["tasks", "list", "--tasks_module=my_tasks"]) == 0
  assert "my_task " in capsys.readouterr().out


def test_an_entry_point_registers_a_task(my_task, monkeypatch):
  entry = importlib.metadata.EntryPoint("my", "my_tasks", "pausejax.tasks")
  monkeypatch.syspath_prepend(my_task)
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
  registry._import_all.cache_clear()
  assert "my_task" in tasks.downstream_names()


def test_a_module_of_tasks_that_fails_is_one_line(my_task):
  for name, code in (
    ("no_such_tasks", ""),
    ("broken_tasks", "1 / 0"),
    ("syntax_tasks", "def"),
  ):
    if code:
      (my_task / f"{name}.py").write_text(code)
    with pytest.raises(errors.UsageError, match=f"importing '{name}' failed"):
      tasks.import_module(name)
