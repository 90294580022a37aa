"""Readers of prepared data: stores of segments and of examples."""

import dataclasses
import json
import pathlib
from typing import Any

from etils import epath

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.data import record_store
from pausejax.data.finetuning import encoded
from pausejax.data.pretraining import prepare, segments
from tests import task_samples
from tests.fuzz.reader import BYTES, LINES, Reader, put, tree


def _data(**changes: Any) -> DataConfig:
  values = {"tokenizer": "bytes", "seq_len": 32, **changes}
  return DataConfig(**{**tree()["data"], **values})


def _segments(file: str, is_summed: bool = False) -> Reader:
  def data(folder):
    return _data(task="text", files=str(folder / "text.jsonl"), holdout_every=3)

  def make(folder):
    put(folder / "text.jsonl", LINES)
    prepare.write_segments(data(folder), BYTES, folder / "store")
    return folder / "store" / file

  def read(path):
    folder = path.parents[len(pathlib.PurePath(file).parts)]
    store = epath.Path(folder / "store")
    for _, problem in record_store.verify(store):
      if problem:
        raise errors.UserError(problem)
    data_ = dataclasses.replace(data(folder), segments_dir=str(store))
    found = [
      segments.open_segments(store, split, data_, BYTES)
      for split in record_store.SPLITS
    ]
    ids = [one.read(range(len(one)), BYTES.pad_id) for one in found]
    assert all(not BYTES.wrong_id(x) for x in ids)
    return [x.tolist() for x in ids]

  return Reader(
    name=f"segments {file}", make=make, read=read, is_summed=is_summed
  )


def _examples(file: str, is_summed: bool = False) -> Reader:
  def make(folder):
    put(folder / "train.jsonl", json.dumps(task_samples.GSM8K) + "\n")
    rows = [{**task_samples.GSM8K, "question": f"{i}?"} for i in range(30)]
    task_samples.write(folder, {"train.jsonl": rows, "test.jsonl": rows[:2]})
    data = _data(task="gsm8k", local_dir=str(folder))
    encoded.write_encoded(data, BYTES, folder / "store")
    return folder / "store" / file

  def read(path):
    data = _data(task="gsm8k", local_dir=str(path.parents[1]))
    for _, problem in record_store.verify(epath.Path(path.parent)):
      if problem:
        raise errors.UserError(problem)
    task = tasks.downstream("gsm8k")
    return [
      encoded.open_encoded(str(path.parent), task, split, data, BYTES).rows
      for split in record_store.SPLITS
    ]

  return Reader(
    name=f"examples {file}", make=make, read=read, is_summed=is_summed
  )


READERS = [
  _segments("index.json"),
  _segments("train-rest.array_record", is_summed=True),
  _examples("index.json"),
  _examples("train.array_record", is_summed=True),
]
