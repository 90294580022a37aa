"""A trace of chosen steps, opened; and the compiled train step as text."""

import json

import jax
import jax.numpy as jnp
import pytest

from pausejax import api
from pausejax.config import ProfileConfig, default
from pausejax.training import profiling
from tests import toys


def train(corpus, segments, workdir, **profile):
  """Trains a toy for 4 steps; returns its metrics."""
  config = default()
  config.model.update(num_layers=1, d_model=16, num_heads=2, remat="none")
  config.data.update(task="text", files=str(corpus), seq_len=32)
  config.data.update(tokenizer="bytes", segments_dir=segments)
  config.update(num_steps=4, batch_size=8)
  config.profile.update(profile)
  return api.train(config, workdir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """The metrics of a run, and metrics and workdir of the same run profiled."""
  folder = tmp_path_factory.mktemp("runs")
  toys.write_corpus(folder / "corpus")
  plain, profiled = folder / "plain", folder / "profiled"
  expected = train(folder / "corpus", "", plain)
  segments = str(plain / "segments")
  profile = dict(start_step=2, num_steps=2, hlo=True)
  found = train(folder / "corpus", segments, profiled, **profile)
  return expected, found, profiled


def test_profiling_changes_no_bit_of_the_results(runs):
  plain, profiled, _ = runs
  for name in ("loss", "grad_norm", "eval_loss"):
    assert plain[name].tobytes() == profiled[name].tobytes()


def test_the_trace_has_the_chosen_steps_and_the_scopes_of_the_model(runs):
  (path,) = (runs[2] / "profile").rglob("*.xplane.pb")
  trace = jax.profiler.ProfileData.from_file(str(path))
  events = [
    event
    for plane in trace.planes
    for line in plane.lines
    for event in line.events
  ]
  steps = [dict(e.stats)["step_num"] for e in events if e.name == "train"]
  assert sorted(steps) == [2, 3]
  # What ran, and as what the program names it.
  modules = {dict(e.stats).get("hlo_module") for e in events}
  assert "jit_train_step" in modules
  content = path.read_bytes()
  for scope in ("attention", "feed_forward", "embed", "loss", "optimizer"):
    assert scope.encode() in content, scope


def test_the_compiled_step_and_its_memory_are_written_once(runs):
  folder = runs[2] / "hlo"
  assert sorted(p.name for p in folder.iterdir()) == [
    "train_step.1.memory.json",
    "train_step.1.txt",
  ]
  text = (folder / "train_step.1.txt").read_text()
  assert text.startswith("HloModule jit_train_step") and "ENTRY" in text
  assert "/attention/" in text and "/optimizer/" in text
  memory = json.loads((folder / "train_step.1.memory.json").read_text())
  # The float32 parameters and moments, in and out.
  assert memory["argument_size_in_bytes"] > 12 * 259 * 16
  assert memory["temp_size_in_bytes"] > 0


@pytest.mark.parametrize(
  "first, start, end, expected",
  [
    (0, 5, 9, ""),
    (6, 5, 9, ""),
    (9, 5, 9, ""),
    (5, 5, 9, "resumes from step 5 and ends at step 9"),
    (10, 0, 9, "starts at step 0 and ends at step 9"),
  ],
)
def test_a_run_without_the_steps_to_trace_says_so(
  first, start, end, expected, tmp_path
):
  profiler = profiling.Profiler(tmp_path, ProfileConfig(start_step=first))
  note = profiler.note(start, end)
  assert expected in note and bool(expected) == bool(note)
  if note:
    assert f"profile.start_step {first}" in note
    assert f"{start + 1} to {end}" in note


def test_a_run_that_ends_inside_the_trace_keeps_it(tmp_path, capsys):
  config = ProfileConfig(start_step=1, num_steps=10)
  with profiling.Profiler(tmp_path, config) as profiler:
    with profiler.step(1, jnp.zeros(3)):
      state = jnp.ones(3) + 1
    profiler.end_step(1, state)
  said = capsys.readouterr().out
  assert f"steps 1 to 1: a trace is in {tmp_path}/profile" in said
  assert "ended before the last step to trace" in said
  assert profiler.seconds > 0
  assert [*(tmp_path / "profile").rglob("*.xplane.pb")]
