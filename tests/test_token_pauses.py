"""Pauses after every token of a prompt and of its answer.

The reference is a training batch of the same text, read in one forward pass.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest

from pausejax import errors, pause
from pausejax.checkpoints import saved_run
from pausejax.data import tokenizers
from pausejax.data.batch import PADDING, language_model_batch
from pausejax.data.finetuning import prompts
from pausejax.inference import continuation, decode, loaded, score
from pausejax.prompt_pauses import POSITIONS, PromptPauses, TokenPauses
from tests import models, runs

SEQ_LEN, WIDTH, NUM_NEW = 24, 16, 4
TEXTS = [[5, 9, 11], [7, 40]]
WAYS = {
  "every_token": dict(mode="every_token"),
  "repeat_token": dict(mode="repeat_token"),
  "shared": dict(mode="every_token", shares_positions=True),
  "several": dict(mode="every_token", num_ids=2),
}
ways = pytest.mark.parametrize("fields", WAYS.values(), ids=WAYS.keys())


class Tokens(NamedTuple):
  """What a filler reads of a tokenizer."""

  bos_id: int
  pause_ids: range


def spec(fields) -> pause.PauseSpec:
  return pause.PauseSpec(fraction=0.5, run_length=2.0, **fields)


def first_pause(pauses) -> int:
  return models.VOCAB_SIZE - pauses.num_ids


def prompt_arrays(pauses, texts):
  """The arrays of prompts with pauses after each token, and those pauses."""
  first = first_pause(pauses)
  behind = pauses.behind_tokens(first)
  tokens = Tokens(0, range(first, models.VOCAB_SIZE))
  filler = prompts.Filler(tokens, PromptPauses(num_pauses=0), behind)
  rows = [filler.prompt(text) for text in texts]
  tokens_BT, is_real_BT = decode.left_pad(rows, width=WIDTH, pad_id=2)
  moves = [filler.moves(len(row)) for row in rows]
  moves_BT, _ = decode.left_pad(moves, width=WIDTH, pad_id=0)
  arrays = dict(tokens_BT=tokens_BT, is_real_BT=is_real_BT)
  arrays |= dict(in_prefix_BT=is_real_BT, moves_BT=moves_BT.astype(bool))
  return arrays, behind


def trained(model, pauses, texts):
  """The logits [N, V] that predict each id of a text, as in training."""
  text_BN = np.full((len(texts), pauses.num_text_tokens(SEQ_LEN)), PADDING)
  for row_N, text in zip(text_BN, texts, strict=True):
    row_N[: len(text)] = text
  targets_BT = pauses.insert(
    text_BN,
    seq_len=SEQ_LEN,
    pause_id=first_pause(pauses),
    seed=0,
    rows_B=np.arange(len(texts)),
  )
  batch = language_model_batch(
    targets_BT,
    pauses=pauses,
    bos_id=0,
    pad_id=2,
    pause_id=first_pause(pauses),
  )
  logits_BTV = np.asarray(models.logits(model, batch))
  found = []
  rows = zip(logits_BTV, batch["loss_mask"], batch["targets"], strict=True)
  for text, (logits_TV, mask_T, targets_T) in zip(texts, rows, strict=True):
    np.testing.assert_array_equal(targets_T[mask_T], text)
    found.append(logits_TV[mask_T])
  return found


# A window counts pauses, also those that share the position of their token.
windows = pytest.mark.parametrize("window", [0, 5])


@windows
@ways
def test_decoding_equals_the_full_forward_of_training(fields, window):
  model, pauses = models.model(window=window), spec(fields)
  arrays, behind = prompt_arrays(pauses, TEXTS)
  ids_BN = decode.generate(
    model,
    **arrays,
    key=jax.random.key(0),
    num_new=NUM_NEW,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=-1,
    pause_id=first_pause(pauses),
    behind=behind,
  )
  whole = [[*t, *n] for t, n in zip(TEXTS, ids_BN.tolist(), strict=True)]
  for text, ids, logits_NV in zip(
    TEXTS, ids_BN.tolist(), trained(model, pauses, whole), strict=True
  ):
    best_N = logits_NV[:, : first_pause(pauses)].argmax(axis=1)
    assert best_N[len(text) :].tolist() == ids


@windows
@ways
def test_options_have_the_likelihoods_of_training(fields, window):
  model, pauses = models.model(position="rope", window=window), spec(fields)
  arrays, behind = prompt_arrays(pauses, TEXTS)
  options = [[[3, 8, 13], [4]], [[6, 6], [12, 3, 3]]]
  options_BOC = np.zeros((2, 2, 3), np.int32)
  for b, o in np.ndindex(2, 2):
    options_BOC[b, o, : len(options[b][o])] = options[b][o]
  log_prob_BO, _ = score.score_options(
    model,
    **arrays,
    options_BOC=options_BOC,
    num_tokens_BO=np.array([[len(o) for o in row] for row in options]),
    pause_id=first_pause(pauses),
    behind=behind,
  )
  for o in range(2):
    whole = [[*t, *row[o]] for t, row in zip(TEXTS, options, strict=True)]
    for b, logits_NV in enumerate(trained(model, pauses, whole)):
      num = len(options[b][o])
      nats_NV = jax.nn.log_softmax(logits_NV[-num:])
      expected = sum(nats_NV[i, id_] for i, id_ in enumerate(options[b][o]))
      # Float32 sums of at most three logarithms, in another order.
      np.testing.assert_allclose(log_prob_BO[b, o], expected, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_prompt_pauses_stand_beside_the_tokens_with_theirs(position):
  tokens = Tokens(0, range(99, 100))
  pauses = PromptPauses(num_pauses=3, position=position)
  behind = TokenPauses((99, TokenPauses.COPY), share_positions=True)
  filler = prompts.Filler(tokens, pauses, behind)
  ids_N = filler.prompt([5, 6])
  is_pause_N = pauses.mask(len(ids_N))
  assert ids_N[~is_pause_N].tolist() == [0, 5, 99, 5, 6, 99, 6]
  moves_N = filler.moves(len(ids_N))
  assert moves_N[is_pause_N].all()
  assert moves_N[~is_pause_N].tolist() == [1, 1, 0, 0, 1, 0, 0]


def test_a_prompt_that_is_too_long_names_the_positions_of_a_token():
  with pytest.raises(errors.UsageError) as raised:
    continuation.prompt_arrays(
      [[5, 6]],
      PromptPauses(num_pauses=1),
      tokenizers.load_tokenizer("bytes"),
      TokenPauses((99, 99)),
      num_new=3,
      max_seq_len=16,
    )
  assert (
    "prompt 7 + pauses 1 + new tokens 9 make 17 positions, 3 for each token"
    in str(raised.value)
  )


def test_ways_without_a_number_per_token_have_none():
  for mode in ("insert_trim", "exact", "random_runs", "after_sentences"):
    pauses = pause.PauseSpec(fraction=0.1, mode=mode)
    assert pauses.behind_tokens(9) == TokenPauses()
  none = pause.PauseSpec(fraction=0.0, mode="every_token", run_length=2.0)
  assert none.behind_tokens(9).period == 1


@pytest.mark.slow
def test_a_pretrained_run_answers_as_it_was_trained(tmp_path):
  plain = saved_run.find_run(runs.save_run(tmp_path / "run"))
  fields = dict(pause_mode="every_token", pause_run_length=2.0)
  config = {**plain.meta["config"]}
  config["data"] = {**config["data"], **fields}
  meta = {**plain.meta, "config": config, "data": fields}
  paused = dataclasses.replace(plain, meta=meta)
  pause_id = tokenizers.load_tokenizer("bytes").pause_id
  assert paused.behind_tokens == TokenPauses((pause_id, pause_id))
  # The data of a finetuning has no way of pausing in text.
  finetuned = dataclasses.replace(paused, meta={**meta, "data": {}})
  assert finetuned.behind_tokens == TokenPauses() == plain.behind_tokens
  nats = [
    loaded.LoadedRun(run).log_likelihoods(["ab"], [["cd", "e"]])[0]
    for run in (plain, paused)
  ]
  assert (nats[0] != nats[1]).all()
  run = loaded.LoadedRun(paused)
  assert run.generate("a" * 20, max_new_tokens=60)
  with pytest.raises(errors.UsageError, match="new tokens 198 make 259"):
    run.generate("a" * 20, max_new_tokens=66)
