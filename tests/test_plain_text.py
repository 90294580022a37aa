"""Plain text: every token counts once, whatever the pauses or the batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax.config import LossConfig
from pausejax.data import tokenizers
from pausejax.evaluation import plain_text
from pausejax.pause import PauseSpec
from pausejax.programs import evaluate_text
from tests import models
from tests.test_answers import small_model
from tests.test_sharding import mesh_of_8, one_device_mesh

TOKENIZER = tokenizers.load_tokenizer("bytes")
TEXTS = ["abc", "", "né" * 40, "x", *("word " * n for n in range(1, 9))]
LOSS = LossConfig(num_chunks=4, z_loss=0.1)


@pytest.fixture(scope="module")
def model():
  return models.random_model(small_model().config, seed=1)


def spec(fraction, mode="exact"):
  return PauseSpec(fraction=fraction, mode=mode)


def score(model, texts=TEXTS, mesh=None, **changes):
  options = dict(seq_len=64, pauses=spec(0.0), batch_size=8) | changes
  with jax.set_mesh(mesh or one_device_mesh()):
    return plain_text.score_documents(
      model,
      plain_text.encode_documents(texts, TOKENIZER),
      tokenizer=TOKENIZER,
      loss=LOSS,
      show=lambda done, total: None,
      **options,
    )


def nats(model, text, num_positions):
  """Nats of a text without pauses, straight from the logits."""
  (ids,) = TOKENIZER.encode([text])
  total = 0.0
  for start in range(0, len(ids), num_positions):
    targets = np.array(ids[start : start + num_positions])
    tokens_BT = np.zeros((1, num_positions), int)
    tokens_BT[0, : targets.size] = [TOKENIZER.bos_id, *targets[:-1]]
    batch = {
      "tokens": tokens_BT,
      "positions": np.arange(num_positions)[None],
      "segment_ids": np.ones_like(tokens_BT),
    }
    logits_TV = models.logits(model, batch)[0][:, : TOKENIZER.vocab_size]
    log_prob_TV = jax.nn.log_softmax(logits_TV.astype(jnp.float32))
    total -= float(log_prob_TV[np.arange(targets.size), targets].sum())
  return total


@pytest.mark.slow
def test_without_pauses_the_loss_is_that_of_the_logits(model):
  found = score(model)
  total = sum(nats(model, text, 64) for text in TEXTS)
  num_bytes = sum(len(text.encode()) for text in TEXTS)
  assert found["num_tokens"] == num_bytes
  assert found["num_pauses"] == 0 and "loss_after_pause" not in found
  assert found["nats_per_token"] == pytest.approx(total / num_bytes, rel=1e-5)
  assert found["perplexity"] == pytest.approx(math.exp(total / num_bytes))
  # One byte is one token here.
  assert found["bits_per_byte"] * math.log(2) == pytest.approx(
    found["nats_per_token"]
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "pauses",
  [
    *map(spec, (0.1, 0.5, 0.9)),
    spec(0.5, "every_token"),
    spec(0.5, "repeat_token"),
  ],
  ids=str,
)
def test_every_token_counts_once_with_any_pauses(model, pauses):
  found = score(model, pauses=pauses)
  assert found["num_tokens"] == score(model)["num_tokens"]
  assert (found["num_pauses"] > 0) == pauses.uses_pause_token
  assert found["nats_per_token"] != score(model)["nats_per_token"]


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_batch_size_and_devices_do_not_matter(model, fraction):
  one = score(model, batch_size=1, pauses=spec(fraction))
  for changes in (
    dict(batch_size=32),
    dict(batch_size=8, mesh=mesh_of_8(2, 2, 2)),
  ):
    found = score(model, pauses=spec(fraction), **changes)
    assert found == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_the_order_of_documents_does_not_matter_without_pauses(model):
  assert score(model, TEXTS[::-1]) == pytest.approx(score(model), rel=1e-5)


@pytest.mark.slow
def test_documents_are_scored_independently(model):
  parts = [score(model, [text])["nats_per_token"] for text in ("abc", "xyz")]
  both = score(model, ["abc", "xyz"])["nats_per_token"]
  assert both == pytest.approx(np.mean(parts), rel=1e-5)


def test_empty_documents_and_lossy_ones_are_counted():
  class Lossy(type(TOKENIZER)):
    def decode(self, ids):
      return super().decode(ids).replace("é", "e")

  documents = plain_text.encode_documents(TEXTS, Lossy(TOKENIZER.base))
  assert documents.num_empty == 1
  assert documents.num_inexact == 1
  assert documents.num_bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize(
  ("text", "seq_len", "pauses"),
  [
    ("a", 2, spec(0.5)),
    ("a", 4, spec(0.75)),
    ("ab", 2, PauseSpec(fraction=0.5, mode="every_token")),
  ],
)
def test_a_short_text_may_have_no_target_of_a_kind(
  model, text, seq_len, pauses
):
  found = score(model, [text], seq_len=seq_len, pauses=pauses, batch_size=1)
  about = {"pause_fraction": 0.5, "seconds": 1.0}
  line = evaluate_text._line({**found, **about})
  for key, name in (("real", "text"), ("pause", "pauses")):
    shown = found["num_pauses"] and f"loss_after_{key}" in found
    assert (f" after {name}" in line) == bool(shown)
