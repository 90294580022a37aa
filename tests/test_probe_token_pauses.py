"""A probe of pauses after every token changes these, one group per pause."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax import cli, tasks
from pausejax.config import ModelConfig, default
from pausejax.data.finetuning import prompts
from pausejax.evaluation import answers
from pausejax.model import decoder
from pausejax.probe import forward, measure, sequences
from pausejax.prompt_pauses import PromptPauses, TokenPauses
from tests import models, reports, runs, test_answers
from tests.test_answers import TOKENIZER
from tests.test_sharding import one_device_mesh

PAUSE, COPY, BATCH = TOKENIZER.pause_id, TokenPauses.COPY, 4
WAYS = {
  "pauses": TokenPauses((PAUSE, PAUSE)),
  "shared": TokenPauses((PAUSE, PAUSE), share_positions=True),
  "copies": TokenPauses((COPY,), share_positions=True),
}
ways = pytest.mark.parametrize("behind", WAYS.values(), ids=WAYS.keys())


@pytest.fixture(autouse=True)
def _mesh():
  with jax.set_mesh(one_device_mesh()):
    yield


@functools.cache
def model() -> decoder.Decoder:
  tree = default().model
  tree.update({**runs.SMALL, "max_seq_len": 64, "position": "rope"})
  config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **tree.to_dict())
  return models.random_model(config, seed=0)


def prober(behind, kind="decode", num_pauses=0) -> measure.Prober:
  pauses = PromptPauses(num_pauses=num_pauses)
  format_ = prompts.Format(test_answers.task(kind), TOKENIZER, pauses, behind)
  examples = [
    tasks.Example(
      id=str(i),
      prefix="abcdefghijk"[i : 2 * i + 2],
      target="xyzw"[i % 3 :],
      references=("x",),
      options=("yes", "no") if kind == "options" else (),
      label=i % 2 if kind == "options" else -1,
    )
    for i in range(6)
  ]
  return measure.Prober(
    model=model(),
    format=format_,
    examples=examples,
    pause_id=PAUSE,
    batch_size=BATCH,
  )


def first_batch(it: measure.Prober) -> forward.Rows:
  rows = it.encoded.rows[:BATCH]
  width = sequences.width(rows, it.format, 64)
  made = sequences.to_rows(
    rows, it.format, batch_size=BATCH, width=width, num_ids=5
  )
  return forward.Rows(*map(np.asarray, made))


def probe(rows, **changes) -> forward.Pass:
  none = forward.no_lesion(model().config, *rows.pauses_BM.shape)
  return forward.run_rows(model(), rows, none._replace(**changes), PAUSE)


def everywhere(rows) -> np.ndarray:
  return np.ones((2, rows.pauses_BM.shape[1]), bool)


def logits(tokens_T, positions_T) -> np.ndarray:
  batch = {
    "tokens": np.array([tokens_T]),
    "positions": np.array([positions_T]),
    "segment_ids": np.ones((1, len(tokens_T)), np.int32),
  }
  return models.logits(model(), batch)[0]


@ways
@pytest.mark.parametrize("num_pauses", [0, 3])
def test_without_a_lesion_options_score_as_in_an_evaluation(behind, num_pauses):
  it = prober(behind, "options", num_pauses)
  predictor = answers.Predictor(
    format=it.format, tokenizer=TOKENIZER, batch_size=BATCH
  )
  expected = predictor.answer(model(), it.examples, lambda *_: None).rows
  found = it.unchanged(lambda *_: None).values
  for i, row in enumerate(expected):
    nats = np.array(row["log_likelihoods"])
    log_share = nats[i % 2] - np.logaddexp.reduce(nats)
    assert found.log_likelihood[i] == pytest.approx(log_share, rel=1e-4)
    assert found.is_right[i] == (np.argmax(nats) == i % 2)


@ways
def test_probed_are_the_pauses_of_the_prompt_but_the_one_that_is_read(behind):
  it = prober(behind)
  rows, count = first_batch(it), len(behind.ids)
  assert (it.num_groups, it.num_probed) == (count, count)
  for b, row in enumerate(it.encoded.rows[:BATCH]):
    prompt_N = row.prompt_N
    is_pause_N = (np.arange(-1, len(prompt_N) - 1) % behind.period) > 0
    is_pause_N[[0, -1]] = False
    found = rows.pauses_BM[b, rows.is_probed_BM[b]]
    assert found.tolist() == np.flatnonzero(is_pause_N).tolist()
    # The groups in turns, aligned at the end.
    places_M = (np.array(rows.pauses_BM[b]) - 1) % behind.period - 1
    assert (places_M == np.arange(len(places_M)) % count).all()
    assert rows.pauses_BM[b, -1] == rows.reads_BC[b, 0] == len(prompt_N) - 1


@ways
def test_cut_everywhere_is_the_pass_without_these_positions(behind):
  """The other ids keep their positions; those of the pauses are gone."""
  it = prober(behind)
  rows = first_batch(it)
  cut = probe(rows, is_cut_LM=everywhere(rows))
  for b, row in enumerate(it.encoded.rows[:BATCH]):
    size = int(rows.reads_BC[b, len(row.answer) - 1]) + 1
    gone = rows.pauses_BM[b, rows.is_probed_BM[b]]
    kept = np.setdiff1d(np.arange(size), gone)
    nats_TV = jax.nn.log_softmax(
      logits(rows.tokens_BT[b, kept], rows.positions_BT[b, kept])
    )
    reads = np.searchsorted(kept, rows.reads_BC[b, : len(row.answer)])
    expected = float(nats_TV[reads, np.array(row.answer)].sum())
    assert float(cut.log_prob_B[b]) == pytest.approx(expected, rel=1e-4)


@ways
def test_lesions_change_what_they_name(behind):
  rows = first_batch(prober(behind))
  before = probe(rows)
  own_LBMD, on_LM = before.stream_SBMD[:-1], everywhere(rows)
  for field in ("is_replaced_LM", "is_transplanted_LM"):
    changes = {field: on_LM, "vectors_LBMD": own_LBMD}
    same = probe(rows, **changes)
    np.testing.assert_allclose(same.log_prob_B, before.log_prob_B, rtol=1e-4)
    changes["vectors_LBMD"] = own_LBMD[:, ::-1]
    other = probe(rows, **changes)
    assert np.all(np.abs(other.log_prob_B - before.log_prob_B) > 1e-5)


@ways
def test_a_lesion_changes_the_pauses_of_its_group(behind):
  it = prober(behind)
  rows, count = first_batch(it), it.num_groups
  group_M = (rows.pauses_BM[0] - 1) % behind.period - 1
  lent_LBMD = jnp.zeros((2, *rows.pauses_BM.shape, 8))
  means_LGD = np.ones((2, 1, 8)) * np.arange(1, count + 1)[None, :, None]
  vectors = measure._vectors(lent_LBMD, means_LGD)
  assert (vectors["mean"][0, :, :, 0] == 1 + group_M).all()
  specs = measure.specs_of(2, count, count, (), ("pause",))
  for g in range(count):
    lesion = measure._lesion(specs["cut", "pause", g], vectors["cut"])
    assert (lesion.is_cut_LM == (group_M == g)).all()


@ways
def test_means_and_attention_are_those_of_a_group(behind):
  it = prober(behind)
  found = it.unchanged(lambda *_: None)
  vectors, masses = [], []
  for _, of_batch in it._batches():
    rows = it._arrays(of_batch, it._width(of_batch))
    done = probe(rows)
    for b in range(min(BATCH, len(it.examples) - len(masses))):
      on_M = np.flatnonzero(rows.is_probed_BM[b])
      groups_M = on_M % it.num_groups
      mass_LNM = np.asarray(done.mass_LBNM)[:, b, :, on_M]
      masses.append(
        [mass_LNM[groups_M == g].sum(axis=0) for g in range(it.num_groups)]
      )
      vectors += [
        (g, np.asarray(done.stream_SBMD)[:-1, b, m])
        for m, g in zip(on_M, groups_M, strict=True)
      ]
  for g in range(it.num_groups):
    mean_LD = np.mean([x for group, x in vectors if group == g], axis=0)
    np.testing.assert_allclose(found.means_LGD[:, g], mean_LD, atol=1e-5)
  expected_LAG = np.moveaxis(np.mean(masses, axis=0), 0, -1)
  np.testing.assert_allclose(found.mass_LAP, expected_LAG, atol=1e-5)


@pytest.mark.parametrize("mode", ["every_token", "repeat_token"])
def test_the_command_probes_such_a_run_and_the_report_draws_it(
  mode, tmp_path, capsys
):
  fields = {"pause_mode": mode, "pause_run_length": 2.0}
  run = runs.save_run(tmp_path / "run", pauses=fields)
  argv = ["probe", f"--checkpoint={run}", "--task=parity20", "--limit=16"]
  report = tmp_path / "runs" / "a"
  reports.write_run(report)
  argv += ["--batch_size=8", f"--out={report / 'probes'}"]
  assert cli.main([*argv, "--pauses=0", "--maps=cut"]) == 0
  said = capsys.readouterr().out
  kind = {"every_token": "2 pauses", "repeat_token": "2 copies"}[mode]
  assert f"{kind} after every token of the prompt, all probed but" in said
  (path,) = (report / "probes").iterdir()
  result = json.loads(path.read_text())
  assert result["pauses_behind_tokens"] == result["num_probed"] == 2
  assert [len(x) for x in result["by_layer_and_pause"]["cut"]] == [2, 2]
  assert [k["num_kept"] for k in result["kept"]] == [0, 1, 2]
  assert cli.main([*argv, "--pauses=3", "--maps="]) == 0
  said = capsys.readouterr().out
  assert "3 x <pause> after the prefix, 2 of them probed; 2 " in said
  assert " after every token not probed; " in said
  assert cli.main(["report", str(report.parent)]) == 0
  page = (report.parent / "report.html").read_text()
  assert "M=0, 2 after every token" in page and "M=3" in page
  capsys.readouterr()
  for option in ("--filler=.", "--position=append"):
    assert cli.main([*argv, "--pauses=0", option]) == 2
    assert "but M is 0: leave them out" in capsys.readouterr().err
