"""Runs with every part of a recipe resume and branch off bit for bit."""

import json
import pathlib

import pytest

import pausejax
from pausejax import errors

pytestmark = pytest.mark.slow

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
STEPS = 8


def config(folder: pathlib.Path, **changes):
  """Muon, WSD, an average, batches of 2, 4 and 3 rows; one sentence a line."""
  text = folder / "text.jsonl"
  if not text.exists():
    lines = [" ".join(WORDS[i % 7 :] + WORDS[: i % 5]) for i in range(80)]
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
  c = pausejax.config.default()
  c.model.update(num_layers=1, d_model=16, num_heads=2, max_seq_len=32)
  c.model.update(dtype="float32", remat="none")
  c.data.update(task="text", files=str(text), seq_len=32)
  c.mesh.update(data=1, fsdp=-1)
  c.update(num_steps=STEPS, batch_size=8, later_batch_sizes="2:16,5:8")
  c.optim.update(name="muon", ema_decay=0.8, schedule="wsd", warmup_steps=2)
  c.optim.kwargs = dict(beta=0.9, weight_decay=0.1, adam_b2=0.98)
  c.optim.decay_steps = 3
  c.checkpoint.update(every=4, keep=9)
  c.eval.update(every=4, num_batches=1, average=True)
  for name, value in changes.items():
    group, _, field = name.rpartition("__")
    (c[group] if group else c).update({field: value})
  return c


def digests(workdir: pathlib.Path, step: int = STEPS) -> dict:
  meta = workdir / "checkpoints" / str(step) / "meta" / "meta.json"
  return json.loads(meta.read_text())["digests"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("continued")
  metrics = pausejax.train(config(folder), folder / "whole")
  return folder, metrics


def test_sizes_and_average_are_what_the_config_says(whole):
  folder, metrics = whole
  counts = metrics["num_targets"]
  trained = counts[metrics["step_seconds"] > 0]
  assert (trained[2:5] > 1.5 * trained[:2].mean()).all()
  assert (trained[5:] < 1.5 * trained[:2].mean()).all()
  names = digests(folder / "whole")
  assert any(n.startswith("average/") for n in names)


def test_a_resumed_run_equals_the_uninterrupted_one(whole):
  folder, _ = whole
  for stop in (3, 0):
    c = config(folder, stop_at_step=stop)
    pausejax.train(c, folder / "resumed")
  assert digests(folder / "resumed") == digests(folder / "whole")


def test_a_run_in_another_workdir_continues_from_a_step(whole):
  folder, metrics = whole
  c = config(folder, init_load="state")
  start = folder / "whole" / "checkpoints" / "4"
  found = pausejax.train(c, folder / "branch", init_from=start)
  assert digests(folder / "branch") == digests(folder / "whole")
  assert found["step"].min() == 5
  later = metrics["step"] > 4
  assert found["loss"].tolist() == pytest.approx(
    metrics["loss"][later].tolist(), nan_ok=True, rel=0
  )


def test_the_decay_of_a_branch_starts_where_it_branches_off(whole):
  folder, _ = whole
  c = config(folder, init_load="state", num_steps=6, optim__decay_steps=2)
  c.optim.final_fraction = 0.0
  start = folder / "whole" / "checkpoints" / "4"
  found = pausejax.train(c, folder / "decayed", init_from=start)
  rates = found["learning_rate"][found["step_seconds"] > 0]
  peak = c.optim.learning_rate
  assert rates.tolist() == pytest.approx([peak, peak / 2])
  meta = folder / "decayed" / "checkpoints" / "6" / "meta" / "meta.json"
  initial = json.loads(meta.read_text())["initial"]
  assert initial == {"workdir": str(folder / "whole"), "step": 4}


def test_an_average_starts_another_run(whole):
  folder, _ = whole
  c = config(folder, init_load="average", num_steps=1, optim__warmup_steps=0)
  c.update(later_batch_sizes="")
  c.optim.update(learning_rate=0.0, ema_decay=0.0, decay_steps=0)
  c.eval.average = False
  pausejax.train(c, folder / "from_average", init_from=folder / "whole")
  before, after = digests(folder / "whole"), digests(folder / "from_average", 1)
  for name, digest in after.items():
    if name.startswith("model/"):
      assert digest == before[name.replace("model/", "average/", 1)], name


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(seed=3), "init_load=state: the run in .* with another seed"),
    (dict(num_steps=4), "starts at step 4 of .* num_steps is 4"),
    (dict(optim__ema_decay=0.5), "with another optim.ema_decay"),
    (dict(later_batch_sizes=""), "with another later_batch_sizes"),
  ],
)
def test_a_branch_that_would_be_another_run_is_refused(whole, changes, words):
  folder, _ = whole
  c = config(folder, init_load="state", **changes)
  start = folder / "whole" / "checkpoints" / "4"
  with pytest.raises(errors.UsageError, match=words) as e:
    pausejax.train(c, folder / "refused", init_from=start)
  assert "\n" not in e.value.message
  assert not (folder / "refused").exists()
