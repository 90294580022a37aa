"""Reads what trackers wrote, without TensorBoard and without a W&B server."""

import importlib
import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

_BLOCK, _HEADER = 32768, 7


def tensorboard_scalars(folder: pathlib.Path) -> dict[str, list]:
  """Returns tag -> (step, value) of each point that TensorBoard shows.

  As its EventAccumulators do, a start of a session discards the points of
  earlier files from its step on, unless it is the first.
  """
  points: dict[str, list] = {}
  is_first = True
  for event in _events(folder):
    if event.HasField("session_log") and not is_first:
      for tag, found in points.items():
        points[tag] = [point for point in found if point[0] < event.step]
    is_first = is_first and not event.HasField("session_log")
    for value in event.summary.value:
      text = b"".join(value.tensor.string_val).decode()
      found = text if value.HasField("tensor") else value.simple_value
      points.setdefault(value.tag, []).append((event.step, found))
  return points


def _events(folder: pathlib.Path) -> Iterator[Any]:
  from tensorboardX import writer

  for path in sorted(folder.glob("events.*")):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack_from("<Q", data, at)
      event = writer.Event()
      event.ParseFromString(data[at + 12 : at + 12 + size])
      yield event
      at += 16 + size


def wandb_records(folder: pathlib.Path) -> Iterator[Any]:
  """Yields the records in the .wandb file of a run's folder, in order.

  A file has blocks of 32 KiB with pieces of records: a checksum, the size of
  the piece, and whether it is whole (1), the first (2), middle or last (4).
  """
  protocol = importlib.import_module("wandb.proto.wandb_internal_pb2")
  (path,) = folder.glob("*.wandb")
  data, at, record = path.read_bytes(), _HEADER, b""
  while at + _HEADER <= len(data):
    left = _BLOCK - at % _BLOCK
    if left < _HEADER:
      at += left
      continue
    _, size, kind = struct.unpack_from("<IHB", data, at)
    piece = data[at + _HEADER : at + _HEADER + size]
    record = piece if kind in (1, 2) else record + piece
    at += _HEADER + size
    if kind in (1, 4):
      parsed = protocol.Record()
      parsed.ParseFromString(record)
      yield parsed


def wandb_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the logged rows of a run's folder, as W&B stores them."""
  return [
    {
      ".".join([item.key] if item.key else item.nested_key): json.loads(
        item.value_json
      )
      for item in record.history.item
    }
    for record in wandb_records(folder)
    if record.WhichOneof("record_type") == "history"
  ]


def wandb_config(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the config in a run's folder."""
  return {
    update.key: json.loads(update.value_json)
    for record in wandb_records(folder)
    if record.WhichOneof("record_type") == "run"
    for update in record.run.config.update
  }
