"""Exports of a run while it trains, made again if they are missing."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from pausejax import errors, sharding
from pausejax.checkpoints import saved_run
from pausejax.interop import model_card, reading
from pausejax.programs import export, import_model, train

_SMALL = (
  "--config.model.num_layers=1",
  "--config.model.d_model=16",
  "--config.model.num_heads=2",
  "--config.model.num_kv_heads=2",
  "--config.model.head_dim=8",
  "--config.model.d_ff=32",
  "--config.model.position=learned",
  "--config.model.norm=layernorm",
  "--config.data.task=text",
  "--config.data.seq_len=32",
  "--config.model.max_seq_len=32",
  "--config.batch_size=8",
  "--config.eval.every=0",
  "--config.eval.num_batches=1",
  "--config.checkpoint.every=100",
  "--config.optim.learning_rate=1e-2",
)


def run(folder: pathlib.Path, *words: str, every: int = 2) -> int:
  """Trains in `folder`/run on a small file, without a process of its own."""
  text = folder / "text.jsonl"
  if not text.exists():
    lines = (f"the {i}th document of this text, {i * i}" for i in range(200))
    text.write_text("".join(json.dumps({"text": x}) + "\n" for x in lines))
  return train.main(
    [
      "--config=smoke",
      f"--workdir={folder / 'run'}",
      f"--config.data.files={text}",
      f"--config.checkpoint.export_every={every}",
      *_SMALL,
      *words,
    ]
  )


def table(folder: pathlib.Path, step: int) -> np.ndarray:
  """The embedding of an export."""
  with jax.set_mesh(sharding.data_mesh(jax.devices()[:1])):
    source = reading.check_folder(folder / "run" / "exports" / str(step))
    return np.asarray(reading.load_params(source).embedding[...])[:260]


@pytest.mark.slow
def test_exports_appear_at_their_steps_and_missing_ones_are_made(tmp_path):
  exports = tmp_path / "run" / "exports"
  assert run(tmp_path, "--config.num_steps=1", every=0) == 0
  assert not exports.exists()
  assert run(tmp_path, "--config.num_steps=4") == 0
  assert {p.name for p in exports.iterdir()} == {"2", "4"}
  # Each has its checkpoint, also between those of checkpoint.every.
  checkpoints = tmp_path / "run" / "checkpoints"
  assert {"1", "2", "4"} == {p.name for p in checkpoints.iterdir()}
  config = json.loads((exports / "4" / "config.json").read_text())
  assert config["pausejax"]["step"] == 4
  first, last = table(tmp_path, 2), table(tmp_path, 4)
  assert not np.array_equal(first, last)

  # Killed after the last checkpoint, while it was exported.
  (exports / "4").rename(exports / "4.partial")
  assert run(tmp_path, "--config.num_steps=4") == 0
  assert {p.name for p in exports.iterdir()} == {"2", "4"}
  assert np.array_equal(table(tmp_path, 4), last)

  # The verb writes the same model.
  words = [f"--checkpoint={checkpoints / '4'}", f"--out={exports / '8'}"]
  assert export.main(words) == 0
  assert np.array_equal(table(tmp_path, 8), last)


@pytest.mark.slow
def test_the_card_names_the_open_model_behind_the_run(tmp_path):
  assert run(tmp_path, "--config.num_steps=1", every=1) == 0
  made = (tmp_path / "run" / "exports" / "1").rename(tmp_path / "open")
  imported = tmp_path / "imported"
  assert import_model.main([f"--from={made}", f"--out={imported}"]) == 0
  words = [f"--config.data.files={tmp_path / 'text.jsonl'}", *_SMALL]
  for start, name in ((imported, "first"), (tmp_path / "first", "second")):
    where = [f"--init_from={start}", f"--workdir={tmp_path / name}"]
    argv = ["--config=continue_pretrain", *where, "--config.num_steps=1"]
    assert train.main([*argv, *words]) == 0
  second = saved_run.find_run(str(tmp_path / "second"), "checkpoint")
  assert model_card.describe_training(second).base == (
    "step 1 of first, from step 0 of imported, from open (gpt2)"
  )
  shutil.rmtree(tmp_path / "first")
  assert model_card.describe_training(second).base == "step 1 of first"


def test_a_model_without_a_class_is_refused_before_training(tmp_path):
  words = ("--config.num_steps=2", "--config.model.norm=rmsnorm")
  with pytest.raises(errors.UserError, match=r"no model\.norm 'rmsnorm'"):
    run(tmp_path, *words)
  assert not (tmp_path / "run").exists()
