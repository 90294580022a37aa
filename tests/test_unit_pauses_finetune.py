"""Finetuning and answers with pauses after sentences or paragraphs."""

import json
import re

import jax
import numpy as np
import pytest

from pausejax import cli, errors
from pausejax.checkpoints import saved_run
from pausejax.config import default, train_config
from pausejax.data.finetuning import prompts
from pausejax.inference import continuation
from pausejax.inspection import checks, sequences
from pausejax.pause import PauseSpec
from pausejax.prompt_pauses import PromptPauses, TokenPauses
from pausejax.tasks import Example
from tests import models, test_requests, toys
from tests import test_token_pauses_finetune as token_pauses
from tests.finetuning import BOS, BYTES, EOS, PAUSE
from tests.test_sharding import one_device_mesh

make_source = token_pauses.make_source
# Ends of each unit, found in the text and not in its ids.
ENDS = {
  "sentence": r"[.!?]['\")]*(?=\s)",
  "paragraph": r"(?<=\S)[ ]*\n[ ]*\n",
}
units = pytest.mark.parametrize("unit", ENDS)
TEXTS = [
  "One. Two (2.)! 3.14?\n\nSo. Why?",
  "No end",
  "",
  "A.\n \n\nB\n\nC! D",
  "Q? \n\n",
]
EXAMPLES = [
  Example(id=str(i), prefix=text, target="y" * (i + 1), references=("y",))
  for i, text in enumerate(TEXTS)
]


def ways(unit: str) -> TokenPauses:
  return TokenPauses((PAUSE, PAUSE), unit=unit)


def law(text: str, behind: TokenPauses) -> list[int]:
  """The ids of a prefix: its text, a run of pauses after every unit."""
  ids, start = [], 0
  for match in re.finditer(ENDS[behind.unit], text):
    ids += [*BYTES.encode([text[start : match.end()]])[0], *behind.ids]
    start = match.end()
  return ids + BYTES.encode([text[start:]])[0]


@units
@pytest.mark.parametrize("numbers", ["", "0-3"])
@pytest.mark.parametrize("position", ["append", "prepend"])
def test_batches_follow_the_law(unit, numbers, position, make_source):
  behind = ways(unit)
  made = token_pauses.encoded(
    behind,
    EXAMPLES,
    num_pauses=3,
    train_num_pauses=numbers,
    pause_position=position,
  )
  source, expected = make_source(made), set()
  for example in EXAMPLES:
    prefix = law(example.prefix, behind)
    for m in made.numbers:
      pauses = [PAUSE] * m
      text = prefix + pauses if position == "append" else pauses + prefix
      prompt = [BOS, *text]
      ids = [*prompt, *BYTES.encode([" " + example.target])[0], EOS]
      counts = [i >= len(prompt) - 1 for i in range(len(ids) - 1)]
      columns = ids[:-1], range(len(ids) - 1), ids[1:], counts
      expected.add(str([*zip(*columns, strict=True)]))
  found = [
    row
    for step in range(4)
    for row in token_pauses.rows_of(source.training_batch(step))
  ]
  assert len(found) > 12
  assert {str(row) for row in found} <= expected


@units
def test_a_batch_passes_every_check_and_one_pause_less_does_not(
  unit, make_source
):
  made = token_pauses.encoded(ways(unit), EXAMPLES[:1], num_pauses=1)
  source = make_source(made, packing=False)
  rules = sequences.FinetuningRules(
    seq_len=token_pauses.SEQ_LEN,
    tokenizer=BYTES,
    sequences=made,
    drawn=source.drawn(0),
  )
  batch = source.training_batch(0)
  assert not [c for c in checks.check_batch(batch, rules) if not c.is_ok]
  wrong_BT = batch["tokens"].copy()
  first = np.flatnonzero(wrong_BT[0] >= PAUSE)[0]
  wrong_BT[0, first] = BYTES.encode(["x"])[0][0]
  found = checks.check_batch({**batch, "tokens": wrong_BT}, rules)
  assert any("pauses" in c.name and not c.is_ok for c in found), found


@units
@pytest.mark.parametrize("length", range(0, 45))
def test_as_much_of_a_long_prefix_is_kept_as_fits(unit, length):
  behind, text = ways(unit), TEXTS[0]
  filler = prompts.Filler(BYTES, PromptPauses(num_pauses=0), behind)
  ids = BYTES.encode([text])[0]
  cut = filler.num_excess(ids, length)
  kept = law(text[cut:], behind)
  assert filler.prompt(ids[cut:]).tolist() == [BOS, *kept]
  assert filler.text(filler.prompt(ids[cut:])).tolist() == ids[cut:]
  assert len(kept) <= length
  assert cut == 0 or len(law(text[cut - 1 :], behind)) > length


@pytest.fixture
def mesh():
  with jax.set_mesh(one_device_mesh()):
    yield


@units
def test_prompts_of_generation_and_of_a_harness_are_those_of_training(
  unit, mesh
):
  behind = ways(unit)
  pauses = PromptPauses(num_pauses=2)
  expected = [BOS, *law(TEXTS[0], behind), PAUSE, PAUSE]
  (ids,) = BYTES.encode(TEXTS[:1])
  arrays = continuation.prompt_arrays(
    [ids], pauses, BYTES, behind, num_new=4, max_seq_len=64
  )
  tokens_T, is_real_T = arrays["tokens_BT"][0], arrays["is_real_BT"][0]
  assert tokens_T[is_real_T].tolist() == expected
  assert arrays["moves_BT"][0][is_real_T].all()
  runner = test_requests.runner(behind=behind, num_pauses=2)
  assert runner._prompt([BOS, *ids], 4).ids_N.tolist() == expected
  runner = test_requests.runner(behind=behind, num_pauses=2, max_length=20)
  (context, after) = [BOS, *ids], 4
  kept = runner._prompt(context, after).ids_N.tolist()
  assert len(kept) + after <= 20 and kept == expected[-len(kept) :]
  assert (runner.num_truncated, len(kept) > 10) == (1, True)
  too_long = f"prompt {len(expected) - 2} "
  with pytest.raises(errors.UsageError, match=too_long):
    continuation.prompt_arrays(
      [ids], pauses, BYTES, behind, num_new=4, max_seq_len=len(expected)
    )


def test_a_config_gives_them_to_a_finetuning_and_not_to_a_pretraining():
  tree = default()
  tree.data.update(pause_mode="after_sentences", pause_run_length=3.0)
  tree.data.num_pause_ids = 2
  config = train_config(tree.to_dict())
  expected = TokenPauses((7, 8, 7), unit="sentence")
  assert config.behind_tokens(7) == expected
  assert str(expected) == "3 pauses after every sentence of the prefix"
  assert expected.period == 1 and expected.num_per_token == 0
  assert config.data.pauses.behind_tokens(7) == TokenPauses()
  tree.finetune.pauses_behind_tokens = False
  assert train_config(tree.to_dict()).behind_tokens(7) == TokenPauses()
  spec = PauseSpec(fraction=0.1, mode="after_paragraphs", shares_positions=True)
  with pytest.raises(errors.UsageError, match="pauses_share_positions"):
    spec.in_examples(7)


def words(workdir, *more) -> list[str]:
  """The words of a small finetuning on prefixes with sentences."""
  model = ["num_layers=1", "d_model=16", "num_heads=2", "max_seq_len=256"]
  return [
    *("train", "--config=configs/finetune_smoke.py:task=stdlib_cloze,pauses=1"),
    *(f"--config.model.{word}" for word in model),
    *("--config.data.seq_len=256", "--config.batch_size=8"),
    *("--config.num_steps=4", "--config.checkpoint.every=2"),
    *("--config.eval.every=0", f"--workdir={workdir}", *more),
  ]


@pytest.mark.slow
def test_a_run_resumes_and_answers_with_them_and_passes_them_on(
  tmp_path, capfd
):
  mode = "--config.data.pause_mode=after_sentences"
  mode = [mode, "--config.data.pause_run_length=2"]
  assert cli.main(words(tmp_path / "whole", *mode)) == 0
  parts = words(tmp_path / "parts", *mode)
  assert cli.main([*parts, "--config.stop_at_step=2"]) == cli.main(parts) == 0
  metas = [toys.last_meta(tmp_path / name) for name in ("whole", "parts")]
  assert metas[0]["digests"] == metas[1]["digests"]
  assert metas[0]["pauses_seen"]
  saved = saved_run.find_run(str(tmp_path / "parts")).behind_tokens
  assert saved == TokenPauses((PAUSE, PAUSE), unit="sentence")

  capfd.readouterr()
  place = f"--checkpoint={tmp_path / 'whole'}"
  assert cli.main(["evaluate", place, "--pauses=0", "--limit=8"]) == 0
  named = "2 pauses after every sentence of the prefix"
  assert f"M=0 append <pause>, {named}: em" in capfd.readouterr().out
  (path,) = (tmp_path / "whole" / "evaluations").glob("*step4.json")
  result = json.loads(path.read_text())
  assert result["pauses_after_units"] == named
  assert result["pauses_behind_tokens"] == 0
  assert cli.main(["probe", place, "--pauses=0"]) == 2
  assert f"but {named}, which are not probed" in capfd.readouterr().err

  start = f"--init_from={tmp_path / 'whole'}"
  for name, more, expected in (
    ("next", [], saved),
    ("without", ["--config.finetune.pauses_behind_tokens=false"], None),
  ):
    assert cli.main(words(tmp_path / name, start, *more)) == 0
    found = saved_run.find_run(str(tmp_path / name)).behind_tokens
    assert found == (expected or TokenPauses())
  assert f"it has {named}; this finetuning has them" in capfd.readouterr().out


def test_the_repeated_question_has_no_pauses():
  pauses = PromptPauses(num_pauses=4, filler="<question>")
  filler = prompts.Filler(BYTES, pauses, ways("sentence"))
  ids = BYTES.encode(["A. B"])[0]
  made = filler.prompt(ids)
  assert made[-4:].tolist() == ids
  assert filler.text(made).tolist() == ids


def test_a_tokenizer_without_line_feeds_has_no_paragraphs():
  letters = models.PAUSE_ID
  assert letters  # Printable ASCII only.
  filler = prompts.Filler(
    token_pauses.LETTERS, PromptPauses(num_pauses=0), ways("paragraph")
  )
  with pytest.raises(errors.UsageError, match="no paragraph has an end"):
    filler.prompt([5, 6])
