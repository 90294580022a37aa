"""Tokenizes a task and cuts it into segments, once, for any number of runs.

  pausejax segments --config=configs/smoke.py --out=/data/segments
  pausejax segments --config=configs/pretrain_c4.py --out=/data/c4-segments \\
    --config.data.files='/data/c4/en/c4-train.*.json.gz' --num_workers=16 \\
    --config.data.validation_files='/data/c4/en/c4-validation.*.json.gz'
  pausejax segments --config=configs/finetune.py:task=squad \\
    --config.data.local_dir=/data/squad --out=/data/squad-examples
  pausejax segments --verify=/data/c4-segments

Training then uses --config.data.segments_dir=/data/segments. Pauses are not
stored: standard and pause runs read the same segments. For a downstream task,
one process stores the tokenized examples, for any number of pauses.

--num_workers=N uses N processes. --shard=i/n prepares only every n-th unit of
the corpus, for n machines that share the folder, or the URL of a bucket; the
last one to finish writes the index. After a crash, the same command prepares
only what is missing; the bytes do not depend on which process wrote them.
--verify reads a whole store and reports every file that differs from the index.
"""

import argparse
import contextlib
import pathlib
import time
from collections.abc import Mapping

from etils import epath

from pausejax import commandline, errors, files, locks, tasks
from pausejax.buckets import stores, urls
from pausejax.config import DataConfig, TrainConfig, train_config
from pausejax.data import pipeline, record_store, tokenizers
from pausejax.data.finetuning import encoded
from pausejax.data.pretraining import prepare, segments
from pausejax.runtime.progress import CountBar
from pausejax.tasks import corpora

# The fields that determine a store; all others are for other verbs.
_FIELDS = (
  "tasks_module",
  "data.task",
  "data.tokenizer",
  "data.seq_len",
  "data.pause_fraction",
  "data.pause_mode",
  "data.files",
  "data.validation_files",
  "data.field",
  "data.holdout_every",
  "data.tfds_name",
  "data.tfds_data_dir",
  "data.local_dir",
)

# A larger share of held-out text gets a warning.
_MAX_HELD_OUT = 0.1


def main(argv: list[str]) -> int:
  """Makes a store and prints its contents, or verifies one."""
  if any(arg.partition("=")[0] == "--verify" for arg in argv):
    return _verify(argv)
  options, tree = parser().parse(argv)
  errors.require_in_range("--num_workers", options.num_workers, 1)
  config = train_config(tree.to_dict())
  tasks.import_module(config.tasks_module)
  is_finetuning = pipeline.is_finetuning(config.data.rates)
  errors.require(
    not is_finetuning or (options.num_workers, options.shard) == (1, (1, 1)),
    "--num_workers, --shard: the examples of a downstream task are made by one "
    "process; leave them out",
  )
  make = _make_examples if is_finetuning else _make_segments
  if not urls.is_url(options.out):
    index = make(options, config, pathlib.Path(options.out))
  elif is_finetuning:
    with stores.building(urls.normal("--out", options.out)) as (out, _):
      index = make(options, config, out)
  else:
    index = _make_in_bucket(options, config)
  if index is None:
    number, count = options.shard
    print(f"shard {number}/{count} is done; others are not, so no index yet")
    return 0
  lines = _examples(index) if is_finetuning else _segments(index, config.data)
  kind = "examples" if is_finetuning else "segments"
  print(*lines, f"{kind} are in {options.out}", sep="\n")
  return 0


def _make_examples(
  options: argparse.Namespace, config: TrainConfig, out: pathlib.Path
) -> dict:
  """Makes the store of a downstream task in a local folder."""
  files.require_writable("--out", out)
  tokenizer = tokenizers.load_for(config.data)
  with locks.unused_removed(out, record_store.HEAD):
    return encoded.write_encoded(config.data, tokenizer, out)


def _make_in_bucket(
  options: argparse.Namespace, config: TrainConfig
) -> dict | None:
  """Makes a store or a part of one; returns the index if all are made.

  Other machines may upload their parts while this one builds its own, so it
  looks again after its upload.
  """
  url = urls.normal("--out", options.out)
  for _ in range(2):
    with stores.building(url, options.shard) as (out, sizes):
      index = _make_segments(options, config, out, sizes)
    if index is not None:
      return index
  return None


def _make_segments(
  options: argparse.Namespace,
  config: TrainConfig,
  out: pathlib.Path,
  elsewhere: Mapping[str, int] | None = None,
) -> dict | None:
  """Makes segments in a local folder; returns the index if all are made."""
  files.require_writable("--out", out)
  tokenizer = tokenizers.load_for(config.data)
  # With several shards, another process may be building there.
  is_alone = options.shard[1] == 1
  refused = locks.unused_removed(out, record_store.HEAD)
  with (
    refused if is_alone else contextlib.nullcontext(),
    CountBar("units", 0) as bar,
  ):
    return prepare.write_segments(
      config.data,
      tokenizer,
      out,
      _showing(bar),
      shard=options.shard,
      num_workers=options.num_workers,
      tasks_module=config.tasks_module,
      elsewhere=elsewhere,
    )


def _examples(index: dict) -> list[str]:
  """Returns lines on a store of a downstream task."""
  return [
    f"{split}: {index[split]['num_examples']:,} examples"
    for split in corpora.SPLITS
  ]


def _segments(index: dict, data: DataConfig) -> list[str]:
  """Returns lines on a store of segments."""
  lines = [
    f"{split}: {part['num_documents']:,} documents, "
    f"{part['num_tokens']:,} tokens, {part['num_segments']:,} segments, "
    f"unigram entropy {part['unigram_entropy']:.3f} nats"
    for split, part in ((split, index[split]) for split in corpora.SPLITS)
  ]
  return [*lines, *_held_out(index, data), *_skipped(index)]


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser(
    "segments", __doc__, config=True, uses=_FIELDS, in_bucket=("out",)
  )
  add = made.add_argument
  add("--out", required=True, help="folder of the store, also gs:// or s3://")
  add("--num_workers", type=int, default=1, help="processes (1)")
  add(
    "--shard",
    type=commandline.shard,
    default="1/1",
    help="i/n: build every n-th unit (1/1)",
  )
  add("--verify", metavar="DIR", help="check a store; no other option")
  return made


def _held_out(index: dict, data: DataConfig) -> list[str]:
  """Returns lines on the share of the text that is held out of training."""
  documents, tokens = (
    [index[split][name] for split in corpora.SPLITS]
    for name in ("num_documents", "num_tokens")
  )
  share = tokens[1] / sum(tokens)
  line = (
    f"held out: {documents[1]:,} of {sum(documents):,} documents, "
    f"{tokens[1]:,} of {sum(tokens):,} tokens ({share:.1%})"
  )
  if share <= _MAX_HELD_OUT or data.validation_files:
    return [line]
  return [
    line,
    f"warning: more than {_MAX_HELD_OUT:.0%} of the text is held out, since "
    f"one document in {data.holdout_every} is, whole, and at least one; split "
    "the text into more documents, or name other text as data.validation_files",
  ]


def _skipped(index: dict) -> list[str]:
  """Returns lines on the input that a store left out or converted."""
  lines = list(index["left_out"])
  if index["blank_lines"]:
    lines.append(
      f"{index['blank_lines']:,} blank lines, which are not documents"
    )
  if index["crlf_files"]:
    lines.append(f"{index['crlf_files']:,} .txt files with CRLF, read as LF")
  return lines


def _showing(bar: CountBar) -> prepare.Report:
  """Returns a function that shows progress on a bar."""
  began = time.monotonic()

  def show(progress: prepare.Progress) -> None:
    speed = progress.num_tokens / max(time.monotonic() - began, 1e-3)
    bar.update(
      progress.num_done,
      progress.num_units,
      f"{progress.num_documents:,} documents, {progress.num_tokens:,} tokens, "
      f"{speed:,.0f} tokens/s",
    )

  return show


def _verify(argv: list[str]) -> int:
  """Reads a whole store; returns 1 if a file differs from the index."""
  parser = commandline.Parser("segments", __doc__, config=False)
  parser.add_argument("--verify", required=True, metavar="DIR")
  options, _ = parser.parse(argv)
  folder = epath.Path(stores.local_store(options.verify, "--verify"))
  record_store.require_formats(
    folder,
    ("format", segments.FORMAT),
    ("examples_format", encoded.FORMAT),
  )
  num_files = num_wrong = 0
  for file, problem in record_store.verify(folder):
    num_files += 1
    num_wrong += bool(problem)
    problem = problem.replace(str(folder), options.verify.rstrip("/"))
    print(f"BAD  {problem}" if problem else f"ok   {file}", flush=True)
  num_right = num_files - num_wrong
  print(f"{num_right:,} of {num_files:,} files match the index")
  return 1 if num_wrong else 0
