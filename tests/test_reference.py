"""The decoder, decoding and option scores against plain numpy."""

import jax
import numpy as np
import pytest

from pausejax.inference import decode, score
from tests import models, numpy_decoder

MODELS = models.VARIANTS | models.ARCHITECTURES | {"looped": models.LOOPED}
CASES = [
  *((n, a) for n in models.VARIANTS for a in ("causal", "bidirectional")),
  *((n, "causal") for n in models.ARCHITECTURES),
  ("gemma", "bidirectional"),
  ("looped", "causal"),
]
NUM_PAUSES = 3
EOS = 1


def forward(model, ids, num_prefix=0):
  weights = numpy_decoder.weights_of(model)
  return numpy_decoder.forward(model.config, weights, ids, num_prefix)


def log_softmax(logits):
  top = logits.max(-1, keepdims=True)
  return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def prompts():
  """Prompts of different lengths with their pauses, in a batch of width 16."""
  rng = np.random.default_rng(0)
  rows = [
    [0, *rng.integers(3, 99, n), *[models.PAUSE_ID] * NUM_PAUSES]
    for n in (2, 9, 5)
  ]
  tokens_BT, is_real_BT = decode.left_pad(rows, width=16, pad_id=0)
  in_prefix_BT = is_real_BT & (tokens_BT != models.PAUSE_ID)
  return rows, (tokens_BT, is_real_BT, in_prefix_BT)


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_logits(name, attention):
  model = models.model(prefix_attention=attention, **MODELS[name])
  ids = np.random.default_rng(1).integers(0, models.VOCAB_SIZE, 32)
  found = models.logits(model, models.rows([ids], [7]))[0]
  # float32 against float64.
  expected = forward(model, ids, 7)
  np.testing.assert_allclose(
    found[:, : models.VOCAB_SIZE], expected, atol=2e-5, rtol=2e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attention"), CASES)
def test_greedy_answers(name, attention):
  model = models.model(prefix_attention=attention, **MODELS[name])
  rows, arrays = prompts()
  found = decode.generate(
    model,
    *arrays,
    jax.random.key(0),
    num_new=6,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=EOS,
    pause_id=models.PAUSE_ID,
  )
  for row, answer in zip(rows, np.asarray(found), strict=True):
    ids, num_prefix = list(row), len(row) - NUM_PAUSES
    expected = []
    while len(expected) < 6:
      logits = forward(model, ids, num_prefix)[-1]
      logits[models.PAUSE_ID] = -np.inf
      done = expected and expected[-1] == EOS
      expected.append(EOS if done else int(np.argmax(logits)))
      ids.append(expected[-1])
    assert answer.tolist() == expected


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_option_scores(name, attention):
  model = models.model(prefix_attention=attention, **MODELS[name])
  rows, arrays = prompts()
  options = [[[5, 6, 7], [8]], [[9, 10], [11, 12, 13]], [[14], [15, 16]]]
  options_BOC = np.zeros((3, 2, 4), np.int32)
  for b, row in enumerate(options):
    for o, option in enumerate(row):
      options_BOC[b, o, : len(option)] = option
  lengths_BO = np.array([[len(o) for o in row] for row in options])
  found, _ = score.score_options(
    model, *arrays, options_BOC, lengths_BO, pause_id=models.PAUSE_ID
  )
  for b, row in enumerate(rows):
    for o, option in enumerate(options[b]):
      log_p = log_softmax(
        forward(model, [*row, *option], len(row) - NUM_PAUSES)
      )
      expected = sum(
        log_p[len(row) - 1 + i, token] for i, token in enumerate(option)
      )
      assert found[b, o] == pytest.approx(expected, abs=1e-4)
