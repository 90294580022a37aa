"""Readers of what users bring as text: data, predictions, configs."""

import gzip
import json
import os
import pathlib

from pausejax import tasks
from pausejax.config import default, loader, saved, train_config
from pausejax.programs import score
from pausejax.tasks import corpora
from tests import task_samples, test_task_records
from tests.fuzz.reader import LINES, TEXTS, Reader, put, tree

# Published data: records of tasks, predictions, text.


def _published(folder: pathlib.Path, name: str) -> list[str]:
  """Writes the files of a task; returns the names of its last split."""
  for content in task_samples.FILES[name].values():
    task_samples.write(folder, content)
  return list(content)


def _task(name: str, number: int) -> Reader:
  def make(folder):
    return folder / _published(folder, name)[number]

  def read(path):
    split = list(task_samples.FILES[name])[-1]
    loaded = test_task_records.load(name, split, path.parent)
    task = tasks.downstream(name)
    test_task_records.require_gold_is_right(task, loaded.rows)
    return loaded

  return Reader(name=f"task {name} {number}", make=make, read=read)


def _predictions(name: str, file: str) -> Reader:
  def loaded(folder):
    split = list(task_samples.FILES[name])[-1]
    return test_task_records.load(name, split, folder)

  def make(folder):
    _published(folder, name)
    gold = {row.id: row.target for row in loaded(folder).rows}
    rows = [{"id": k, "prediction": x} for k, x in gold.items()]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return put(folder / file, lines if "l" in file[-1] else json.dumps(gold))

  def read(path):
    task, examples = tasks.downstream(name), loaded(path.parent)
    answers = score.read_answers(task, examples, path)
    values = score.score_answers(task, examples, answers)
    assert all(0 <= values[n] <= 100 for n in task.metrics)
    return values

  return Reader(name=f"{file} of {name}", make=make, read=read)


def _corpus(file: str, content: bytes) -> Reader:
  def read(path):
    source = corpora.FileSource(
      train=str(path), validation="", field="text", holdout_every=3
    )
    found = [(s, x) for s in corpora.SPLITS for x in source.documents(s)]
    assert all("\0" not in x and x.encode() is not None for _, x in found)
    return found

  make = lambda folder: put(folder / file, content)
  return Reader(name=f"text {file}", make=make, read=read)


# Configs.


def _config() -> Reader:
  def make(folder):
    values = saved.config_to_json(tree())
    return put(folder / "config.json", json.dumps(values))

  def read(path):
    tree = loader.load_config(str(path)).to_dict()
    train_config(tree)
    written = json.loads(json.dumps(saved.config_to_json(tree)))
    again = saved.read_saved(saved.current(written, "")).to_dict()
    assert repr(again) == repr(tree)
    return tree

  return Reader(name="config.json", make=make, read=read)


OVERRIDES = (
  "data.task=gsm8k=1,squad=3\ndata.later_rates=5:gsm8k=2;9:squad=1",
  "optim.kwargs.b1=0.5\noptim.kwargs={}\nbatch_size=8\nlater_batch_sizes=4:16",
  "model.d_ff=64\noptim.learning_rate=1e-3\nfinetune.packing=false\nseed=3",
  'eval.sample_prompts=["a, b", "c"]\nmesh.data=-1\noptim.freeze=embedding',
  "data.segments_dir=gsm8k=a,squad=b\ndata.task=gsm8k=1,squad=3",
)


def _overrides(number: int) -> Reader:
  def read(path):
    tree = default()
    for line in os.fsdecode(path.read_bytes()).split("\n"):
      loader.apply_override(tree, f"--config.{line}")
    train_config(tree.to_dict())
    return json.dumps(tree.to_dict())

  make = lambda folder: put(folder / "overrides", OVERRIDES[number])
  return Reader(name=f"overrides {number}", make=make, read=read)


def _config_argument() -> Reader:
  def read(path):
    text = os.fsdecode(path.read_bytes())
    return loader.load_config(f"finetune:{text}").to_dict()

  make = lambda folder: put(folder / "argument", "task=squad,pauses=50")
  return Reader(name="argument of --config", make=make, read=read)


READERS = [
  *(_task(name, 0) for name in task_samples.FILES),
  _task("piqa", 1),
  _predictions("gsm8k", "answers.json"),
  _predictions("coqa", "answers.jsonl"),
  _predictions("piqa", "answers.json"),
  _corpus("a.txt", "\n".join(TEXTS).encode()),
  _corpus("a.jsonl", LINES.encode()),
  _corpus("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
  _config(),
  *(_overrides(number) for number in range(len(OVERRIDES))),
  _config_argument(),
]
