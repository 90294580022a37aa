"""The pipeline "seqio": batches from text, streamed by tf.data.

  documents -> ids, EOS -> segments -> shuffle -> repeat -> batch -> pauses

Pauses are inserted last and depend on the batch number, so they differ between
epochs, and a run without pauses reads the same text in the same order as a run
with "insert_trim". Each of H hosts reads its own part of the source: unlike in
the segments pipeline, the batches depend on H, and a run must resume on the
same number of hosts.

Shapes: B rows of this host, T positions.
"""

import importlib.metadata
import pathlib
import tempfile
import weakref
from typing import Self

import seqio
import tensorflow as tf

from pausejax import errors
from pausejax.config import DataConfig
from pausejax.data import batch, tokenizers
from pausejax.data.batch import PADDING
from pausejax.data.pretraining.source import EVALUATION_SEED
from pausejax.data.seqio import preprocessors, pretraining, sources
from pausejax.data.seqio.vocabulary import vocabulary
from pausejax.tasks import PretrainingTask, corpora

LIBRARIES = ("seqio", "tensorflow", "tensorflow-text", "tensorflow-datasets")
_WRONG = PADDING - 1  # Marks an id that no text may have.
_STATE = "tfdata"  # Prefix of the files of a checkpoint.


class SeqioBatches:
  """An iterator of batches; endless for "train", one pass for "validation".

  A batch has the arrays of `data.batch.language_model_batch` and the rows of
  this host. In validation every host reads the whole split and takes its rows
  of each batch, so all hosts end at the same step; the last batch is filled
  up with rows of padding.
  """

  def __init__(
    self,
    data: DataConfig,
    task: PretrainingTask,
    *,
    batch_size: int,
    seed: int,
    split: str = "train",
    pauses: bool = True,
    shard: tuple[int, int] = (0, 1),
  ):
    """Opens the source and reads its first segment.

    Args:
      data: the text, the segments and the pauses.
      task: selects the source of the text.
      batch_size: rows of all hosts together, a multiple of their number.
      seed: seed of the shuffle and of the pauses.
      split: "train" or "validation".
      pauses: False omits the pauses of a "validation" split, whose segments
        stay the same.
      shard: (h, H), host h of H.

    Raises:
      UserError: no document for this host, or data that cannot be read.
    """
    errors.require_one_of("split", split, corpora.SPLITS)
    errors.require(
      batch_size % shard[1] == 0,
      f"batch_size {batch_size} is not divisible by the {shard[1]} hosts; use "
      f"a multiple of {shard[1]}",
    )
    self._data = data
    self._source = task.source(data)
    self._batch_size = batch_size
    self._seed = seed
    self._split = split
    self._pauses = pauses
    self._shard = shard
    self._tokenizer = tokenizers.load_for(data)
    self._task = pretraining.segments_task(
      task, data, vocabulary(data.tokenizer)
    )
    segments = self._segments()
    self._require_segment(segments)
    self._iterators = [iter(self._pipeline(segments))]
    # Its threads call Python and would prevent the interpreter from exiting.
    weakref.finalize(self, self._iterators.clear)

  def __iter__(self) -> Self:
    return self

  def __next__(self) -> batch.Batch:
    with sources.one_line_errors():
      tokens_BT = next(self._iterators[0]).numpy()
    if tokens_BT.min(initial=PADDING) < PADDING:
      raise errors.UserError(
        f"data.tokenizer: {self._data.tokenizer!r} produced an id that is not "
        f"one of the {self._tokenizer.pause_id:,} text ids (split "
        f"{self._split!r}); check that it is the right tokenizer"
      )
    return batch.language_model_batch(
      tokens_BT,
      pauses=self._data.pauses,
      bos_id=self._tokenizer.bos_id,
      pad_id=self._tokenizer.pad_id,
      pause_id=self._tokenizer.pause_id,
    )

  def fingerprint(self) -> dict[str, str | int | float]:
    """Returns what determines the batches.

    Compare it before `restore`: restoring a state into another pipeline raises
    no error, or crashes the process.
    """
    data = self._data
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
      "pipeline": "seqio",
      "task": self._task.name,
      "split": self._split,
      "seq_len": data.seq_len,
      **data.pauses.fingerprint(),
      "shuffle_buffer": data.shuffle_buffer,
      "batch_size": self._batch_size,
      "seed": self._seed,
      "num_shards": self._shard[1],
      **sources.corpus_identity(self._source, self._split),
      **self._tokenizer.fingerprint(),
      **versions,
    }

  def describe(self, step: int) -> str:
    """Returns the batch of a step; its segments have no numbers."""
    return (
      f"batch {step}: rows of a stream (data.pipeline=seqio), whose segments "
      "are not numbered"
    )

  def state(self) -> dict[str, bytes]:
    """Returns the state after the batches taken so far: file name -> bytes.

    It holds the shuffle buffer, 4 * shuffle_buffer * num_text_tokens bytes, and
    the text that is read ahead of it.
    """
    with tempfile.TemporaryDirectory() as folder:
      prefix = pathlib.Path(folder) / _STATE
      tf.train.Checkpoint(iterator=self._iterators[0]).write(str(prefix))
      return {f.name: f.read_bytes() for f in sorted(prefix.parent.iterdir())}

  def restore(self, state: dict[str, bytes]) -> None:
    """Continues where `state` was taken, in this or another process.

    Raises:
      UserError: not the state of such an iterator.
    """
    # A new dataset, since the state of the shuffle outlives an iterator.
    iterator = iter(self._pipeline(self._segments()))
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    with tempfile.TemporaryDirectory() as folder:
      for name, content in state.items():
        (pathlib.Path(folder) / name).write_bytes(content)
      try:
        checkpoint.read(f"{folder}/{_STATE}").assert_consumed()
      except (tf.errors.OpError, AssertionError) as e:
        raise errors.UserError(
          f"the state of data.pipeline=seqio ({', '.join(state) or 'no file'}) "
          "cannot be restored into this pipeline"
        ) from e
    self._iterators[:] = [iterator]

  def _segments(self) -> tf.data.Dataset:
    """Returns this host's segments, one pass, `PADDING` after the last."""
    host, num_hosts = self._shard
    shares = self._split == "train" and num_hosts > 1
    segments = self._task.get_dataset(
      {"targets": self._data.num_text_tokens},
      split=self._split,
      shuffle=False,
      shard_info=seqio.ShardInfo(host, num_hosts) if shares else None,
      try_in_mem_cache=False,
    )
    pause_id = self._tokenizer.pause_id
    return segments.map(preprocessors.with_padding).map(
      lambda ids_T: tf.where(ids_T < pause_id, ids_T, _WRONG)
    )

  def _require_segment(self, segments: tf.data.Dataset) -> None:
    with sources.one_line_errors():
      first = next(iter(segments.take(1)), None)
    if first is None:
      host, num_hosts = self._shard
      raise errors.UserError(
        f"no document in split {self._split!r} of "
        f"{self._source.describe()} for host "
        f"{host} of {num_hosts}; is the source empty, smaller than "
        "data.holdout_every, or smaller than the number of hosts?"
      )

  def _pipeline(self, segments: tf.data.Dataset) -> tf.data.Dataset:
    """Returns int32 [B, T]: rows of this host, with pauses and `PADDING`."""
    host, num_hosts = self._shard
    num_rows = self._batch_size // num_hosts
    first_row = host * num_rows
    if self._split == "train":
      segments = segments.shuffle(self._data.shuffle_buffer, seed=self._seed)
      batches = segments.repeat().batch(num_rows, drop_remainder=True)
      batches = self._with_pauses(batches, first_row)
    else:
      batches = segments.batch(self._batch_size)
      if self._pauses:
        batches = self._with_pauses(batches, 0)
      shape = self._batch_size, self._data.seq_len
      batches = batches.map(
        lambda t_BT: _filled(t_BT, shape)[first_row:][:num_rows]
      )
    # Symbolic checkpoints (a further option) hang or break in TensorFlow 2.21
    # when a resumed run is saved again; plain ones do not.
    options = tf.data.Options()
    options.deterministic = True
    return batches.prefetch(self._data.prefetch).with_options(options)

  def _with_pauses(
    self, batches: tf.data.Dataset, first_row: int
  ) -> tf.data.Dataset:
    """Inserts pauses; row r of batch i is number i * batch_size + r."""
    evaluation_seed = self._seed ^ EVALUATION_SEED

    def insert(step, tokens_BT):
      rows_B = tf.range(tf.shape(tokens_BT, tf.int64)[0]) + first_row
      return preprocessors.pauses_into_text(
        tokens_BT,
        pauses=self._data.pauses,
        seq_len=self._data.seq_len,
        pause_id=self._tokenizer.pause_id,
        seed=self._seed if self._split == "train" else evaluation_seed,
        rows_B=step * self._batch_size + rows_B,
      )

    return batches.enumerate().map(insert, num_parallel_calls=tf.data.AUTOTUNE)


def _filled(tokens_BT: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
  """Returns an array of `shape`, `PADDING` after the tokens."""
  rows, columns = tf.unstack(tf.constant(shape) - tf.shape(tokens_BT))
  padding = [[0, rows], [0, columns]]
  return tf.pad(tokens_BT, padding, constant_values=PADDING)
