"""`pausejax.data.corpora` as SeqIO data sources.

Every source yields {"text": string []}, the documents of `source.documents` in
that order, as tf.data whose place a checkpoint can hold. A `UserError` raised
inside tf.data comes out as a long `tf.errors.OpError`; `one_line_errors` turns
it back.
"""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from pausejax import errors
from pausejax.data import corpora

_FILE_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError)


def data_source(source: corpora.Source) -> seqio.DataSource:
  """Returns the SeqIO source of the same documents.

  Raises:
    UserError: TFDS data that is not prepared; nothing is downloaded.
  """
  if isinstance(source, corpora.TfdsSource):
    return PreparedTfdsSource(source)
  make = _file_dataset
  if isinstance(source, corpora.PythonSource):
    make = _python_dataset
  return seqio.FunctionDataSource(
    functools.partial(make, source), splits=corpora.SPLITS
  )


def tfds_units(source: corpora.TfdsSource, split: str) -> list[corpora.Unit]:
  """Returns a unit for each file that TFDS prepared."""
  files = PreparedTfdsSource(source).list_shards(split)
  return [
    corpora.Unit(
      key=corpora.digest([part.decode()]),
      documents=functools.partial(
        _tfds_documents, source, split, seqio.ShardInfo(number, len(files))
      ),
    )
    for number, part in enumerate(_names_and_sizes(files))
  ]


def _tfds_documents(
  source: corpora.TfdsSource, split: str, shard: seqio.ShardInfo
) -> Iterator[str]:
  """Yields the text of each document of one file."""
  dataset = PreparedTfdsSource(source).get_dataset(
    split, shuffle=False, shard_info=shard
  )
  with one_line_errors():
    for number, example in enumerate(dataset.as_numpy_iterator()):
      try:
        yield example["text"].decode("utf-8")
      except UnicodeDecodeError as e:
        raise errors.UserError(
          f"{source.name}, split {split!r}, file {shard.index}, document "
          f"{number} is not UTF-8"
        ) from e


def identity(source: corpora.Source, split: str) -> dict[str, str]:
  """Returns what tells one corpus from another, without reading large ones.

  Documents made in Python are hashed. Files are told by name and size, so that
  a corpus may move; an edit that keeps the size goes unnoticed.
  """
  if isinstance(source, corpora.PythonSource):
    parts = (text.encode() for text in source.documents(split))
    settings = f"{source.name}, holdout_every={source.holdout_every}"
  elif isinstance(source, corpora.FileSource):
    parts = _names_and_sizes(source.files(split))
    holdout = "separate" if source.validation else source.holdout_every
    settings = f"files, field={source.field}, holdout_every={holdout}"
  else:
    parts = _names_and_sizes(data_source(source).list_shards(split))
    settings = f"tfds {source.name}, field={source.field}"
  digest = hashlib.sha256()
  for part in parts:
    digest.update(hashlib.sha256(part).digest())
  return {"source": settings, "source_sha256": digest.hexdigest()}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns the errors of tf.data that a user can mend into `UserError`."""
  try:
    yield
  except tf.errors.OpError as e:
    found = re.search(r"\bU(?:ser|sage)Error: (.*)", e.message)
    if not found and not isinstance(e, _FILE_ERRORS):
      raise
    message = found[1] if found else e.message.splitlines()[0]
    raise errors.UserError(message) from e


class PreparedTfdsSource(seqio.TfdsDataSource):
  """A prepared TFDS data set, never downloaded and never cached in memory.

  TFDS caches small sets by itself; such a cache would be part of every
  checkpoint.
  """

  def __init__(self, source: corpora.TfdsSource):
    """Raises UserError unless the data lies prepared under its folder."""
    folder = _prepared_under(source.name, source.data_dir, "data.files")
    super().__init__(source.name, tfds_data_dir=folder, read_only=True)
    self._source = source

  def list_shards(self, split: str) -> list[str]:
    """Returns the files of the split."""
    self._require_split(split)
    return list(super().list_shards(split))

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused,
  ) -> tf.data.Dataset:
    """Returns {"text"} of the split, or of a shard of its files."""
    self._require_split(split)
    context = shard_info and tf.distribute.InputContext(
      num_input_pipelines=shard_info.num_shards,
      input_pipeline_id=shard_info.index,
    )
    dataset = self.tfds_dataset.builder.as_dataset(
      split=split,
      shuffle_files=shuffle,
      read_config=tfds.ReadConfig(
        input_context=context,
        shuffle_seed=seed,
        skip_prefetch=True,
        try_autocache=False,
      ),
    )
    field = self._source.field
    if dataset.element_spec.get(field) != tf.TensorSpec([], tf.string):
      known = errors.nearest(field, dataset.element_spec)
      raise errors.UserError(
        f"data.field: {self._source.name} has no text {field!r}{known}"
      )
    return dataset.map(lambda example: {"text": example[field]})

  def _require_split(self, split: str) -> None:
    if split not in self.splits:
      known = errors.nearest(split, self.splits)
      raise errors.UserError(f"{self._source.name}: no split {split!r}{known}")


def _names_and_sizes(paths: Iterable[str]) -> Iterator[bytes]:
  for path in paths:
    size = tf.io.gfile.stat(path).length
    yield f"{os.path.basename(path)} {size}".encode()


def _python_dataset(
  source: corpora.PythonSource,
  split: str,
  shuffle_files: bool,
  seed: int | None = None,
) -> tf.data.Dataset:
  """Returns the documents, all in memory; there are no files to shuffle."""
  del shuffle_files, seed
  texts = [text.encode() for text in source.documents(split)]
  texts = tf.constant(texts, tf.string, shape=[len(texts)])
  return tf.data.Dataset.from_tensor_slices({"text": texts})


def _file_dataset(
  source: corpora.FileSource,
  split: str,
  shuffle_files: bool,
  seed: int | None = None,
) -> tf.data.Dataset:
  """Returns the documents file by file; the files may be shuffled."""
  files = source.files(split)
  paths = tf.constant(files, tf.string, shape=[len(files)])
  paths = tf.data.Dataset.from_tensor_slices(paths)
  if shuffle_files:
    paths = paths.shuffle(len(files) + 1, seed=seed)
  # The next file is checked while the one before it is read.
  paths = paths.map(_checked).prefetch(1)
  return paths.flat_map(functools.partial(_documents, source, split))


def _checked(path: tf.Tensor) -> tf.Tensor:
  """Returns `path`, once a .gz has been read through to its end.

  TensorFlow takes a .gz that was cut off for a shorter file, and would lose
  documents without a word.
  """

  def read_through(path: bytes) -> bytes:
    if path.endswith(b".gz"):
      for _ in corpora.read_lines(path.decode()):
        pass
    return path

  return _call(read_through, [path], tf.string)


def _documents(
  source: corpora.FileSource, split: str, path: tf.Tensor
) -> tf.data.Dataset:
  """Returns the documents of one file, whichever kind it is."""
  is_json = tf.strings.regex_full_match(path, r"(?s).*\.jsonl?(\.gz)?")
  is_gz = tf.strings.regex_full_match(path, r"(?s).*\.gz")
  texts = tf.data.Dataset.from_tensor_slices(
    tf.boolean_mask([path], [~is_json])
  )
  texts = texts.map(
    lambda path: _call(
      lambda p: corpora.read_text(p.decode()).encode(), [path], tf.string
    )
  )
  lines = tf.data.TextLineDataset(
    tf.boolean_mask([path], [is_json]),
    compression_type=tf.where(is_gz, "GZIP", ""),
  )
  parse = functools.partial(_parse, source, split)
  lines = lines.enumerate().map(
    lambda number, line: _call(
      parse, [line, path, number], (tf.bool, tf.string)
    )
  )
  lines = lines.filter(lambda keeps, text: keeps).map(lambda keeps, text: text)
  return texts.concatenate(lines).map(lambda text: {"text": text})


def _parse(
  source: corpora.FileSource, split: str, line: bytes, path: bytes, number: int
) -> tuple[bool, bytes]:
  """Returns whether the line is in the split, and then its text."""
  if not source.keeps_line(int(number), split):
    return False, b""
  text = corpora.parse_line(line, path.decode(), int(number), source.field)
  return True, text.encode()


def _call(function, inputs, dtypes):
  """Runs a Python function on scalars inside tf.data."""
  outputs = tf.numpy_function(function, inputs, dtypes, stateful=False)
  for output in tf.nest.flatten(outputs):
    output.set_shape([])
  return outputs


def tfds_examples(name: str, data_dir: str, split: str) -> Iterator[dict]:
  """Yields the examples of a prepared split as plain Python values.

  Args:
    name: builder with its version, as in "gsm8k:1.0.0".
    data_dir: folder of prepared data, "" for TFDS's own.
    split: one of the builder's splits.

  Raises:
    UserError: the data is not prepared; nothing is downloaded.
  """
  folder = _prepared_under(name, data_dir, "data.local_dir")
  builder = tfds.builder(name, data_dir=folder)
  errors.require_one_of("TFDS split", split, builder.info.splits)
  config = tfds.ReadConfig(try_autocache=False)
  dataset = builder.as_dataset(
    split=split, shuffle_files=False, read_config=config
  )
  with one_line_errors():
    for example in tfds.as_numpy(dataset):
      yield _plain(example)


def _prepared_under(name: str, data_dir: str, other: str) -> str:
  """Returns the TFDS folder, or raises UserError unless `name` lies there."""
  folder = data_dir or tfds.core.constants.DATA_DIR
  info = os.path.join(folder, name.replace(":", "/"))
  info = os.path.join(info, tfds.core.constants.DATASET_INFO_FILENAME)
  if not tf.io.gfile.exists(info):
    raise errors.UserError(
      f"data.tfds_data_dir: {name} is not prepared under {folder} (no {info}); "
      f"set data.tfds_data_dir, or name files in {other}"
    )
  return folder


def _plain(value: Any) -> Any:
  """Returns numpy and bytes as lists, numbers and text."""
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, tf.RaggedTensor | tf.compat.v1.ragged.RaggedTensorValue):
    return _plain(value.to_list())
  if isinstance(value, np.ndarray | np.generic):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(v) for v in value]
  return value.decode("utf-8") if isinstance(value, bytes) else value
