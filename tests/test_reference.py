"""The decoder, decoding and option scores against plain numpy, one row a time.

`forward` below is written from the docstring of `model/decoder.py` and the
names of the leaves alone, in float64, with loops where the product has einsum.
"""

import jax
import numpy as np
import pytest

from pausejax.checkpoints import leaves
from pausejax.inference import decode, score
from tests import models

CASES = [
  (name, attention)
  for name in models.VARIANTS
  for attention in ("causal", "bidirectional")
]
NUM_PAUSES = 3
EOS = 1


def norm(x, weights, name, eps_layer=1e-5, eps_rms=1e-6, kind="layernorm"):
  scale, bias = weights[f"{name}/scale"], weights.get(f"{name}/bias", 0.0)
  if kind == "rmsnorm":
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps_rms) * scale
  centered = x - x.mean(-1, keepdims=True)
  return centered / np.sqrt(x.var(-1, keepdims=True) + eps_layer) * scale + bias


def rotate(x, theta):
  """Rotary positions of [T, heads, H], the two halves as pairs."""
  half = x.shape[-1] // 2
  angle = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
  cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
  a, b = x[..., :half], x[..., half:]
  return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def linear(x, weights, name):
  kernel = weights[f"{name}/kernel"]
  flat = kernel.reshape(x.shape[-1], -1)
  y = (x @ flat).reshape(*x.shape[:-1], *kernel.shape[1:])
  return y + weights.get(f"{name}/bias", 0.0)


def attend(c, w, x, num_prefix):
  q, k, v = (linear(x, w, n) for n in ("query", "key", "value"))
  if c.qk_norm:
    q = norm(q, w, "query_norm", kind="rmsnorm")
    k = norm(k, w, "key_norm", kind="rmsnorm")
  if c.position == "rope":
    q, k = rotate(q, c.rope_theta), rotate(k, c.rope_theta)
  out = np.zeros_like(q)
  for t in range(len(x)):
    last = max(t, num_prefix - 1) if t < num_prefix else t
    for n in range(c.num_heads):
      g = n // (c.num_heads // c.num_kv_heads)
      scores = k[: last + 1, g] @ q[t, n] / np.sqrt(c.head_dim)
      p = np.exp(scores - scores.max())
      out[t, n] = p @ v[: last + 1, g] / p.sum()
  kernel = w["mix/kernel"]
  mixed = out.reshape(len(x), -1) @ kernel.reshape(-1, kernel.shape[-1])
  return mixed + w.get("mix/bias", 0.0)


def feed_forward(c, w, x):
  wide = linear(x, w, "expand")
  if c.mlp == "swiglu":
    gate = linear(x, w, "gate")
    return linear(gate / (1 + np.exp(-gate)) * wide, w, "contract")
  cubed = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
  return linear(0.5 * wide * (1 + np.tanh(cubed)), w, "contract")


def forward(model, ids, num_prefix=0):
  """Logits [T, ids that exist] of one row; the prefix is bidirectional."""
  c = model.config
  num_prefix = num_prefix if c.prefix_attention == "bidirectional" else 0
  weights = {
    n: np.asarray(x, np.float64) for n, x in leaves.flatten(model).items()
  }
  x = weights["embedding"][ids]
  if c.position == "learned":
    x = x + weights["position_embedding"][: len(ids)]
  for layer in range(c.num_layers):
    w = {
      n.removeprefix("blocks/"): x_[layer]
      for n, x_ in weights.items()
      if n.startswith("blocks/")
    }
    x = x + attend(c, w, norm(x, w, "attention_norm", kind=c.norm), num_prefix)
    x = x + feed_forward(c, w, norm(x, w, "mlp_norm", kind=c.norm))
  x = norm(x, weights, "final_norm", kind=c.norm)
  head = weights.get("untied_head", weights["embedding"].T)
  return (x @ head)[:, : c.vocab_size]


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
  model = models.model(prefix_attention=attention, **models.VARIANTS[name])
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
  model = models.model(prefix_attention=attention, **models.VARIANTS[name])
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
  model = models.model(prefix_attention=attention, **models.VARIANTS[name])
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
