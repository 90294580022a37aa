"""Lesions change what they name and nothing else; the verdict follows."""

import jax
import numpy as np
import pytest

from pausejax.probe import forward
from pausejax.prompt_pauses import PromptPauses
from tests import models, runs
from tests.test_messages import refused
from tests.test_sharding import one_device_mesh

M, LENGTHS = 4, (9, 7, 6, 9)


@pytest.fixture(autouse=True)
def _mesh():
  with jax.set_mesh(one_device_mesh()):
    yield


def rows(position="append", in_prefix=False) -> forward.Rows:
  """Four random prompts with four pauses each, and answers of two ids."""
  rng = np.random.default_rng(1)
  pauses = PromptPauses(num_pauses=M, position=position, in_prefix=in_prefix)
  made = [
    pauses.prompt(rng.integers(3, 90, n), bos_id=0, pause_id=models.PAUSE_ID)
    for n in LENGTHS
  ]
  answers_BC = rng.integers(3, 90, (len(made), 2)).astype(np.int32)
  tokens_BT = np.zeros((len(made), 24), np.int32)
  in_prefix_BT = np.zeros(tokens_BT.shape, bool)
  for b, prompt in enumerate(made):
    tokens_BT[b, : len(prompt) + 1] = [*prompt, answers_BC[b, 0]]
    in_prefix_BT[b, : len(prompt)] = pauses.prefix_mask(len(prompt))
  pauses_BM = np.stack([np.flatnonzero(pauses.mask(len(p))) for p in made])
  read_B1 = np.array([[len(p) - 1] for p in made])
  return forward.Rows(
    tokens_BT,
    np.broadcast_to(np.arange(24), tokens_BT.shape),
    in_prefix_BT,
    pauses_BM,
    pauses_BM != read_B1,
    read_B1 + np.arange(2),
    answers_BC,
    np.array([2, 2, 1, 2]),
  )


def probe(model, rows_, **changes) -> forward.Pass:
  """A pass; `changes` are fields of the lesion."""
  none = forward.no_lesion(model.config, len(rows_.tokens_BT), M)
  return forward.run_rows(
    model, rows_, none._replace(**changes), models.PAUSE_ID
  )


def everywhere(model, but_last=True) -> np.ndarray:
  on_LM = np.ones((model.config.num_layers, M), bool)
  on_LM[:, M - but_last :] = False
  return on_LM


def close(a: forward.Pass, b: forward.Pass) -> None:
  np.testing.assert_allclose(a.log_prob_B, b.log_prob_B, rtol=1e-4, atol=1e-5)


def differ(a: forward.Pass, b: forward.Pass) -> bool:
  return bool(np.all(np.abs(a.log_prob_B - b.log_prob_B) > 1e-4))


ALL = models.VARIANTS | models.ARCHITECTURES
BIDIRECTIONAL = {"two ways": dict(prefix_attention="bidirectional")}


def log_probs(logits_BTV, rows_) -> np.ndarray:
  """The log-likelihoods of the answers, without the code under test."""
  nats_BTV = jax.nn.log_softmax(logits_BTV)
  sums = []
  for b, count in enumerate(rows_.num_ids_B):
    pairs = zip(rows_.reads_BC[b], rows_.answers_BC[b, :count], strict=False)
    sums.append(sum(nats_BTV[b, read, id_] for read, id_ in pairs))
  return np.array(sums)


@pytest.mark.parametrize("name", ALL | BIDIRECTIONAL)
def test_without_a_lesion_a_pass_is_the_model_s(name):
  model = models.model(**(ALL | BIDIRECTIONAL)[name])
  for position in ("append", "both"):
    rows_ = rows(position, in_prefix=name == "two ways")
    batch = {
      "tokens": rows_.tokens_BT,
      "positions": np.broadcast_to(np.arange(24), rows_.tokens_BT.shape),
      "segment_ids": np.ones_like(rows_.tokens_BT),
      "in_prefix": rows_.in_prefix_BT,
    }
    expected_B = log_probs(models.logits(model, batch), rows_)
    found_B = probe(model, rows_).log_prob_B
    np.testing.assert_allclose(found_B, expected_B, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["paper", "llama", "qwen", "neox"])
def test_cut_everywhere_is_the_pass_without_these_positions(name):
  """The other ids keep their positions; those of the pauses are gone."""
  model, rows_ = models.model(**ALL[name]), rows()
  cut = probe(model, rows_, is_cut_LM=everywhere(model))
  assert differ(cut, probe(model, rows_))
  for b, (read, _) in enumerate(rows_.reads_BC):
    kept = np.setdiff1d(np.arange(read + 2), rows_.pauses_BM[b, :-1])
    batch = {
      "tokens": rows_.tokens_BT[b : b + 1, kept],
      "positions": kept[None],
      "segment_ids": np.ones((1, len(kept)), np.int32),
    }
    one = forward.Rows(*(x[b : b + 1] for x in rows_))
    one = one._replace(reads_BC=len(kept) - np.array([[2, 1]]))
    expected_B = log_probs(models.logits(model, batch), one)
    np.testing.assert_allclose(cut.log_prob_B[b], expected_B[0], rtol=1e-4)


def test_what_nobody_attends_to_can_hold_anything():
  model, rows_ = models.model(), rows()
  on_LM = everywhere(model)
  cut = probe(model, rows_, is_cut_LM=on_LM)
  for field in ("is_replaced_LM", "is_transplanted_LM"):
    close(cut, probe(model, rows_, is_cut_LM=on_LM, **{field: on_LM}))


@pytest.mark.parametrize("name", ALL)
def test_a_transplant_from_the_same_example_changes_nothing(name):
  model, rows_ = models.model(**ALL[name]), rows()
  before = probe(model, rows_)
  own_LBMD = before.stream_SBMD[:-1]
  for field in ("is_replaced_LM", "is_transplanted_LM"):
    changes = {field: everywhere(model), "vectors_LBMD": own_LBMD}
    close(before, probe(model, rows_, **changes))
    # Row 0 and row 3 have the same length, and other ids.
    changes["vectors_LBMD"] = own_LBMD[:, [3, 0, 0, 0]]
    assert differ(before, probe(model, rows_, **changes))


def test_all_keys_and_values_together_are_all_vectors():
  """Pauses reach other positions through keys and values only."""
  model, rows_ = models.model(), rows()
  lent_LBMD = probe(model, rows_).stream_SBMD[:-1, :, :][:, [3, 0, 0, 0]]
  changes = {"vectors_LBMD": lent_LBMD}
  on_LM = everywhere(model)
  close(
    probe(model, rows_, is_transplanted_LM=on_LM, **changes),
    probe(model, rows_, is_replaced_LM=on_LM, **changes),
  )


def test_a_lesion_of_one_layer_and_pause_is_only_there():
  """The stream of earlier pauses, and of all in earlier layers, is the same."""
  model, rows_ = models.model(num_layers=3), rows()
  on_LM = np.zeros((3, M), bool)
  on_LM[1, 2] = True
  before = np.array(probe(model, rows_).stream_SBMD)
  after = np.array(probe(model, rows_, is_replaced_LM=on_LM).stream_SBMD)
  changed_SM = np.abs(before - after).max(axis=(1, 3)) > 1e-6
  expected_SM = np.zeros((4, M), bool)
  expected_SM[2:, 2:] = True
  assert (changed_SM == expected_SM).all()


def test_attention_and_lens_are_those_of_the_model():
  model, rows_ = models.model(), rows()
  done = probe(model, rows_)
  assert done.mass_LBNM.shape == (2, 4, 4, M)
  assert np.all(done.mass_LBNM.sum(axis=-1) < 1)
  cut = probe(model, rows_, is_cut_LM=everywhere(model))
  assert np.all(np.array(cut.mass_LBNM)[..., :-1] == 0)
  nats_SMB, is_top_SMB, top_SMB = forward.lens(
    model, done.stream_SBMD, rows_.answers_BC[:, 0], models.PAUSE_ID
  )
  # The answer is read at the last pause: its lens is the first id's score.
  one = rows_._replace(num_ids_B=np.ones(4, int))
  np.testing.assert_allclose(
    nats_SMB[-1, -1], probe(model, one).log_prob_B, rtol=1e-5
  )
  assert (is_top_SMB == (top_SMB == rows_.answers_BC[:, 0])).all()


def test_even_attention_is_that_to_the_visible_positions():
  """A window hides some; every second layer has none."""
  model, rows_ = models.model(window=3, global_every=2), rows()
  even_LBM = probe(model, rows_).even_LBM
  local_BM, global_BM = [], []
  for (read, _), pauses_M in zip(rows_.reads_BC, rows_.pauses_BM, strict=True):
    local_BM.append((pauses_M > read - 3) / 3)
    global_BM.append(np.full(M, 1 / (read + 1)))
  np.testing.assert_allclose(even_LBM, [local_BM, global_BM], rtol=1e-6)


def test_one_program_serves_all_lesions_of_a_shape():
  model, rows_ = models.model(d_ff=48), rows()
  probe(model, rows_)
  before = forward.run_rows._cache_size()
  for layer in range(2):
    on_LM = everywhere(model)
    on_LM[layer] = False
    probe(model, rows_, is_cut_LM=on_LM)
    probe(model, rows_, is_replaced_LM=on_LM, is_transplanted_LM=on_LM)
  assert forward.run_rows._cache_size() == before


def test_a_looped_model_is_refused(tmp_path, capfd):
  run = runs.save_run(tmp_path / "run", num_loops=2)
  argv = ["probe", "--task=parity20", f"--checkpoint={run}"]
  assert "has model.num_loops 2" in refused(argv, capfd)
