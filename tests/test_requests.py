"""Requests of a harness: pauses, truncation, scores, text, batches, devices."""

import dataclasses

import jax
import numpy as np
import pytest

from pausejax import errors, sharding
from pausejax.config import ModelConfig, default
from pausejax.data import tokenizers
from pausejax.data.finetuning.prompts import Filler
from pausejax.inference import requests
from pausejax.interop import harness
from pausejax.prompt_pauses import (
  NO_TOKEN_PAUSES,
  PromptPauses,
  TokenPauses,
)
from tests import models
from tests.test_sharding import mesh_of_8, one_device_mesh

TOKENIZER = tokenizers.load_tokenizer("bytes")
BOS, EOS, PAUSE = TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pause_id
POSITIONS = 96


def small_model(**changes):
  fields = default().model
  fields.update(num_layers=2, d_model=16, num_heads=4, num_kv_heads=4, d_ff=32)
  fields.update(max_seq_len=POSITIONS, dtype="float32", remat="none", **changes)
  config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **fields.to_dict())
  return models.random_model(config, seed=3)


MODEL = small_model()


def runner(
  model=MODEL,
  *,
  batch_size=4,
  max_length=POSITIONS,
  behind=NO_TOKEN_PAUSES,
  **pauses,
):
  pauses = PromptPauses(**{"num_pauses": 3, **pauses})
  return requests.RequestRunner(
    model=jax.device_put(model, sharding.shardings(model)),
    tokenizer=TOKENIZER,
    filler=Filler(TOKENIZER, pauses, behind),
    max_length=max_length,
    batch_size=batch_size,
  )


def ids(text: str, *, bos: bool = True) -> list[int]:
  return [BOS] * bos + TOKENIZER.encode([text])[0]


def pairs(num: int = 13) -> list[tuple[list[int], list[int]]]:
  """Contexts of several lengths, with one to three continuations each."""
  return [
    (ids("ab" * (1 + i // 2 % 5)), ids(" yes no"[: 1 + i % 7], bos=False))
    for i in range(num)
  ]


def log_likelihoods(asked, *, mesh=None, **settings):
  with jax.set_mesh(mesh or one_device_mesh()):
    made = runner(**settings)
    answers = dict(made.log_likelihoods(asked))
  assert sorted(answers) == list(range(len(asked)))
  return [answers[i] for i in range(len(asked))], made


def texts(contexts, *, mesh=None, num_new=8, stop_texts=(), **settings):
  with jax.set_mesh(mesh or one_device_mesh()):
    made = runner(**settings)
    answers = dict(
      made.generate(contexts, stop_texts=stop_texts, num_new=num_new)
    )
  assert sorted(answers) == list(range(len(contexts)))
  return [answers[i] for i in range(len(contexts))], made


def expected(
  prompt: list[int],
  continuation: list[int],
  behind=NO_TOKEN_PAUSES,
  moves=(),
) -> tuple[float, bool]:
  """The answer by a plain pass over the whole sequence."""
  spread = behind.spread(np.array(continuation, np.int32))
  row = np.array([[*prompt, *spread]], np.int32)
  own = [*(moves or [True] * len(prompt)), *behind.moves(len(continuation))]
  read = len(prompt) - 1 + np.arange(len(continuation)) * behind.period
  logits_TV = np.asarray(logits(row, np.cumsum(own) - 1))[0, read]
  log_prob_TV = np.asarray(jax.nn.log_softmax(logits_TV, axis=-1))
  logits_TV = logits_TV.copy()
  logits_TV[:, PAUSE] = -np.inf
  greedy = [int(i) for i in logits_TV.argmax(axis=-1)]
  places = np.arange(len(continuation)), continuation
  return float(log_prob_TV[places].sum()), greedy == continuation


def logits(tokens_BT, positions_T=None):
  shape = tokens_BT.shape
  positions_T = np.arange(shape[1]) if positions_T is None else positions_T
  batch = {
    "tokens": tokens_BT,
    "positions": np.broadcast_to(positions_T, shape),
    "segment_ids": np.ones(shape, np.int32),
  }
  return models.logits(MODEL, batch)


def test_pauses_stand_between_context_and_continuation():
  asked = pairs(6)
  found, made = log_likelihoods(asked)
  for (context, continuation), answer in zip(asked, found, strict=True):
    nats, is_greedy = expected(context + [PAUSE] * 3, continuation)
    assert answer == (pytest.approx(nats, abs=1e-4), is_greedy)
  assert made.num_truncated == 0


@pytest.mark.parametrize("bos", [True, False])
def test_pauses_in_front_follow_bos(bos):
  context = ids("abc", bos=bos)
  found, _ = log_likelihoods([(context, [7, 8])], position="prepend")
  prompt = [BOS] * bos + [PAUSE] * 3 + ids("abc", bos=False)
  assert found[0][0] == pytest.approx(expected(prompt, [7, 8])[0], abs=1e-4)


def test_the_greedy_continuation_is_recognized():
  context = ids("abc")
  prompt = context + [PAUSE] * 3
  greedy = []
  for _ in range(3):
    row = np.asarray(logits(np.array([prompt + greedy], np.int32)))[
      0, -1
    ].copy()
    row[PAUSE] = -np.inf
    greedy.append(int(row.argmax()))
  other = [greedy[0], greedy[1] % 200 + 3]
  found, _ = log_likelihoods([(context, greedy), (context, other)])
  assert [is_greedy for _, is_greedy in found] == [True, False]


def test_activations_that_overflow_give_no_score():
  large = jax.tree.map(lambda x: x * 1e30, MODEL)
  with pytest.raises(errors.UserError, match="gives NaN"):
    log_likelihoods(pairs(2), model=large)


def test_text_is_truncated_and_pauses_and_continuation_are_not():
  context, continuation = ids("x" * 40 + "tail"), ids("end", bos=False)
  found, made = log_likelihoods([(context, continuation)], max_length=16)
  # 16 positions: 3 pauses, 2 ids of the continuation as inputs, 11 of text.
  prompt = context[-11:] + [PAUSE] * 3
  assert found[0][0] == pytest.approx(
    expected(prompt, continuation)[0], abs=1e-4
  )
  assert (made.num_truncated, made.num_truncated_tokens) == (1, 45 - 11)


BEHIND = [
  TokenPauses((PAUSE, PAUSE), share_positions=True),
  TokenPauses((TokenPauses.COPY,)),
]


@pytest.mark.parametrize("behind", BEHIND)
def test_every_token_has_its_pauses(behind):
  asked = pairs(6)
  found, _ = log_likelihoods(asked, behind=behind)
  for (context, continuation), answer in zip(asked, found, strict=True):
    spread = behind.spread(np.array(context[1:]))
    moves = [True, *behind.moves(len(context) - 1), True, True, True]
    prompt = [BOS, *spread, PAUSE, PAUSE, PAUSE]
    nats, is_greedy = expected(prompt, continuation, behind, moves)
    assert answer == (pytest.approx(nats, abs=1e-4), is_greedy)


@pytest.mark.parametrize("max_length", [33, 34])
def test_a_context_is_truncated_by_whole_tokens(max_length):
  behind = BEHIND[0]
  # 3 pauses and 2 x 3 slots after them leave 24 or 25: BOS and 8 tokens.
  context = ids("12345678")
  _, made = log_likelihoods(
    [(context, [5, 6, 7]), ([*context, 9], [5, 6, 7])],
    max_length=max_length,
    behind=behind,
  )
  is_short = max_length == 33
  assert made.num_truncated == 1 + is_short
  assert made.num_truncated_tokens == 2 + is_short
  # BOS alone has no pauses.
  _, made = log_likelihoods([([BOS], [5, 6, 7])], max_length=10, behind=behind)
  assert made.num_truncated == 0
  with pytest.raises(errors.UsageError, match="6 positions after them"):
    log_likelihoods([(context, [5, 6, 7])], max_length=11, behind=behind)


@pytest.mark.parametrize("num_pauses", [14, 20])
def test_what_never_fits_is_refused(num_pauses):
  with pytest.raises(errors.UsageError, match="leave none for a context"):
    log_likelihoods(
      [(ids("a"), [5, 6, 7])], max_length=16, num_pauses=num_pauses
    )


@pytest.mark.slow
def test_batches_and_devices_change_nothing():
  whole, _ = log_likelihoods(pairs(), batch_size=32)
  for settings in (
    {"batch_size": 2},
    {"batch_size": 8, "mesh": mesh_of_8(data=8, fsdp=1, tensor=1)},
  ):
    found, _ = log_likelihoods(pairs(), **settings)
    for (a, a_greedy), (b, b_greedy) in zip(whole, found, strict=True):
      assert (a, a_greedy) == (pytest.approx(b, abs=1e-4), b_greedy)


def test_many_options_of_one_prompt():
  asked = [(ids("ab"), [3 + i] * (1 + i % 3)) for i in range(19)]
  found, _ = log_likelihoods(asked)
  for (context, option), (nats, _) in zip(asked, found, strict=True):
    own = expected(context + [PAUSE] * 3, option)[0]
    assert nats == pytest.approx(own, abs=1e-4)


def test_text_ends_at_eos_stop_text_or_limit():
  contexts = [ids("ab" * n) for n in (1, 2, 3)]
  whole, _ = texts(contexts, num_new=40)
  short, _ = texts(contexts, num_new=8)
  for a, b in zip(whole, short, strict=True):
    assert a.startswith(b.rstrip("\ufffd"))
  stop = whole[0][2]
  stopped, _ = texts(contexts, num_new=40, stop_texts=["", stop])
  assert stopped == [text.partition(stop)[0] for text in whole]


@pytest.mark.parametrize("behind", [NO_TOKEN_PAUSES, *BEHIND])
def test_rounds_of_decoding_give_the_text_of_one(behind, monkeypatch):
  contexts = [ids("ab" * n) for n in (1, 2, 3)]
  settings = {"num_new": 20, "behind": behind}
  whole, _ = texts(contexts, **settings)
  monkeypatch.setattr(requests, "_FIRST_ROUND", 8)
  assert texts(contexts, **settings)[0] == whole
  assert max(map(len, whole)) > 0


@pytest.mark.slow
def test_devices_decode_as_one():
  contexts = [ids("ab" * n) for n in range(1, 6)]
  one, _ = texts(contexts)
  mesh = mesh_of_8(data=8, fsdp=1, tensor=1)
  assert texts(contexts, batch_size=8, mesh=mesh)[0] == one


def test_pauses_are_outside_of_a_bidirectional_prefix():
  model = small_model(prefix_attention="bidirectional")
  asked = pairs(3)
  outside, _ = log_likelihoods(asked, model=model)
  inside, _ = log_likelihoods(asked, model=model, in_prefix=True)
  assert outside[0][0] != pytest.approx(inside[0][0], abs=1e-6)


@pytest.mark.parametrize("num_new", [1, 32, 33, 64, 100, 384])
def test_rounds_add_up(num_new):
  sizes = list(requests._rounds(num_new))
  assert sum(sizes) == num_new
  assert len(sizes) <= 5


def test_generation_arguments_are_used_or_refused():
  parse = harness.parse_generation
  assert parse({}, 256) == ((), 256)
  assert parse({"until": "\n", "max_new_tokens": 5}, 256) == (("\n",), 5)
  greedy = {"do_sample": False, "temperature": 1, "top_p": 1.0}
  assert parse({"until": ["a", "b"], **greedy}, 9) == (("a", "b"), 9)
  assert parse({"temperature": 0.0, "num_beams": 1}, 9) == ((), 9)
  for wrong in (
    {"temperature": 0.7},
    {"temperature": 0.7, "do_sample": False},
    {"do_sample": True},
    {"num_beams": 4},
    {"typical_p": 0.5},
    {"until": 3},
    {"max_gen_toks": 0},
    {"max_gen_toks": "5"},
  ):
    with pytest.raises(errors.UsageError):
      parse(wrong, 256)


def test_model_arguments_are_known_or_refused():
  harness.refuse_others({"device": "cuda:0", "max_batch_size": None})
  for name, words in {
    "device": "JAX_PLATFORMS",
    "max_batch_size": "batch_size",
    "num_pause": "did you mean 'num_pauses'",
  }.items():
    with pytest.raises(errors.UsageError, match=words):
      harness.refuse_others({name: "3"})
  assert harness.whole_batch("5", 4) == 8
  with pytest.raises(errors.UsageError, match="batch_size"):
    harness.whole_batch("auto", 4)


def test_a_fingerprint_follows_parameters_and_condition():
  @dataclasses.dataclass
  class Run:
    meta: dict
    average: bool = False
    behind_tokens: TokenPauses = NO_TOKEN_PAUSES

  meta = {"digests": {"a": [1, 2]}, "model": {"d": 1}, "tokenizer": {"t": "x"}}
  own = harness.fingerprint(Run(meta), 0, "append")
  assert own == harness.fingerprint(Run(dict(meta)), 0, "append")
  trained = meta | {"digests": {"a": [1, 3]}}
  others = [
    harness.fingerprint(Run(meta), 3, "append"),
    harness.fingerprint(Run(meta), 0, "prepend"),
    harness.fingerprint(Run(trained), 0, "append"),
    harness.fingerprint(Run(meta, average=True), 0, "append"),
    harness.fingerprint(Run(meta, behind_tokens=BEHIND[0]), 0, "append"),
  ]
  assert len({own, *others}) == 6
