"""The table in CONTRIBUTING.md: what each change takes, done in a copy.

Every change below is one that the table promises, in the files that it names.
Together they are run by the programs that must follow without an edit.
"""

import ast
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import processes

ROOT = pathlib.Path(__file__).parent.parent

# To read, in this order, to know what a train step computes.
STEP = (
  "pausejax/programs/train.py",
  "pausejax/training/loop.py",
  "pausejax/training/step.py",
  "pausejax/losses.py",
  "pausejax/optimizer.py",
)

# Change -> file -> (text that stands there, text that is put in front of it).
CHANGES = {
  "a model option": {
    "pausejax/config/model.py": (
      "  qk_norm: bool = field(",
      "  logit_cap: float = field(\n"
      '    0.5, "Soft cap of the logits.", minimum=0.1, architecture=True\n'
      "  )\n",
    ),
    "pausejax/model/decoder.py": (
      "  is_id_V = jnp.arange(products.shape[-1])",
      "  cap = config.logit_cap\n  products = cap * jnp.tanh(products / cap)\n",
    ),
  },
  "a metric of training": {
    "pausejax/training/step.py": (
      '    "grad_norm": grad_norm,\n',
      '    "param_norm": optax.tree.norm(model),\n',
    ),
  },
  "a pause placement in prompts": {
    "pausejax/prompt_pauses.py": (
      '  "append": Place(',
      '  "split": Place(\n'
      '    "around the prefix",\n'
      "    lambda i_N, n, m: ((i_N > 0) & (i_N <= m // 2)) |"
      " (i_N >= n - (m + 1) // 2),\n"
      '    ("(M // 2)", "(M - M // 2)"),\n  ),\n',
    ),
  },
}
# Two edits of a file: classes or functions, and their entries.
MODE = {
  "pausejax/data/text_units.py": (
    (
      "UNITS = {",
      "def _clauses(tokenizer, texts):\n"
      '  is_end_V = _matching("[,;]$", texts)\n'
      "  return lambda ids_BN: is_end_V[ids_BN]\n\n\n",
    ),
    (
      '  "sentence": UnitOfText(',
      '  "clause": UnitOfText("[,;]", "a comma or a semicolon", _clauses),\n',
    ),
  ),
  "pausejax/pause_places.py": (
    (
      "MODES: dict[str, type[Way]] = {",
      "class AfterClauses(AfterSentences):\n"
      '  words: ClassVar[str] = "after every clause"\n'
      '  unit: ClassVar[str] = "clause"\n\n\n',
    ),
    (
      "MODES: dict[str, type[Way]] = {",
      "class Even(Exact):\n"
      '  words: ClassVar[str] = "at equal distances"\n\n'
      "  def mask(self, seed, rows_B, seq_len, ends_BN=None):\n"
      "    k = self.num_inserted(seq_len)\n"
      "    is_pause_T = np.diff(np.arange(seq_len + 1) * k // seq_len) > 0\n"
      "    return np.tile(is_pause_T, (len(rows_B), 1))\n\n\n",
    ),
    (
      '  "exact": Exact,',
      '  "even": Even,\n  "after_clauses": AfterClauses,\n',
    ),
  ),
}
TASK = '''"""Echo: a task, its data and its metric in one file."""

import functools

from pausejax import tasks
from pausejax.tasks import records


def rows(split):
  for i in range(40):
    yield {"id": f"{split}{i}", "text": "abcdefgh"[i % 8]}


def examples(record):
  yield tasks.Example(
    id=record["id"],
    prefix=f"Say {record['text']}:",
    target=record["text"],
    references=(record["text"],),
  )


def same_length(prediction, references):
  return float(any(len(prediction) == len(r) for r in references))


tasks.register(
  tasks.Task(
    name="echo",
    kind="decode",
    source=records.Generated(
      name="letters",
      make={s: functools.partial(rows, s) for s in ("train", "test")},
    ),
    examples=examples,
    metrics={"same_length": same_length},
    num_pauses=4,
  )
)
'''
RUNS = """
from pausejax import cli

def run(*words):
  print("RUN", *words, flush=True)
  assert cli.main([*words]) == 0

tiny = (
  "--config.data.task=text", "--config.data.files=texts/",
  "--config.num_steps=2", "--config.data.seq_len=64", "--config.batch_size=4",
  "--config.eval.num_batches=1", "--config.data.pause_mode=even",
  "--config.model.num_layers=1", "--config.model.d_model=16",
  "--config.model.num_heads=2", "--config.optim.name=lion",
  "--config.optim.kwargs.b1=0.8",
)
own = ("--config.tasks_module=my_tasks", "--config.data.task=echo")
split = ("--config.finetune.pause_position=split", "--config.batch_size=2")
short = ("--config.data.seq_len=64", "--config.num_steps=2")
run("inspect", "--config=smoke", *tiny)
run("inspect", "--config=smoke", *tiny,
    "--config.data.pause_mode=after_clauses")
run("train", "--config=smoke", "--workdir=pretrained", *tiny)
run("inspect", "--config=finetune_smoke", *own, *split, *short[:1])
run("train", "--config=finetune_smoke", "--init_from=pretrained",
    "--workdir=finetuned", *own, *split, *short)
run("evaluate", "--checkpoint=finetuned", "--pauses=0,3", "--limit=2")
run("generate", "--checkpoint=finetuned", "--pauses=3", "--position=split",
    "--prompt=Say a:", "--max_new_tokens=2")
run("tasks", "check", "echo", "--tasks_module=my_tasks")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
  """A copy of the package with every change."""
  folder = tmp_path_factory.mktemp("copy")
  skip = shutil.ignore_patterns("__pycache__")
  for name in ("pausejax", "configs"):
    shutil.copytree(ROOT / name, folder / name, ignore=skip)
  for files in CHANGES.values():
    for path, edit in files.items():
      put_before(folder / path, *edit)
  for path, edits in MODE.items():
    for edit in edits:
      put_before(folder / path, *edit)
  (folder / "my_tasks.py").write_text(TASK)
  (folder / "texts").mkdir()
  for i in range(40):
    (folder / "texts" / f"{i}.txt").write_text("A text, to read. " * 40)
  return folder


def put_before(path: pathlib.Path, place: str, text: str) -> None:
  before, found, after = path.read_text().partition(place)
  assert found, f"{path}: no {place!r}"
  path.write_text(before + text + found + after)


def test_the_files_of_each_change_are_those_that_the_table_names():
  table = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
  rows = {row.split("|")[1].strip(" *"): row for row in table if "|" in row}
  for change, files in {**CHANGES, "a way of pausing in text": MODE}.items():
    assert len(files) <= 2
    for path in files:
      named = f"`{path}`" in rows[change]
      assert named or f"`{pathlib.Path(path).parent}/`" in rows[change]
  for change in ("an optimizer", "an optimizer option"):
    assert "| none:" in rows[change]


def test_five_files_tell_what_a_train_step_computes():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  assert [text.index(f"`{path}`") for path in STEP] == sorted(
    text.index(f"`{path}`") for path in STEP
  )
  for path, name in ((STEP[0], "main"), (STEP[1], "train_loop")):
    nodes = ast.parse((ROOT / path).read_text()).body
    defined = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    (one,) = (n for n in defined if n.name == name)
    assert one.end_lineno and one.end_lineno - one.lineno < 50  # One screen.


@pytest.mark.slow
def test_the_programs_follow_every_change(copy):
  done = subprocess.run(
    [sys.executable, "-c", RUNS],
    cwd=copy,
    env={**processes.environment(0, 1, 0, devices=1), "PYTHONPATH": str(copy)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "BAD" not in done.stdout
  assert "1 after every clause" in done.stdout
  assert "ok   M = 10 pauses around the prefix" in done.stdout
  assert "M=3 split <pause>: same_length" in done.stdout
  rows = (copy / "pretrained/metrics.jsonl").read_text().splitlines()
  assert json.loads(rows[0])["param_norm"] > 0
  saved = json.loads((copy / "finetuned/config.json").read_text())
  assert saved["model"]["logit_cap"] == 0.5
  assert saved["finetune"]["pause_position"] == "split"
