"""`pausejax.tasks.corpora` as SeqIO data sources.

Every source yields {"text": string []}, the documents of `source.documents` in
that order, as a tf.data pipeline whose position can be checkpointed. tf.data
wraps a `UserError` into a long `tf.errors.OpError`; `one_line_errors` converts
it back.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from pausejax import errors
from pausejax.tasks import corpora

_BLOCK = 64  # Documents read together; changes speed, not results.
_FILE_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError)


def data_source(source: corpora.CorpusSource) -> seqio.DataSource:
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


def tfds_units(source: corpora.TfdsSource) -> list[corpora.Unit]:
  """Returns a unit for each file that TFDS prepared."""
  units = []
  for split in corpora.SPLITS:
    files = PreparedTfdsSource(source).list_shards(split)
    for number, part in enumerate(_names_and_sizes(files)):
      shard = seqio.ShardInfo(number, len(files))
      read = functools.partial(_tfds_documents, source, split, shard)
      units.append(
        corpora.Unit(corpora.digest([part.decode()]), (split,), read)
      )
  return units


def _tfds_documents(
  source: corpora.TfdsSource,
  split: str,
  shard: seqio.ShardInfo,
  reading: corpora.Reading,
  wanted: Collection[str],
) -> Iterator[corpora.Document]:
  """Yields the documents of one file, if its split is requested."""
  if split not in wanted:
    return
  dataset = PreparedTfdsSource(source).get_dataset(
    split, shuffle=False, shard_info=shard
  )
  with one_line_errors():
    for number, example in enumerate(dataset.as_numpy_iterator()):
      reading.documents += 1
      try:
        yield split, example["text"].decode("utf-8")
      except UnicodeDecodeError as e:
        raise errors.UserError(
          f"{source.name}, split {split!r}, file {shard.index}, document "
          f"{number} is not UTF-8"
        ) from e


def corpus_identity(source: corpora.CorpusSource, split: str) -> dict[str, str]:
  """Returns what identifies a corpus, without reading large ones.

  Documents from Python functions are hashed. Files are identified by name and
  size, so a corpus may move; an edit that keeps the size goes unnoticed.
  """
  if isinstance(source, corpora.PythonSource):
    parts = (text.encode() for text in source.documents(split))
    settings = f"{source.name}, holdout_every={source.holdout_every}"
  elif isinstance(source, corpora.FileSource):
    parts = (
      unit.key.encode() for unit in source.units() if split in unit.splits
    )
    holdout = f"one in {source.holdout_every} of all documents held out"
    holdout = "separate validation files" if source.validation else holdout
    settings = f"files, field={source.field}, {holdout}"
  else:
    parts = _names_and_sizes(data_source(source).list_shards(split))
    settings = f"tfds {source.name}, field={source.field}"
  digest = hashlib.sha256()
  for part in parts:
    digest.update(hashlib.sha256(part).digest())
  return {"source": settings, "source_sha256": digest.hexdigest()}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns tf.data errors that a user can fix into `UserError`."""
  try:
    yield
  except tf.errors.OpError as e:
    match = re.search(r"\bU(?:ser|sage)Error: (.*?)'?\]?$", e.message, re.M)
    if not match and not isinstance(e, _FILE_ERRORS):
      raise
    message = match[1] if match else e.message.splitlines()[0]
    # TensorFlow escapes quotes and backslashes.
    message = re.sub(r"\\(['\"\\])", r"\1", message)
    raise errors.UserError(message) from e


class PreparedTfdsSource(seqio.TfdsDataSource):
  """A prepared TFDS data set, never downloaded and never cached in memory.

  TFDS caches small data sets automatically; such a cache would be part of every
  checkpoint.
  """

  def __init__(self, source: corpora.TfdsSource):
    """Raises UserError unless the data is prepared in its folder."""
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
  """Returns the documents unit by unit; the units may be shuffled."""
  blocks = _Blocks(source, split)
  units = tf.data.Dataset.range(len(blocks))
  if shuffle_files:
    units = units.shuffle(max(len(blocks), 1), seed=seed)
  return units.flat_map(blocks.dataset)


class _Blocks:
  """Blocks of documents; the contents of block k of a unit are fixed.

  So tf.data only needs to save two numbers, and the documents are those that
  `corpora` reads. Reading continues after the previous block; after a restore,
  the unit is read again from its start.
  """

  def __init__(self, source: corpora.FileSource, split: str):
    self._split = split
    self._units = [u for u in source.units() if split in u.splits]
    self._counts: dict[int, int] = {}  # Unit -> documents of all splits.
    self._ahead: dict[tuple[int, int], Iterator[str]] = {}
    self._problem = b""  # First error; nothing is read after it.

  def __len__(self) -> int:
    return len(self._units)

  def dataset(self, unit: tf.Tensor) -> tf.data.Dataset:
    """Returns {"text"}, the documents of one unit."""

    def read(block):
      # Errors are returned: TensorFlow logs a traceback of raised ones.
      problem, texts = tf.numpy_function(
        self._read, [unit, block], (tf.string, tf.string), stateful=False
      )
      with tf.control_dependencies([tf.Assert(problem == "", [problem])]):
        return tf.ensure_shape(texts, [None])

    # In order, one call at a time: tf.data may parallelize other maps.
    blocks = tf.data.Dataset.range(2**62).map(
      read, num_parallel_calls=1, deterministic=True
    )
    blocks = blocks.take_while(lambda texts: tf.size(texts) > 0)
    return blocks.unbatch().map(lambda text: {"text": text})

  def _read(self, unit: int, block: int) -> tuple[bytes, np.ndarray]:
    """Returns the error, b"" if none, and the documents of a block.

    After the last document of the unit, the block is empty.
    """
    place, texts = (int(unit), int(block)), []
    if not self._problem:
      ahead = self._ahead.pop(place, None) or self._from(*place)
      try:
        texts = list(itertools.islice(ahead, _BLOCK))
      except errors.UserError as e:
        self._problem = f"UserError: {e.message}".encode()
    if texts:
      self._ahead[place[0], place[1] + 1] = ahead
    # dtype object: numpy strips zeros at the end of bytes.
    return self._problem, np.array([text.encode() for text in texts], object)

  def _from(self, unit: int, block: int) -> Iterator[str]:
    """Yields the documents of a unit, starting at a block."""
    start = self._start(unit)
    reading = corpora.Reading(documents=start)
    documents = self._units[unit].read(reading, (self._split,))
    for _, text in itertools.islice(documents, block * _BLOCK, None):
      yield text
    self._counts[unit] = reading.documents - start

  def _start(self, unit: int) -> int:
    """Returns the index in the corpus of a unit's first document."""
    for before, part in enumerate(self._units[:unit]):
      if part.count is not None and before not in self._counts:
        self._counts[before] = part.count()
    return sum(self._counts.get(before, 0) for before in range(unit))


def tfds_examples(name: str, data_dir: str, split: str) -> Iterator[dict]:
  """Yields the examples of a prepared split as plain Python values.

  Args:
    name: builder with its version, as in "gsm8k:1.0.0".
    data_dir: folder of prepared data, "" for the default of TFDS.
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
  """Returns the TFDS folder; raises UserError unless it has `name`."""
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
