"""Scores of plain text, with and without pauses.

Every document is scored separately, in windows that do not overlap. A window
starts with BOS, as a training segment does, and has at most `seq_len`
positions, with the pauses. Every token of the text is a target exactly once,
whatever the number of pauses, so losses are comparable between all runs with
the same tokenizer, and bits per byte also between tokenizers. EOS is not
scored.

B windows of a batch, T positions, N tokens.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np

from pausejax import sharding
from pausejax.config import LossConfig
from pausejax.data.batch import PADDING, Batch, language_model_batch
from pausejax.data.pretraining.source import EVALUATION_SEED
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.inference.decode import bucket_length
from pausejax.model.decoder import Decoder
from pausejax.pause import PauseSpec
from pausejax.tasks import corpora
from pausejax.training import step
from pausejax.training.meter import losses_by_class

_DOCUMENTS_AT_ONCE = 1000  # Per call of the tokenizer.


@dataclasses.dataclass(frozen=True)
class Documents:
  """Documents as ids.

  Attributes:
    ids: int32 [N] of each non-empty document.
    num_bytes: UTF-8 bytes of all documents.
    num_empty: documents without text, which are not scored.
    num_inexact: documents that differ after encoding and decoding. Their bits
      per byte are not exact.
    sha256: digest of all texts.
  """

  ids: Sequence[np.ndarray]
  num_bytes: int
  num_empty: int
  num_inexact: int
  sha256: str

  @property
  def num_tokens(self) -> int:
    """Number of tokens of all documents."""
    return sum(map(len, self.ids))


def encode_documents(
  texts: Sequence[str], tokenizer: PauseTokenizer
) -> Documents:
  """Returns the documents as ids, without BOS and EOS."""
  ids = []
  num_inexact = 0
  for start in range(0, len(texts), _DOCUMENTS_AT_ONCE):
    part = texts[start : start + _DOCUMENTS_AT_ONCE]
    for text, encoded in zip(part, tokenizer.encode(part), strict=True):
      num_inexact += tokenizer.decode(encoded) != text
      ids.append(np.array(encoded, np.int32))
  return Documents(
    ids=[ids_N for ids_N in ids if len(ids_N)],
    num_bytes=sum(len(text.encode("utf-8")) for text in texts),
    num_empty=sum(not len(ids_N) for ids_N in ids),
    num_inexact=num_inexact,
    sha256=corpora.digest(texts),
  )


def score_documents(
  model: Decoder,
  documents: Documents,
  *,
  tokenizer: PauseTokenizer,
  seq_len: int,
  pauses: PauseSpec,
  batch_size: int,
  loss: LossConfig,
  show: Callable[[int, int], None],
) -> dict[str, float]:
  """Scores all documents.

  Args:
    model: the decoder, sharded on the mesh.
    documents: the documents, at least one with text.
    tokenizer: tokenizer of the model.
    seq_len: T of a full window, at most the model's `max_seq_len`.
    pauses: a way of pausing that displaces no text.
    batch_size: windows per batch, over all processes.
    loss: config of the cross entropy.
    show: called with (number of windows scored, number in all).

  Returns:
    `nats_per_token`, `perplexity`, `bits_per_byte`, the loss of the targets
    after text (`loss_after_real`) and after a pause (`loss_after_pause`) in
    nats, each absent if there is none, and the counts `num_tokens` and
    `num_pauses`.

  Raises:
    UsageError: the pauses leave no position for text.
  """
  evaluate = step.jit_evaluate_batch(loss, pause_id=tokenizer.pause_id)
  num_text = pauses.num_text_tokens(seq_len)
  windows = list(_windows(documents.ids, num_text))
  index, count = sharding.host_part(jax.process_index())
  rows = slice(*(batch_size // count * i for i in (index, index + 1)))
  total: dict[str, float] = collections.defaultdict(float)
  done = 0
  for places in _batches(windows, batch_size):
    batch = _batch(windows, places, tokenizer, seq_len, pauses)
    batch = _narrowed(batch, loss.num_chunks)
    here = {name: x_BT[rows] for name, x_BT in batch.items()}
    sums = evaluate(model, sharding.put_batch(here))
    for name, value in jax.device_get(sums).items():
      total[name] += float(value)
    done += np.count_nonzero(places >= 0)
    show(done, len(windows))
  return _result(total, documents)


def _windows(ids: Iterable[np.ndarray], num_text: int) -> Iterator[np.ndarray]:
  """Yields int32 [<= num_text], the windows of each document in order."""
  for ids_N in ids:
    for start in range(0, len(ids_N), num_text):
      yield ids_N[start : start + num_text]


def _batches(
  windows: Sequence[np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
  """Yields int64 [B], indices of windows of similar length, -1 for padding."""
  lengths = np.array([len(window) for window in windows])
  order = np.argsort(-lengths, kind="stable")
  missing = -len(order) % batch_size
  order = np.concatenate([order, np.full(missing, -1)])
  yield from order.reshape(-1, batch_size)


def _batch(
  windows: Sequence[np.ndarray],
  places_B: np.ndarray,
  tokenizer: PauseTokenizer,
  seq_len: int,
  pauses: PauseSpec,
) -> Batch:
  """Returns the batch of some windows; pauses depend on the window indices."""
  shape = len(places_B), pauses.num_text_tokens(seq_len)
  text_BT = np.full(shape, PADDING, np.int32)
  for row_T, place in zip(text_BT, places_B, strict=True):
    if place >= 0:
      row_T[: len(windows[place])] = windows[place]
  targets_BT = pauses.insert(
    text_BT,
    seq_len=seq_len,
    pause_id=tokenizer.pause_id,
    seed=EVALUATION_SEED,
    rows_B=places_B,
  )
  return language_model_batch(
    targets_BT,
    pauses=pauses,
    bos_id=tokenizer.bos_id,
    pad_id=tokenizer.pad_id,
    pause_id=tokenizer.pause_id,
  )


def _narrowed(batch: Batch, least: int) -> Batch:
  """Returns the batch without most of its padding-only columns."""
  longest = int(np.count_nonzero(batch["segment_ids"], axis=1).max())
  width = max(bucket_length(longest), least)
  return {name: x_BT[:, :width] for name, x_BT in batch.items()}


def _result(sums: dict[str, float], documents: Documents) -> dict[str, float]:
  """Returns the result of `score_documents` from sums over all batches."""
  return {
    "nats_per_token": sums["nll"] / sums["num_targets"],
    "bits_per_byte": sums["nll"] / math.log(2) / documents.num_bytes,
    **losses_by_class(sums),
    "num_tokens": int(sums["num_targets"]),
    "num_pauses": int(sums["num_pauses"]),
  }
