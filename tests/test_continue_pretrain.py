"""Pretraining that starts from a standard model with a tokenizer.json."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from tokenizers import models as kinds
from tokenizers import pre_tokenizers

from pausejax import errors, optimizer
from pausejax.config import load_config, train_config
from pausejax.programs import train
from pausejax.training import inputs
from tests import toys

WORDS = ["call", "me", "some", "years", "ago", "[UNK]", "<|endoftext|>"]
# What of a small run is not inherited.
SMALL = (
  "--config.data.seq_len=32",
  "--config.batch_size=8",
  "--config.checkpoint.every=2",
  "--config.eval.num_batches=1",
  "--config.loss.num_chunks=1",
  "--config.optim.warmup_steps=1",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with text, and a standard run in `standard`."""
  folder = tmp_path_factory.mktemp("continue")
  toys.write_corpus(folder / "corpus")
  vocabulary = {word: i for i, word in enumerate(WORDS)}
  model = kinds.WordLevel(vocabulary, unk_token="[UNK]")
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.add_special_tokens(["<|endoftext|>"])
  made.save(str(folder / "tokenizer.json"))
  toys.finish(
    toys.command(
      folder / "corpus",
      folder / "standard",
      "--config.num_steps=2",
      "--config.data.pause_fraction=0",
      f"--config.data.tokenizer={folder / 'tokenizer.json'}",
    )
  )
  (folder / "tokenizer.json").unlink()
  return folder


def words(place, workdir, *more: str, arg="", start="standard") -> list[str]:
  return [
    f"--config=configs/continue_pretrain.py:{arg}",
    f"--init_from={place / start}",
    f"--workdir={place / workdir}",
    f"--config.data.files={place / 'corpus'}",
    "--config.num_steps=4",
    *SMALL,
    *more,
  ]


def continued(place, workdir, *more: str, **kwargs) -> str:
  python = [*toys.command(place, place)[:3], "train"]
  return toys.finish([*python, *words(place, workdir, *more, **kwargs)])


def saved(place, workdir) -> dict:
  return json.loads((place / workdir / "config.json").read_text())


@pytest.mark.slow
def test_both_arms_inherit_all_but_the_pauses_and_resume_alone(place):
  output = continued(place, "pause", "--config.finetune.pause_init=token:me")
  assert "parameters from step 2" in output
  shutil.copytree(place / "standard", place / "gone")
  stop = "--config.stop_at_step=2"
  continued(place, "control", stop, arg="pause=false", start="gone")
  shutil.rmtree(place / "gone")
  output = continued(place, "control", arg="pause=false", start="gone")
  assert "resuming from step 2" in output
  paused, control = (saved(place, name) for name in ("pause", "control"))
  assert paused["model"] == control["model"]
  first = saved(place, "standard")["model"]
  assert paused["model"]["num_layers"] == first["num_layers"] == 2
  assert paused["model"]["max_seq_len"] == first["max_seq_len"] == 64
  assert paused["optim"] == control["optim"]
  metas = [toys.last_meta(place / name) for name in ("pause", "control")]
  assert [m["pauses_seen"] for m in metas] == [True, False]
  assert metas[0]["tokenizer"] == metas[1]["tokenizer"]
  rows = toys.rows(place / "pause"), toys.rows(place / "control")
  rates = [[row["learning_rate"] for row in arm] for arm in rows]
  assert rates[0] == rates[1] and len(rates[0]) == 4


def check(place, *more: str):
  argv = words(place, "refused", *more)
  _, tree = train.parser().parse(argv, train._inherit)
  return inputs.check_inputs(tree, str(place / "refused"))


@pytest.mark.slow
def test_lengths_and_rows_that_do_not_fit_are_refused_in_one_line(
  place, capsys
):
  assert check(place).config.data.seq_len == 32
  argv = [w for w in words(place, "refused") if ".seq_len" not in w]
  _, tree = train.parser().parse(argv, train._inherit)
  assert tree.data.seq_len == 64
  assert "seq_len 2048 of the config becomes 64" in capsys.readouterr().out
  longer = "--config.data.seq_len=128"
  with pytest.raises(errors.UsageError, match="max_seq_len 64; raise that"):
    check(place, longer)
  # Rotary positions have no table.
  made = check(place, longer, "--config.model.max_seq_len=128")
  assert made.config.data.seq_len == 128
  with pytest.raises(errors.UsageError, match="'me some' is 2 tokens"):
    check(place, "--config.finetune.pause_init=token:me some")
  values = load_config("continue_pretrain").to_dict()
  values["model"]["max_seq_len"] = 1024
  with pytest.raises(errors.UsageError, match="positions cannot grow"):
    train_config(values)


def test_the_learning_rate_is_warmed_up_again_and_decays():
  c = train_config(load_config("continue_pretrain").to_dict())
  rates = np.asarray(
    [optimizer.make_schedule(c.optim, c.num_steps)(i) for i in (0, 99, 10_000)]
  )
  peak = c.optim.learning_rate
  np.testing.assert_allclose(rates, [peak / 100, peak, peak / 10], rtol=1e-5)
