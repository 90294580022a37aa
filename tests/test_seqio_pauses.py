"""Pauses that TensorFlow inserts are those that numpy inserts."""

import dataclasses

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax import pause  # noqa: E402
from pausejax.data.batch import language_model_batch  # noqa: E402
from pausejax.data.seqio import pauses, preprocessors, pretraining, vocabulary  # noqa: E402
from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import TASK, UNIFORM, data_config, message, open_stream  # noqa: E402

# Fixtures that several test files share.
folder = seqio_streams.folder


def paused(text_BT, **kwargs) -> np.ndarray:
  """`PauseSpec.insert`; pauses after a text that ends are padding."""
  how = {name: x for name, x in kwargs.items() if name != "pauses"}
  paused_BT = kwargs["pauses"].insert(text_BT, **how)
  for row, text_T in zip(paused_BT, text_BT, strict=True):
    shown = np.flatnonzero((row != -1) & (row != kwargs["pause_id"]))
    if -1 in text_T and len(shown) == (text_T != -1).sum():
      row[(shown[-1] + 1 if len(shown) else 0) :] = -1
  return paused_BT


@pytest.mark.parametrize("mode", UNIFORM)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_pauses_equal_numpy_bit_for_bit(mode, fraction):
  seq_len = 40
  positions = np.array([0, 1, 2, 77, 2**40, 2**62, -1], np.int64)
  spec = pause.PauseSpec(fraction=fraction, mode=mode)
  num_text = spec.num_text_tokens(seq_len)
  tokens = np.arange(7 * num_text, dtype=np.int32).reshape(7, -1)
  for seed in (0, 1, -1, -(2**63), 2**63 + 5, 2**64 - 1, 2**70 + 3, 123456789):
    kwargs = {
      "seq_len": seq_len,
      "pause_id": 10**6,
      "seed": seed,
      "rows_B": positions,
    }
    expected = spec.insert(tokens, **kwargs)
    got = pauses.insert_pauses_tf(tf.constant(tokens), pauses=spec, **kwargs)
    assert got.dtype == tf.int32
    np.testing.assert_array_equal(got.numpy(), expected)


def test_masks_equal_numpy_for_unsigned_and_traced_positions():
  positions = np.array([0, 2**63, 2**64 - 1], np.uint64)
  spec = pause.PauseSpec(fraction=0.1)
  expected = spec.mask(3, positions, 2048)
  got = pauses.mask(spec, 3, positions, 2048)
  np.testing.assert_array_equal(got.numpy(), expected)
  exact = dataclasses.replace(spec, mode="exact")
  mask = tf.function(lambda p: pauses.mask(exact, 3, p, 64))
  for dtype in (np.int32, np.int64):
    positions = np.arange(50, dtype=dtype)
    expected = exact.mask(3, positions, 64)
    np.testing.assert_array_equal(mask(positions).numpy(), expected)


def test_pauses_refuse_what_numpy_refuses():
  kwargs = {
    "seq_len": 8,
    "pause_id": 9,
    "seed": 0,
    "rows_B": np.arange(2),
  }
  for tokens, mode in (
    (np.zeros((2, 8), np.int32), "exact"),
    (np.zeros((2, 6), np.int32), "insert_trim"),
  ):
    spec = pause.PauseSpec(fraction=0.25, mode=mode)
    expected = message(spec.insert, tokens, **kwargs)
    got = message(
      pauses.insert_pauses_tf, tf.constant(tokens), pauses=spec, **kwargs
    )
    assert got == expected


@pytest.mark.parametrize("mode", UNIFORM)
def test_registered_tasks_insert_the_pauses_of_numpy(folder, mode):
  data = data_config(files=folder, pause_mode=mode)
  twin = vocabulary.vocabulary("bytes")
  for _ in range(2):  # A second time replaces the first.
    names = pretraining.register_pretraining(
      TASK, data, twin, seed=11, shard=(1, 3)
    )
  assert names == ("seqio_test", "seqio_test_pause")
  plain, with_pauses = (
    list(
      seqio.get_mixture_or_task(name)
      .get_dataset({"targets": length}, shuffle=False)
      .as_numpy_iterator()
    )
    for name, length in zip(names, (data.num_text_tokens, 32), strict=True)
  )
  tokens = np.stack([np.where(s["is_text"], s["targets"], -1) for s in plain])
  expected = paused(
    tokens,
    seq_len=32,
    pause_id=twin.pause_id,
    pauses=data.pauses,
    seed=11,
    rows_B=np.arange(len(plain)) * 3 + 1,
  )
  targets = np.stack([s["targets"] for s in with_pauses])
  np.testing.assert_array_equal(targets, np.maximum(expected, 0))
  is_text = (expected != -1) & (expected != twin.pause_id)
  np.testing.assert_array_equal([s["is_text"] for s in with_pauses], is_text)
  assert (expected[-1] == -1).any() and (expected == twin.pause_id).any()


def test_no_pause_follows_the_last_token_of_a_text():
  text_BT = np.arange(1, 6 * 32 + 1, dtype=np.int32).reshape(6, 32)
  for row, length in enumerate((0, 1, 5, 20, 31, 32)):
    text_BT[row, length:] = -1
  kwargs = {
    "seq_len": 32,
    "pause_id": 999,
    "pauses": pause.PauseSpec(fraction=0.3),
    "seed": 4,
    "rows_B": np.arange(6),
  }
  got = preprocessors.pauses_into_text(tf.constant(text_BT), **kwargs).numpy()
  np.testing.assert_array_equal(got, paused(text_BT, **kwargs))
  assert (got[0] == -1).all() and (got[-1] != -1).all()
  assert (got[3] == 999).any() and got[3, -1] == -1


@pytest.mark.parametrize("mode", UNIFORM)
def test_batches_are_those_of_numpy(folder, mode):
  data = data_config(files=folder, pause_mode=mode, shuffle_buffer=1)
  task = pretraining.segments_task(TASK, data, vocabulary.vocabulary("bytes"))
  dataset = task.get_dataset({"targets": data.num_text_tokens}, shuffle=False)
  rows = [preprocessors.with_padding(s).numpy() for s in dataset]
  rows = np.stack(rows * 2)  # Two epochs.
  batches = open_stream(data, batch_size=6)
  for step in range(len(rows) // 6):
    expected = language_model_batch(
      paused(
        rows[step * 6 : step * 6 + 6],
        seq_len=32,
        pause_id=259,
        pauses=data.pauses,
        seed=7,
        rows_B=np.arange(step * 6, step * 6 + 6),
      ),
      pauses=data.pauses,
      bos_id=0,
      pad_id=0,
      pause_id=259,
    )
    got = next(batches)
    assert got.keys() == expected.keys()
    for name in got:
      np.testing.assert_array_equal(got[name], expected[name])
