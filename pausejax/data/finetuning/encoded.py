"""Downstream examples on disk, tokenized once, in a store like segments.

  train.array_record        one record per example, JSON
  validation.array_record
  index.json                contents and settings

A record is {"example": the text, "prefix_ids", "target_ids"}. Pauses are
inserted and prefixes are truncated when the examples are read: one store serves
every number of pauses and every length, and the batches are the same as from
the published files.
"""

import dataclasses
import json
import pathlib

import numpy as np
from etils import epath

from pausejax import errors, json_files, locks, tasks
from pausejax.buckets import stores
from pausejax.config import DataConfig
from pausejax.data import record_store
from pausejax.data.finetuning import examples, prompts
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.tasks.corpora import SPLITS

FORMAT = 2
_SPLIT = {"num_unusable": {str: int}, "examples_sha256": str}
_RECORD = {
  "example": {
    "id": str,
    "prefix": str,
    "target": str,
    "references": [str],
    "options": [str],
    "label": int,
    "hints": [str],
  },
  "prefix_ids": list,
  "target_ids": list,
}


def encoded_identity(task: tasks.Task, data: DataConfig, tokenizer) -> dict:
  """Returns the settings that a store must have for a run."""
  return {
    "examples_format": FORMAT,
    "task": task.name,
    "delimiter": task.delimiter,
    "holdout_every": data.holdout_every,
    **tokenizer.fingerprint(),
  }


def write_encoded(
  data: DataConfig, tokenizer: PauseTokenizer, out: pathlib.Path
) -> dict:
  """Tokenizes both splits of the task of `data`; returns the index.

  Raises:
    UserError: `out` has other files or cannot be written, or the published
      files are missing or malformed.
  """
  task = tasks.downstream(data.only_task)
  head = encoded_identity(task, data, tokenizer)
  source = task.source.describe(data)
  record_store.begin(out, {**head, "source": source})
  index = {**head, "source": source}
  with locks.hold(
    out / record_store.UNITS / "lock",
    f"--out: another process is building {out}",
  ):
    for split in SPLITS:
      loaded = examples.read_split(task, split, data)
      index[split] = {
        "num_examples": len(loaded.rows),
        "num_unusable": loaded.num_unusable,
        "examples_sha256": loaded.sha256,
        "shards": _write(loaded, task, tokenizer, out),
      }
    record_store.write_json(out / record_store.INDEX, index)
  return index


def open_encoded(
  folder: str,
  task: tasks.Task,
  split: str,
  data: DataConfig,
  tokenizer: PauseTokenizer,
) -> examples.Examples:
  """Returns the same as `examples.read_split`, from a store, with the ids.

  Raises:
    UserError: no store, a store of another task or tokenizer (the message names
      the differences), or a missing or damaged file.
  """
  errors.require_one_of("split", split, SPLITS)
  path = epath.Path(stores.local_store(folder, "data.segments_dir"))
  where = f"the store of examples {folder}"
  format = ("examples_format", FORMAT)
  index = record_store.read_index(path, _SPLIT, format=format)
  index = upgrade(index, index.get("examples_format", FORMAT))
  errors.require_same(where, index, encoded_identity(task, data, tokenizer))
  part = index[split]
  source = record_store.open_records(path, part["shards"])
  read = [
    json_files.parse(
      source[i], _RECORD, f"{folder} {split} {i}", "build the store again"
    )
    for i in range(len(source))
  ]
  for number, record in enumerate(read):
    problem = _wrong_id(record, tokenizer)
    if problem:
      file, place = record_store.locate_record(part["shards"], number)
      raise errors.UserError(
        f"the store of examples {folder}: record {place} of {file} cannot be "
        f"used: {problem}; `pausejax segments --verify={folder}` names a "
        "damaged file; if it names none, build the store again"
      )
  return examples.Examples(
    split,
    [tasks.Example(**record["example"]) for record in read],
    part["num_unusable"],
    part["examples_sha256"],
    [record["prefix_ids"] for record in read],
    [record["target_ids"] for record in read],
  )


def upgrade(index: dict, format: int) -> dict:
  """Returns an index of an older format as one of this format.

  Records of format 1 have no `num_characters` and no `group`, which then take
  their defaults, and other ids for examples without a published id.
  """
  return {**index, "examples_format": FORMAT} if format < FORMAT else index


def _wrong_id(record: dict, tokenizer: PauseTokenizer) -> str:
  """Returns the problem with the ids of a record, "" if none."""
  for name in ("prefix_ids", "target_ids"):
    try:
      ids = np.asarray(record[name])
    except ValueError:  # Lists of several lengths.
      return f"{name} is not a list of ids"
    if problem := tokenizer.wrong_id(ids):
      return problem
  return ""


def _write(loaded: examples.Examples, task, tokenizer, out) -> list[dict]:
  """Writes the records of one split; returns the row of its file."""
  prefixes = tokenizer.encode([row.prefix for row in loaded.rows])
  targets = prompts.targets(task, tokenizer, loaded.rows)
  writer = record_store.RecordWriter(out / f"{loaded.split}.array_record")
  for row, prefix, target in zip(loaded.rows, prefixes, targets, strict=True):
    record = {
      "example": dataclasses.asdict(row),
      "prefix_ids": list(map(int, prefix)),
      "target_ids": list(map(int, target)),
    }
    writer.write(json.dumps(record).encode())
  return writer.close()
