"""Shows and checks the sequences of a task before any training.

  pausejax inspect --task=gsm8k --local_dir=/data/gsm8k --pauses=10 -n 3
  pausejax inspect --task=stdlib_docs --html=batch.html --json=batch.json
  pausejax inspect --task=squad --config=runs/squad50/config.json

Prints the first -n examples of the first batch, or of the one that --batch
numbers, its statistics, and one line per check, `ok` or `BAD`. The exit code is
1 if any check is BAD. Without --config, a downstream task uses
configs/finetune.py and a pretraining task configs/smoke.py; its segments are
prepared temporarily unless --config.data.segments_dir names a store. Needs
neither JAX nor TensorFlow, except that TFDS is read by TensorFlow.

B rows, T positions.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import tempfile

from ml_collections import ConfigDict

from pausejax import commandline, errors, tasks
from pausejax.config import (
  TrainConfig,
  arguments,
  loader,
  mixtures,
  train_config,
)
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import pipeline, tokenizers
from pausejax.data.batch import PADDING, Batch
from pausejax.data.finetuning import examples
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.data.pretraining import segments
from pausejax.data.pretraining.source import SegmentSource
from pausejax.inspection import checks, page, sequences
from pausejax.tasks import corpora

_LEGEND = (
  "[pause] the pause token  ~ in the prefix (in_prefix)\n"
  "^ the target of this position is in the loss, and is the next token\n"
  "^x the target x is in the loss, and is not the next token\n"
  "no ^: the target is not in the loss"
)
_REVERSE, _GREEN, _RED = "7", "32", "31"


def main(argv: list[str]) -> int:
  """Shows and checks one batch; returns 1 if a check fails."""
  options, tree = _parse(argv)
  values = tree.to_dict()
  config = train_config(values)
  tasks.import_module(config.tasks_module)
  names = config.data.task_names
  errors.require(
    len(names) == 1, f"--task: one task at a time, as in --task={names[0]}"
  )
  pipeline.check_data(config.data, config.finetune)
  pipeline.require_used_pauses(config.data)
  tokenizer = tokenizers.load_for(config.data)
  if pipeline.is_finetuning(names):
    batch, rules, about = _finetuning(
      config, tokenizer, options.split, options.batch
    )
  else:
    errors.require(
      options.pauses is None,
      "--pauses: a pretraining task has --config.data.pause_fraction",
    )
    batch, rules, about = _pretraining(
      config, values, tokenizer, options.split, options.batch
    )
  report = _report(batch, rules, about, options.n)
  _show(report)
  if options.json:
    text = json.dumps(report, indent=1, ensure_ascii=False)
    _write("--json", options.json, text + "\n")
  if options.html:
    _write("--html", options.html, page.inspection_page(report))
  return 0 if all(c["is_ok"] for c in report["checks"]) else 1


def _parse(argv: list[str]) -> tuple[argparse.Namespace, ConfigDict]:
  """Returns the options and the config, by default that for the task."""
  parser = commandline.Parser(
    "inspect",
    __doc__,
    config=False,
    uses=("data", "finetune", "batch_size", "seed", "tasks_module"),
  )
  add = parser.add_argument
  add("--task", default=None, help="name of a task (the config's)")
  add("--config", metavar="FILE[:ARG]", help=commandline.CONFIG_HELP)
  add("-n", type=int, default=3, help="examples to show (3)")
  add("--split", default="train", help="split (train)")
  add("--batch", type=int, default=0, help="batch of the training (0)")
  add("--pauses", type=int, default=None, help="M (default: the task's)")
  add("--local_dir", default=None, help="folder of published files")
  add("--tokenizer", default=None, help="as data.tokenizer (bytes)")
  add("--tasks_module", default=None, help="registers tasks of your own")
  add("--seed", type=int, default=None, help="seed of the order (0)")
  add("--html", default="", help="HTML file to write")
  add("--json", default="", help="JSON file to write")
  help_options = commandline.HELP & {*argv}
  first, _ = parser.parse_known_args([a for a in argv if a not in help_options])
  if first.config is None and (first.task or not help_options):
    module = arguments.last_value(argv, "--config.tasks_module")
    name = _config_for(first.task, first.tasks_module or module)
    parser.set_defaults(config=name)
  options, tree = parser.parse(argv, _inherit)
  errors.require_in_range("-n", options.n, 0)
  errors.require_in_range("--batch", options.batch, 0)
  errors.require(
    not options.batch or options.split == "train",
    f"--batch: counts the batches of training, not of {options.split!r}",
  )
  return options, tree


def _config_for(task: str | None, tasks_module: str) -> str:
  """Returns the default config for the kind of a task."""
  if not task:
    raise errors.UsageError("--task: name a task, or give --config")
  tasks.import_module(tasks_module)
  names = mixtures.rates(task, "--task")
  return "finetune" if pipeline.is_finetuning(names) else "smoke"


def _inherit(options: argparse.Namespace, config: ConfigDict) -> None:
  """Sets the fields that have their own option."""
  for name, value in (
    ("data.task", options.task),
    ("data.local_dir", options.local_dir),
    ("data.tokenizer", options.tokenizer),
    ("finetune.num_pauses", options.pauses),
    ("tasks_module", options.tasks_module),
    ("seed", options.seed),
  ):
    if value is not None:
      loader.apply_override(config, f"--config.{name}={value}")


def _finetuning(
  config: TrainConfig,
  tokenizer: tokenizers.PauseTokenizer,
  split: str,
  step: int,
) -> tuple[Batch, sequences.Rules, dict]:
  """Returns a batch of a downstream task, its rules, and a summary."""
  name = config.data.only_task
  task = tasks.downstream(name)
  errors.require_one_of("--split", split, examples.splits(task))
  made = pipeline.encode_split(config, tokenizer, name, split)
  source = FinetuneSource(
    [made],
    [1.0],
    data=config.data,
    packing=config.finetune.packing,
    tokenizer=tokenizer,
    sizes=batch_sizes(config.batch_size),
    seed=config.seed,
  )
  rules = sequences.FinetuningRules(
    seq_len=config.data.seq_len, tokenizer=tokenizer, sequences=made
  )
  about = {
    "what": made.summary(),
    "pauses": str(made.format.filler),
    "lengths": sequences.lengths(made),
    "num_cut": made.prompts.num_cut,
    "num_cut_tokens": made.prompts.num_cut_tokens,
  }
  if split == "train":
    rules = dataclasses.replace(rules, drawn=source.drawn(step))
    batch = source.training_batch(step)
    starts = source.stage_starts(config.num_steps)
    return batch, rules, about | {"all": source.summary(starts)}
  return next(source.evaluation_batches(1)), rules, about


def _pretraining(
  config: TrainConfig,
  values: dict,
  tokenizer: tokenizers.PauseTokenizer,
  split: str,
  step: int,
) -> tuple[Batch, sequences.Rules, dict]:
  """Returns a batch of a pretraining task, its rules, and a summary."""
  errors.require_one_of("--split", split, corpora.SPLITS)
  with tempfile.TemporaryDirectory() as folder:
    store = _segments(config, values, tokenizer, split, pathlib.Path(folder))
    source = SegmentSource(
      data=config.data,
      store=store,
      tokenizer=tokenizer,
      sizes=batch_sizes(config.batch_size),
      seed=config.seed,
    )
    if split == "train":
      batch = source.training_batch(step)
      first = step * config.batch_size
      places = [source.record(first + b) for b in range(config.batch_size)]
    else:
      batch = next(source.evaluation_batches(1))
      places = range(min(config.batch_size, len(store)))
    text_BT = store.read(places, PADDING)
  rules = sequences.PretrainingRules(
    seq_len=config.data.seq_len,
    tokenizer=tokenizer,
    text_BT=text_BT,
    max_short=(config.batch_size - 1) // len(store) + 1,
    pauses=config.data.pauses,
  )
  what = f"{config.data.task} {split}: {len(store):,} segments"
  return batch, rules, {"what": what, "pauses": str(config.data.pauses)}


def _segments(
  config: TrainConfig, values: dict, tokenizer, split: str, folder: pathlib.Path
) -> segments.Segments:
  """Opens the prepared segments, or prepares them in a folder."""
  data = config.data
  source = tasks.pretraining(data.only_task).source(data)
  errors.require(
    bool(data.segments_dir) or not isinstance(source, corpora.TfdsSource),
    f"task {data.task!r} is too large to prepare for inspection; name "
    "prepared segments with --config.data.segments_dir=",
  )
  pipeline.prepare(config, values, folder)
  return segments.open_segments(
    data.segments_dir or folder / "segments",
    split,
    data,
    tokenizer,
  )


def _report(
  batch: Batch, rules: sequences.Rules, about: dict, count: int
) -> dict:
  """Returns the whole report as JSON values."""
  results = checks.check_batch(batch, rules)
  return {
    **about,
    "statistics": sequences.statistics(batch, rules),
    "checks": [vars(c) for c in results],
    "rows": sequences.rows(batch, rules, count),
  }


def _write(option: str, name: str, text: str) -> None:
  try:
    pathlib.Path(name).write_text(text, encoding="utf-8")
  except OSError as e:
    raise errors.UserError(f"{option}: cannot write {name}: {e}") from e


def _show(report: dict) -> None:
  """Prints the report, in color only on a terminal."""
  color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
  width = shutil.get_terminal_size().columns
  print(f"{report['what']}; pauses: {report['pauses']}")
  if report["rows"]:
    print(_LEGEND)
  for row in report["rows"]:
    print(f"row {row['row']}: {row['num_examples']} example(s)")
    for number, example in enumerate(row["examples"], start=1):
      end = example["start"] + len(example["text"]) - 1
      print(
        f" example {number}, positions {example['start']} to {end} of the row"
      )
      for line in _lines(example, width, color):
        print(line)
    if row["padding"]:
      print(f" padding, {row['padding']} positions")
  for line in sequences.statistics_lines(report):
    print(line)
  for check in report["checks"]:
    code = _GREEN if check["is_ok"] else _RED
    mark = _paint("ok " if check["is_ok"] else "BAD", code, color)
    print(f"{mark}  {check['name']}: {check['numbers']}")


def _lines(example: dict, width: int, color: bool) -> list[str]:
  """Returns the tokens of an example and their marks, two lines at a time.

  Not a table of rich, which would wrap each of the two lines for itself.
  """
  lines, tokens, marks, used = [], "", "", width
  for position, text, mark in sequences.cells(example):
    size = max(len(text), len(mark))
    if used + 1 + size > width:
      lines += [tokens, marks]
      tokens, marks, used = f"{position:7}", " " * 7, 7
    shown = _paint(text, _REVERSE, color and text == "[pause]")
    tokens += " " + shown + " " * (size - len(text))
    marks += " " + mark.ljust(size)
    used += 1 + size
  return [line.rstrip() for line in [*lines[2:], tokens, marks]]


def _paint(text: str, code: str, color: bool) -> str:
  return f"\x1b[{code}m{text}\x1b[0m" if color else text
