"""Several ids of pauses: an embedding for each place in a run of pauses."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pausejax
from pausejax import errors, pause, prompt_pauses
from pausejax.checkpoints import saved_run
from pausejax.config import LossConfig, default
from pausejax.data import tokenizers
from pausejax.data.batch import language_model_batch
from pausejax.data.finetuning import prompts
from pausejax.inference import decode, score
from pausejax.inspection import checks, sequences
from pausejax.pause_places import MODES, InsertTrim
from pausejax.training import step
from tests import models
from tests.test_continued import config, digests
from tests.test_initial import made, saved, start  # noqa: F401
from tests.test_pause_places import spec, text

N = 3
FIRST = 10_000  # Above every id of the text.
MANY = tokenizers.load_tokenizer("bytes", num_pause_ids=N)
WITH_TOKEN = [mode for mode in MODES if not MODES[mode].repeats_token]


def inserted(pauses: pause.PauseSpec) -> np.ndarray:
  ids_BN, ends_BN = text(pauses)
  return pauses.insert(
    ids_BN,
    seq_len=60,
    pause_id=FIRST,
    seed=0,
    rows_B=np.arange(len(ids_BN)),
    ends_BN=ends_BN,
  )


@pytest.mark.parametrize("mode", WITH_TOKEN)
def test_pause_j_of_a_run_has_id_j_in_the_places_of_a_single_id(mode):
  fields = {"fraction": 0.6, "run_length": 4.0}
  if issubclass(MODES[mode], InsertTrim):
    fields["run_length"] = 1.0
  one_BT = inserted(spec(mode, **fields))
  many_BT = inserted(spec(mode, **fields, num_ids=N))
  is_pause_BT = one_BT == FIRST
  np.testing.assert_array_equal(many_BT[~is_pause_BT], one_BT[~is_pause_BT])
  for is_pause_T, ids_T in zip(is_pause_BT, many_BT, strict=True):
    place = 0
    for is_pause, id_ in zip(is_pause_T, ids_T, strict=True):
      if is_pause:
        assert id_ == FIRST + place % N
      place = place + 1 if is_pause else 0
  assert set(many_BT[is_pause_BT]) == {FIRST, FIRST + 1, FIRST + 2}


@pytest.mark.parametrize("mode", WITH_TOKEN)
def test_a_target_counts_unless_it_is_one_of_the_pauses(mode):
  pauses = spec(mode, fraction=0.4, num_ids=N)
  batch = language_model_batch(
    inserted(pauses), pauses=pauses, bos_id=0, pad_id=0, pause_id=FIRST
  )
  is_pause_BT = np.isin(batch["targets"], range(FIRST, FIRST + N))
  np.testing.assert_array_equal(batch["loss_mask"], ~is_pause_BT)


def several(batch, num_ids=N):
  """The batch with ids of its own for the pauses of a run."""
  first = models.VOCAB_SIZE - num_ids
  rng = np.random.default_rng(1)
  drawn_BT = rng.integers(first, models.VOCAB_SIZE, batch["targets"].shape)
  targets_BT = np.where(batch["loss_mask"], batch["targets"] % first, drawn_BT)
  tokens_BT = np.roll(targets_BT, 1, axis=1)
  tokens_BT[:, 0] = 0
  return {
    **batch,
    "targets": targets_BT.astype(np.int32),
    "tokens": tokens_BT.astype(np.int32),
  }


def test_targets_that_are_pauses_have_no_gradient_and_all_are_counted():
  batch = several(models.batch())
  other = {**batch}
  other["targets"] = np.where(batch["loss_mask"], batch["targets"], 7)
  first = models.VOCAB_SIZE - N
  loss = LossConfig(**default().loss.to_dict())

  @jax.jit
  def grads(model, batch):
    objective = lambda model: step.evaluate_batch(
      model, batch, loss=loss, pause_id=first
    )["nll"]
    return jax.grad(objective)(model)

  jax.tree.map(
    np.testing.assert_array_equal,
    *(grads(models.model(), b) for b in (batch, other)),
  )
  sums = step.evaluate_batch(
    models.model(), batch, loss=loss, pause_id=jnp.int32(first)
  )
  assert sums["num_pauses"] == (batch["tokens"] >= first).sum()
  after_BT = batch["loss_mask"] & (batch["tokens"] >= first)
  assert sums["num_after_pause"] == after_BT.sum() > 0


def test_no_pause_is_ever_generated_or_the_greedy_choice():
  model = models.model(head_bias=True)
  first = models.VOCAB_SIZE - N
  bias_V = model.head_bias[...]
  model.head_bias[...] = bias_V.at[first : models.VOCAB_SIZE].set(100.0)
  rows = [[0, 5, 9, first, first + 1, first + 2]]
  tokens_BT, is_real_BT = decode.left_pad(rows, width=8, pad_id=2)
  arrays = tokens_BT, is_real_BT, is_real_BT
  ids_BN = decode.generate(
    model,
    *arrays,
    jax.random.key(0),
    num_new=6,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    eos_id=-1,
    pause_id=first,
  )
  assert (np.asarray(ids_BN) < first).all()
  logits_V = models.logits(model, models.rows(rows, [0]))[0, 5]
  assert int(jnp.argmax(logits_V)) >= first
  best = int(jnp.argmax(logits_V[:first]))
  _, is_greedy_BO = score.score_options(
    model,
    *arrays,
    np.array([[[best], [best + 1]]]),
    np.ones((1, 2), np.int32),
    pause_id=first,
  )
  np.testing.assert_array_equal(is_greedy_BO, [[True, False]])


@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
@pytest.mark.parametrize("m", [0, 2, 3, 8])
def test_the_pauses_of_a_prompt_have_the_ids_in_turn(position, m):
  pauses = prompt_pauses.PromptPauses(num_pauses=m, position=position)
  ids_N = prompts.Filler(MANY, pauses).prompt([5, 6, 7])
  expected = [MANY.pause_id + j % N for j in range(m)]
  assert ids_N[MANY.is_pause(ids_N)].tolist() == expected
  assert ids_N[~MANY.is_pause(ids_N)].tolist() == [MANY.bos_id, 5, 6, 7]
  assert MANY.decode(ids_N) == MANY.decode([5, 6, 7])


@pytest.mark.slow
def test_a_checkpoint_grows_by_rows_and_keeps_its_own(saved, made):  # noqa: F811
  folder, before = saved
  was_VD = np.asarray(before.model.embedding[...])
  num_text = models.VOCAB_SIZE - N
  for num_old, seen in ((0, True), (1, True), (2, True), (N, False)):
    now = start(
      folder,
      made,
      seen=seen,
      row="normal",
      vocab_size=num_text + num_old,
      num_pause_ids=N,
    )
    now_VD = np.asarray(now.model.embedding[...])
    kept = num_text + num_old * seen
    np.testing.assert_array_equal(now_VD[:kept], was_VD[:kept])
    new_VD = now_VD[kept : models.VOCAB_SIZE]
    assert len(np.unique(new_VD, axis=0)) == N - num_old * seen
  with pytest.raises(errors.UsageError, match="give it as many pauses"):
    start(folder, made, vocab_size=models.VOCAB_SIZE + 1, num_pause_ids=N)


@pytest.mark.parametrize("mode", [m for m in WITH_TOKEN if not MODES[m].unit])
def test_batches_of_text_pass_every_check(mode, data_config):
  settings = {"pause_fraction": 0.3, "pause_mode": mode}
  pauses = data_config(**settings, num_pause_ids=N).pauses
  rng = np.random.default_rng(0)
  text_BT = rng.integers(100, 120, (8, pauses.num_text_tokens(64)))
  targets_BT = pauses.insert(
    text_BT,
    seq_len=64,
    pause_id=MANY.pause_id,
    seed=0,
    rows_B=np.arange(8),
  )
  batch = language_model_batch(
    targets_BT, pauses=pauses, bos_id=0, pad_id=0, pause_id=MANY.pause_id
  )
  rules = sequences.PretrainingRules(
    seq_len=64, tokenizer=MANY, text_BT=text_BT, max_short=0, pauses=pauses
  )
  assert all(c.is_ok for c in checks.check_batch(batch, rules))
  batch["loss_mask"] |= MANY.is_pause(batch["targets"])
  assert not all(c.is_ok for c in checks.check_batch(batch, rules))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data__num_pause_ids": 0}, "data.num_pause_ids: must be"),
    (
      {"data__pipeline": "seqio", "later_batch_sizes": ""},
      "3 needs data.pipeline=segments",
    ),
    ({"optim__pause_only_steps": 2}, "support only one id of <pause>"),
    ({"checkpoint__export_every": 2}, "support only one id of <pause>"),
  ],
)
def test_what_knows_one_pause_is_refused(changes, message, tmp_path):
  c = config(tmp_path, **{"data__num_pause_ids": N, **changes})
  with pytest.raises(errors.UsageError, match=message):
    pausejax.train(c, tmp_path / "run")


@pytest.mark.parametrize("mode", ["exact", "random_runs", "every_token"])
def test_the_public_functions_know_all_ids(mode):
  tokens_BN, _ = text(spec(mode))
  how = dict(pause_fraction=0.4, mode=mode, pause_id=FIRST, seed=5)
  how["run_length"] = 4.0 if mode != "exact" else 1.0
  one_BT = pausejax.insert_pauses(tokens_BN, **how)
  many_BT = pausejax.insert_pauses(tokens_BN, **how, num_pause_ids=N)
  # The same places, and the ids of `PauseSpec.insert`.
  np.testing.assert_array_equal(one_BT == FIRST, many_BT >= FIRST)
  assert {*many_BT[many_BT >= FIRST]} == {FIRST, FIRST + 1, FIRST + 2}
  batch = pausejax.make_batch(
    list(many_BT), bos_id=1, pad_id=0, pause_id=FIRST, num_pause_ids=N
  )
  np.testing.assert_array_equal(batch["targets"], many_BT)
  np.testing.assert_array_equal(batch["loss_mask"], many_BT < FIRST)
  for one_T, many_T in zip(one_BT, many_BT, strict=True):
    np.testing.assert_array_equal(
      pausejax.remove_pauses(many_T, FIRST, num_pause_ids=N),
      pausejax.remove_pauses(one_T, FIRST),
    )


def test_ids_up_to_the_end_of_a_small_type_fit():
  tokens_T = np.arange(20, dtype=np.uint8)
  how = dict(pause_id=254, num_pause_ids=2, pause_fraction=0.5, mode="exact")
  found_T = pausejax.insert_pauses(tokens_T, **how)
  assert found_T.dtype == np.uint8 and 254 in found_T
  kept_T = pausejax.remove_pauses(found_T, 254, num_pause_ids=2)
  np.testing.assert_array_equal(kept_T, tokens_T)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_answers_and_starts_others(tmp_path):
  fields = dict(data__num_pause_ids=N, data__pause_mode="random_runs")
  fields |= dict(data__pause_fraction=0.3, data__pause_run_length=3.0)
  pausejax.train(config(tmp_path, **fields), tmp_path / "whole")
  for stop in (3, 0):
    c = config(tmp_path, stop_at_step=stop, **fields)
    pausejax.train(c, tmp_path / "resumed")
  assert digests(tmp_path / "resumed") == digests(tmp_path / "whole")
  run = pausejax.load(tmp_path / "whole")
  assert len(run.tokenizer.pause_ids) == N
  assert run.logits([0, 5]).shape == (2, run.tokenizer.vocab_size)
  assert run.generate("the", num_pauses=4, max_new_tokens=3)
  with pytest.raises(errors.UsageError, match="num_pause_ids"):
    other = config(tmp_path, **{**fields, "data__num_pause_ids": 2})
    pausejax.train(other, tmp_path / "whole")
  _refuses_to_export(tmp_path)
  # A run that starts from it has at least its pauses.
  c = config(tmp_path, init_from=str(tmp_path / "whole"), stop_at_step=1)
  pausejax.train(c, tmp_path / "next")
  assert len(pausejax.load(tmp_path / "next").tokenizer.pause_ids) == N


def _refuses_to_export(folder: pathlib.Path) -> None:
  from pausejax.interop import export

  with pytest.raises(errors.UsageError, match="has one <pause>"):
    export.prepare_export(
      saved_run.find_run(str(folder / "whole")),
      "out",
      dtype="float32",
      max_shard_bytes=1 << 30,
      scores=[],
    )
