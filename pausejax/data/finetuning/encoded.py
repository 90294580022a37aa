"""Downstream examples, tokenised once, in the same kind of store as segments.

  train.array_record        a record an example, JSON
  validation.array_record
  index.json                what is in there, and from what

A record is {"example": the text, "prefix_ids", "target_ids"}. Pauses are put in
and prefixes are cut when the examples are read: one store serves every number
of pauses and every length, and the batches are those of the published files.
"""

import dataclasses
import json
import pathlib

import numpy as np
from etils import epath

from pausejax import errors, json_files, locks, tasks
from pausejax.config import DataConfig
from pausejax.data import record_store
from pausejax.data.finetuning import examples, prompts
from pausejax.data.tokenizers import PauseTokenizer

FORMAT = 2
SPLITS = ("train", "validation")
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


def identity(task: tasks.Task, data: DataConfig, tokenizer) -> dict:
  """Returns what a run expects of a store."""
  return {
    "examples_format": FORMAT,
    "task": task.name,
    "delimiter": task.delimiter,
    "holdout_every": data.holdout_every,
    **tokenizer.fingerprint(),
  }


def write(
  data: DataConfig, tokenizer: PauseTokenizer, out: pathlib.Path
) -> dict:
  """Tokenises both splits of the task of `data`; returns the index.

  Raises:
    UserError: `out` holds something else or cannot be written to, or the
      published files are missing or malformed.
  """
  task = tasks.downstream(data.task)
  head = identity(task, data, tokenizer)
  source = task.source.describe(data)
  record_store.begin(out, {**head, "source": source})
  index = {**head, "source": source}
  with locks.alone(
    out / record_store.UNITS / "lock", f"--out: {out} is being made already"
  ):
    for split in SPLITS:
      found = examples.load(task, split, data)
      index[split] = {
        "num_examples": len(found.rows),
        "num_unusable": found.num_unusable,
        "examples_sha256": found.sha256,
        "shards": _write(found, task, tokenizer, out),
      }
    record_store.write_json(out / record_store.INDEX, index)
  return index


def load(
  folder: str,
  task: tasks.Task,
  split: str,
  data: DataConfig,
  tokenizer: PauseTokenizer,
) -> examples.Examples:
  """Returns what `examples.load` does, from a store, with the ids.

  Raises:
    UserError: no store there, one of another task or tokenizer (the message
      names what differs), or a file that is missing or damaged.
  """
  errors.require_one_of("split", split, SPLITS)
  path = epath.Path(folder)
  where = f"the store of examples {folder}"
  format = ("examples_format", FORMAT)
  index = record_store.read_index(path, _SPLIT, format=format)
  index = upgrade(index, index.get("examples_format", FORMAT))
  errors.require_same(where, index, identity(task, data, tokenizer))
  part = index[split]
  source = record_store.open_records(path, part["shards"])
  read = [
    json_files.parse(
      source[i], _RECORD, f"{folder} {split} {i}", "make the store again"
    )
    for i in range(len(source))
  ]
  for number, record in enumerate(read):
    problem = _wrong_id(record, tokenizer)
    if problem:
      file, place = record_store.locate(part["shards"], number)
      raise errors.UserError(
        f"the store of examples {folder}: record {place} of {file} cannot be "
        f"used: {problem}; `pausejax segments --verify={folder}` names a "
        "damaged file; if it finds none, make the store again"
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
  their defaults, and other ids of examples where none is published.
  """
  return {**index, "examples_format": FORMAT} if format < FORMAT else index


def _wrong_id(record: dict, tokenizer: PauseTokenizer) -> str:
  """Returns what is wrong with the ids of a record, "" if nothing."""
  for name in ("prefix_ids", "target_ids"):
    try:
      ids = np.asarray(record[name])
    except ValueError:  # Lists of several lengths.
      return f"{name} is no list of ids"
    if problem := tokenizer.wrong_id(ids):
      return problem
  return ""


def _write(found: examples.Examples, task, tokenizer, out) -> list[dict]:
  """Writes the records of one split; returns the row of its file."""
  prefixes = tokenizer.encode([row.prefix for row in found.rows])
  targets = prompts.targets(task, tokenizer, found.rows)
  writer = record_store.Writer(out / f"{found.split}.array_record")
  for row, prefix, target in zip(found.rows, prefixes, targets, strict=True):
    record = {
      "example": dataclasses.asdict(row),
      "prefix_ids": list(map(int, prefix)),
      "target_ids": list(map(int, target)),
    }
    writer.write(json.dumps(record).encode())
  return writer.close()
