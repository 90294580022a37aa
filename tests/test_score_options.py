"""Scoring options together equals one full forward for each of them."""

import jax
import numpy as np
import pytest

from pausejax import sharding
from pausejax.config import MeshConfig
from pausejax.inference import decode, score
from tests import models

PAUSES = [models.PAUSE_ID] * 2
PREFIXES = [[0, 5, 9, 11, 30, *PAUSES], [0, *PAUSES], [0, 7, 8, 9, *PAUSES]]
OPTIONS = [
  [[3], [4, 5, 6], [4, 5, 7, 8]],
  [[60, 61], [], [9, models.PAUSE_ID]],
  [[1, 2], [1], [3, 3, 3, 3]],
]


def _score(model, prefixes, options, *, width, option_len, pad_id=2):
  tokens_BT, is_real_BT = decode.left_pad(prefixes, width=width, pad_id=pad_id)
  options_BOC = np.array(
    [[o + [pad_id] * (option_len - len(o)) for o in row] for row in options],
    np.int32,
  )
  num_tokens_BO = np.array([[len(o) for o in row] for row in options])
  return score.score_options(
    model,
    tokens_BT,
    is_real_BT,
    is_real_BT,
    options_BOC,
    num_tokens_BO,
    pause_id=models.PAUSE_ID,
  )


def _one_by_one(model, prefixes, options):
  """The definition: an option behind its prefix, by a pass without a cache."""
  pairs = [
    (p, o) for p, row in zip(prefixes, options, strict=True) for o in row
  ]
  batch = models.rows([p + o for p, o in pairs], [len(p) for p, _ in pairs])
  logits_XTV = np.array(models.logits(model, batch))
  log_p_XTV = np.asarray(jax.nn.log_softmax(logits_XTV))
  logits_XTV[..., models.PAUSE_ID] = -np.inf
  log_probs, is_greedy = [], []
  for (prefix, option), log_p_TV, logits_TV in zip(
    pairs, log_p_XTV, logits_XTV, strict=True
  ):
    at = slice(len(prefix) - 1, len(prefix) + len(option) - 1)
    log_probs.append(log_p_TV[at][range(len(option)), option].sum())
    is_greedy.append((logits_TV[at].argmax(axis=-1) == option).all())
  shape = (len(prefixes), -1)
  return np.reshape(log_probs, shape), np.reshape(is_greedy, shape)


@pytest.mark.slow
@pytest.mark.parametrize("prefix_attention", ["causal", "bidirectional"])
@pytest.mark.parametrize(
  "changes", models.VARIANTS.values(), ids=models.VARIANTS.keys()
)
def test_options_together_equal_options_one_by_one(changes, prefix_attention):
  model = models.model(**changes, prefix_attention=prefix_attention)
  log_prob_BO, is_greedy_BO = _score(
    model, PREFIXES, OPTIONS, width=9, option_len=4
  )
  expected_BO, expects_greedy_BO = _one_by_one(model, PREFIXES, OPTIONS)
  expected_BO[1, 1], expects_greedy_BO[1, 1] = -np.inf, False
  # Float32 sums of at most four logarithms, in another order.
  np.testing.assert_allclose(log_prob_BO, expected_BO, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(is_greedy_BO, expects_greedy_BO)


@pytest.mark.parametrize(
  "changes",
  [{}, dict(qk_norm=True, qk_norm_span="all_heads")],
  ids=["", "qk_norm"],
)
def test_options_of_one_token_need_no_pass_of_their_own(changes):
  model = models.model(**changes)
  options = [[[3], [4]], [[5], [6]], [[7], [8]]]
  found_BO, _ = _score(model, PREFIXES, options, width=9, option_len=1)
  expected_BO, _ = _one_by_one(model, PREFIXES, options)
  np.testing.assert_allclose(found_BO, expected_BO, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option_len", [1, 3])
def test_is_greedy_holds_exactly_for_the_greedy_answer(option_len):
  model = models.model()
  tokens_BT, is_real_BT = decode.left_pad(PREFIXES, width=9, pad_id=2)
  ids_BN = decode.generate(
    model,
    tokens_BT,
    is_real_BT,
    is_real_BT,
    jax.random.key(0),
    num_new=option_len,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=-1,
    pause_id=models.PAUSE_ID,
  )
  options = [[ids, [*ids[:-1], ids[-1] ^ 1]] for ids in ids_BN.tolist()]
  log_prob_BO, is_greedy_BO = _score(
    model, PREFIXES, options, width=9, option_len=option_len
  )
  np.testing.assert_array_equal(is_greedy_BO, [[True, False]] * 3)
  assert (log_prob_BO[:, 0] > log_prob_BO[:, 1]).all()


@pytest.mark.slow
def test_other_rows_padding_and_options_change_nothing():
  model = models.model(prefix_attention="bidirectional")
  together_BO, _ = _score(
    model, PREFIXES, OPTIONS, width=15, option_len=6, pad_id=50
  )
  option = OPTIONS[2][2]
  alone_BO, _ = _score(model, PREFIXES[2:], [[option]], width=6, option_len=4)
  # The same products, summed over rows of another length.
  np.testing.assert_allclose(alone_BO[0, 0], together_BO[2, 2], rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_equal_one():
  model, rows = models.model(prefix_attention="bidirectional"), range(8)
  prefixes, options = [PREFIXES[i % 3] for i in rows], [[[3], [4, 5, 6]]] * 8
  alone_BO, _ = _score(model, prefixes, options, width=9, option_len=3)
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, sequence=1, tensor=2))
  with jax.set_mesh(mesh):
    placed = jax.device_put(model, sharding.shardings(model))
    log_prob_BO, _ = _score(placed, prefixes, options, width=9, option_len=3)
  # Float32 sums of up to four logarithms, in another order.
  np.testing.assert_allclose(log_prob_BO, alone_BO, rtol=1e-5)


def test_padding_beyond_the_models_positions_is_harmless():
  model = models.model()
  prefix, option = [*range(3, 33)], [7, 8]  # 32 positions, all that there are.
  log_prob_BO, _ = _score(model, [prefix], [[option]], width=32, option_len=9)
  expected_BO, _ = _one_by_one(model, [prefix], [[option]])
  np.testing.assert_allclose(log_prob_BO, expected_BO, rtol=1e-5)


@pytest.mark.slow
def test_the_prefix_is_read_once_for_all_options():
  model = models.model()
  tokens_BT = np.ones((1, 24), np.int32)
  is_real_BT = tokens_BT > 0

  def flops(num_options):
    options_BOC = np.ones((1, num_options, 2), np.int32)
    args = (options_BOC, np.full((1, num_options), 2))
    lowered = score.score_options.lower(
      model, tokens_BT, is_real_BT, is_real_BT, *args, pause_id=models.PAUSE_ID
    )
    return lowered.compile().cost_analysis()["flops"]

  # An option behind a prefix of its own would cost nearly as much as the first.
  assert flops(8) < 2 * flops(1)


def test_normalizations():
  log_prob_BO = np.array([[-6.0, -4.0, -np.inf]])
  num_tokens_BO = np.array([[3, 1, 0]])
  num_characters_BO = np.array([[12, 2, 0]])
  for how, expected_O in (
    ("sum", [-6, -4, -np.inf]),
    ("per_token", [-2, -4, -np.inf]),
    ("per_character", [-0.5, -2, -np.inf]),
  ):
    found_BO = score.normalize(
      how, log_prob_BO, num_tokens_BO, num_characters_BO
    )
    np.testing.assert_array_equal(found_BO[0], expected_O)
  with pytest.raises(ValueError, match="did you mean 'per_token'"):
    score.normalize("per_tokens", log_prob_BO, num_tokens_BO, num_characters_BO)
