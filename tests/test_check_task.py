"""`pausejax tasks check`: whole tasks pass, and each fault names its stage."""

import sys

import pytest

from pausejax import cli, tasks
from pausejax.inspection import soundness
from pausejax.tasks import registry

TASK = """
from pausejax import errors, metrics, tasks
from pausejax.tasks import records

def examples(record):
  yield tasks.Example(
    id="", prefix=record["q"], target=record["a"], references=(record["a"],)
  )

def made():
  for i in range(40):
    yield {"q": f"What is {i} + 1?", "a": str(i + 1)}

CHANGES
tasks.register(tasks.Task(**({
  "name": "NAME",
  "kind": "decode",
  "source": records.Generated(name="sums", make={"train": made}),
  "examples": examples,
  "metrics": {"em": metrics.exact_match},
  "num_pauses": 2,
  "max_target_len": 4,
} | changes)))
"""

# What is wrong with the task -> (its fields, stage that fails, words).
FAULTS = {
  "pauses": ("{'num_pauses': -1}", "1 registered", "num_pauses"),
  "length": ("{'max_target_len': 0}", "1 registered", "max_target_len"),
  "no_train": (
    "{'source': records.Generated(name='x', make={'test': made})}",
    "1 registered",
    "'train'",
  ),
  "files": (
    "{'source': records.Files(files={'train': 'train.jsonl'})}",
    "2 source",
    "data.local_dir",
  ),
  "record": (
    "{'examples': lambda record: record['x']}",
    "2 source",
    "KeyError",
  ),
  "metric": (
    "{'metrics': {'bad': lambda a, refs: 1 / 0}}",
    "3 examples",
    "ZeroDivisionError",
  ),
  "severe": (
    "{'metrics': {'severe': lambda a, refs: 0.5}}",
    "3 examples",
    "against itself is 0.5",
  ),
  "generous": (
    "{'metrics': {'generous': lambda a, refs: 1.0}}",
    "3 examples",
    "not below 1.0",
  ),
  "nan": (
    "{'metrics': {'bad': lambda a, refs: float('nan')}}",
    "3 examples",
    "nan is not in [0, 1]",
  ),
  "nan_of_nothing": (
    "{'metrics': {'em': lambda a, refs:"
    " metrics.exact_match(a, refs) if a else float('nan')}}",
    "3 examples",
    "'em' of '': nan is not in [0, 1]",
  ),
  "percent": (
    "{'metrics': {'em': lambda a, refs: 100 * metrics.exact_match(a, refs)}}",
    "3 examples",
    "100.0 is not in [0, 1]",
  ),
  "empty_split": (
    "{'source': records.Generated(name='x', make={'train': made,"
    " 'test': lambda: iter(())})}",
    "2 source",
    "no usable example in split 'test'",
  ),
  "empty_targets": (
    "{'examples': lambda r: [tasks.Example(id='', prefix=r['q'], target='',"
    " references=('a',))]}",
    "2 source",
    "an empty answer",
  ),
  "empty_references": (
    "{'examples': lambda r: [tasks.Example(id='', prefix=r['q'], target='a',"
    " references=(' ',))]}",
    "2 source",
    "an empty answer",
  ),
  "no_references": (
    "{'examples': lambda r: [tasks.Example(id='', prefix=r['q'], target='a')]}",
    "2 source",
    "needs references",
  ),
  "same_ids": (
    "{'examples': lambda r: [tasks.Example(id='7', prefix=r['q'], target='a',"
    " references=('a',))]}",
    "2 source",
    "'7'",
  ),
  "no_label": (
    "{'kind': 'options', 'metrics': {}, 'examples': lambda r:"
    " [tasks.Example(id='', prefix=r['q'], target='', options=('a', 'b'))]}",
    "2 source",
    "no published label",
  ),
  "few_labels": (
    "{'kind': 'options', 'metrics': {}, 'examples': lambda r:"
    " [tasks.Example(id='', prefix=r['q'], options=('a', 'b'),"
    " label=0 if int(r['a']) % 5 == 0 else -1,"
    " target='a' if int(r['a']) % 5 == 0 else '')]}",
    "2 source",
    "most records of train",
  ),
  "one_option": (
    "{'kind': 'options', 'metrics': {}, 'examples': lambda r:"
    " [tasks.Example(id='', prefix=r['q'], target='a', options=('a',),"
    " label=0)]}",
    "2 source",
    "1 options, expected at least two",
  ),
  "label_outside": (
    "{'kind': 'options', 'metrics': {}, 'examples': lambda r:"
    " [tasks.Example(id='', prefix=r['q'], target='a', options=('a', 'b'),"
    " label=2)]}",
    "2 source",
    "label 2 is not one of 2 options",
  ),
  "stop": ("{'delimiter': '#', 'stop': '#'}", "4 lengths", "stop text"),
  "too_many": ("{'num_pauses': 2048}", "5 sequences", "use fewer pauses"),
}


@pytest.fixture
def write_task(tmp_path, monkeypatch):
  """Writes a module with a task of its own, which is forgotten again."""
  tasks.names()  # Imports those of the package.
  before = dict(registry._TASKS)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])

  def write(name: str, changes: str = "{}") -> list[str]:
    text = TASK.replace("NAME", name)
    text = text.replace("CHANGES", f"changes = {changes}")
    (tmp_path / f"module_{name}.py").write_text(text)
    return ["tasks", "check", name, f"--tasks_module=module_{name}"]

  yield write
  registry._TASKS.clear()
  registry._TASKS.update(before)
  for name in [n for n in sys.modules if n.startswith("module_")]:
    del sys.modules[name]


@pytest.mark.slow
def test_a_task_of_your_own_passes_every_stage(write_task, capsys):
  assert cli.main(write_task("sums")) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line[:6] for line in lines] == [f"ok   {n}" for n in range(1, 9)]
  # One in twenty is held out, since the source has "train" alone.
  assert "train: 38 examples" in lines[1] and "validation: 2" in lines[1]
  assert "after 2 pauses" in lines[6]
  assert "em" in lines[7] and "(n=2" in lines[7]


@pytest.mark.slow
def test_options_are_scored_after_the_requested_pauses(capsys):
  assert cli.main(["tasks", "check", "stdlib_choice", "--pauses=0"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 8 and all(line.startswith("ok ") for line in lines)
  assert "options scored after 0 pauses" in lines[6]
  assert "accuracy_per_token" in lines[7]


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_is_one_line_that_names_its_stage(write_task, name, capsys):
  changes, stage, words = FAULTS[name]
  assert cli.main(write_task(name, changes)) == 1
  *passed, last = capsys.readouterr().out.splitlines()
  assert all(line.startswith("ok ") for line in passed)
  assert last.startswith(f"BAD  {stage}: ") and words in last


@pytest.mark.parametrize(
  ("files", "split", "hint"),
  [
    ("{'train': 'trian.jsonl'}", "'train'", "did you mean 'train.jsonl'?"),
    (
      "{'train': 'train.jsonl', 'test': ('tst.json', 'test-*.jsonl')}",
      "'test'",
      "no tst.json or test-*.jsonl",
    ),
    (
      "{'train': 'train.jsonl', 'validation': 'valid.jsonl'}",
      "'validation'",
      "did you mean 'validation.jsonl'?",
    ),
  ],
)
def test_a_misspelled_file_of_a_split_is_named(
  files, split, hint, write_task, tmp_path, capsys
):
  (tmp_path / "data").mkdir()
  for name in ("train", "validation"):
    lines = [f'{{"q": "{name} {i}?", "a": "{i}"}}\n' for i in range(40)]
    (tmp_path / "data" / f"{name}.jsonl").write_text("".join(lines))
  argv = write_task("files", f"{{'source': records.Files(files={files})}}")
  assert cli.main([*argv, f"--local_dir={tmp_path / 'data'}"]) == 1
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith("BAD  2 source: ")
  assert hint in last and f"for split {split}" in last


@pytest.mark.parametrize("pattern", ["", "/data/train.jsonl"])
def test_a_pattern_must_lie_below_the_folder(pattern, write_task, capsys):
  source = f"records.Files(files={{'train': {pattern!r}}})"
  assert cli.main(write_task("pattern", f"{{'source': {source}}}")) == 2
  assert "below data.local_dir" in capsys.readouterr().err


def test_an_unknown_task_is_a_usage_error(capsys):
  assert cli.main(["tasks", "check", "stdlib_choise"]) == 2
  assert "stdlib_choice" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["prefix", "target"])
def test_an_empty_example_is_named(field):
  texts = {"prefix": "q", "target": "a", field: " "}
  rows = [tasks.Example(id="seven", **texts)]
  with pytest.raises(ValueError, match=f"example 'seven': empty {field}"):
    soundness.require_texts(rows)


def test_an_unpublished_label_has_no_target_and_is_no_error():
  row = tasks.Example(id="0", prefix="q", target="", options=("a", "b"))
  soundness.require_texts([row])
  assert "1 without a published label" in soundness.options([row])
