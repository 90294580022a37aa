"""Preflight: what is asked of a compiler, and what is made of its answer."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import pytest

from pausejax import cli, errors
from pausejax.config import default, load_config, train_config
from pausejax.preflight import measure, summary, topologies
from pausejax.preflight.interruptions import Checkpoint, Interruptions
from pausejax.preflight.remedies import Remedy, find_remedies
from pausejax.preflight.summary import Preflight
from pausejax.runtime import chips, flops
from pausejax.training import ahead

GIB = 2**30
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)

FOUND = Preflight(
  topology="v5e-256",
  compiler="libtpu",
  device_kind="TPU v5 lite",
  num_devices=256,
  num_slices=1,
  mesh={"data": 1, "fsdp": 256, "sequence": 1, "tensor": 1},
  num_parameters=10**9,
  state_bytes=GIB,
  needed_bytes=20 * GIB,
  available_bytes=16 * GIB,
  batch_size=1024,
  largest_batch=512,
  verdicts=[
    dict(batch_size=1024, needed_bytes=20 * GIB, refused=True, seconds=2),
    dict(batch_size=2048, needed_bytes=40 * GIB, refused=True, seconds=2),
  ],
  collectives={},
  tokens_per_step=1024 * 2048,
  flops_per_token=8e9,
  peak_flops=197e12,
  num_steps=1000,
  checkpoint=Checkpoint(
    num_bytes=12 * 10**9, host_bytes=10**9, keep=3, every=1000
  ),
)


def compiler(*, per_row, fixed, available, refuses):
  """Returns (ask, what was asked) of a machine that needs so much memory."""
  asked = []

  def ask(batch_size):
    needed = fixed + per_row * batch_size
    is_refused = refuses and needed > available
    asked.append((batch_size, is_refused))
    return ahead.Verdict(
      batch_size=batch_size,
      needed_bytes=needed,
      hlo_text="" if is_refused else "HloModule",
      seconds=1.0,
    )

  return ask, asked


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("batch_size", [8, 16, 64, 4096])
def test_the_largest_batch_takes_few_compilations(batch_size, refuses):
  # 100 + 7 * 128 = 996 fits into 1000; the next multiple of 8 does not.
  ask, asked = compiler(per_row=7, fixed=100, available=1000, refuses=refuses)
  first = ask(batch_size)
  largest, verdicts = ahead.largest_batch(
    first, ask, unit=8, held_bytes=50, available_bytes=1000, refuses=refuses
  )
  assert largest == 128
  assert len(verdicts) == len(asked) <= 3
  if refuses:  # Beyond the run's own batch nothing slow is asked.
    assert all(is_refused for _, is_refused in asked[1:])


def test_no_batch_fits_where_the_state_alone_does_not():
  ask, _ = compiler(per_row=7, fixed=2000, available=1000, refuses=True)
  largest, _ = ahead.largest_batch(
    ask(64), ask, unit=8, held_bytes=50, available_bytes=1000, refuses=True
  )
  assert largest == 0


@pytest.mark.parametrize(
  "said",
  [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
    "for HLO temporaries (43.50G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
    "memory space hbm. Used 43.50G of 15.75G hbm. Exceeded hbm capacity by 1G.",
  ],
)
def test_the_memory_of_a_refused_step_is_parsed(said):
  assert ahead._refused_bytes(ValueError(said)) == 43.5 * GIB


def test_times_follow_from_the_stated_peak():
  seconds = FOUND.step_seconds(0.5)
  tokens = 1024 * 2048
  assert seconds == pytest.approx(tokens * 8e9 / (0.5 * 197e12 * 256))
  text = summary.report_text(FOUND)
  (line,) = [x for x in text.splitlines() if x.startswith("   50%")]
  days = 200e9 / (tokens / seconds) / 86_400
  assert f"{seconds:.3f}" in line
  assert f"{days:.2f}" in line


def test_the_step_of_the_paper_needs_the_flops_of_the_formula():
  model = train_config(
    load_config("pretrain_c4:size=1b").to_dict()
  ).model_config(32_129)
  # 24 layers of 12 D^2, a head of 32,256 rows, half the square of attention.
  d, layers = 2048, 24
  matrices = layers * 12 * d * d + d * 32_256
  assert flops.per_token(model, 2048) == 6 * matrices + 6 * layers * 2048 * d
  # nanochat and llm-foundry count the whole square.
  full = flops.per_token(model, 2048, full_attention=True)
  assert full == 6 * matrices + 12 * layers * 2048 * d
  windows = dataclasses.replace(model, window=512, global_every=6)
  full = flops.per_token(windows, 2048, full_attention=True)
  assert full == 6 * matrices + 12 * d * (4 * 2048 + 20 * 512)
  causal = flops.per_token(windows, 2048)
  assert causal == 6 * matrices + 12 * d * (4 * 1024 + 20 * 448)


def test_an_answer_needs_the_forward_pass_and_deeper_models_as_much():
  tree = load_config("pretrain_c4:size=1b").to_dict()
  model = train_config(tree).model_config(32_129)
  d, layers = 2048, 24
  found = flops.of_answer(model, 100, 4)
  matrices = 2 * (100 * layers * 12 * d * d + 4 * d * 32_256)
  assert found == matrices + 4 * 100 * layers * 50 * d
  assert 3 * flops.of_answer(model, 7, 7) == 7 * flops.per_token(model, 7)
  # Ten pauses cost about two layers of 24 (the paper, section 4).
  assert flops.equal_layers(model, 120, 10) == 26
  assert flops.equal_layers(model, 120, 0) == 24
  deeper = dataclasses.replace(
    model, num_layers=flops.equal_layers(model, 120, 50)
  )
  ratio = flops.of_answer(deeper, 120, 1) / flops.of_answer(model, 170, 1)
  assert ratio == pytest.approx(1, abs=0.5 / 24)
  # Two loops over half of the layers cost the same.
  looped = dataclasses.replace(
    model, num_layers=flops.equal_layers(model, 120, 50, 2), num_loops=2
  )
  assert (looped.num_layers, looped.depth) == (17, deeper.num_layers)
  assert flops.of_answer(looped, 120, 1) == flops.of_answer(deeper, 120, 1)


def test_a_looped_model_has_the_flops_of_its_layers_in_all_loops():
  tree = load_config("pretrain_c4:size=1b").to_dict()
  tree["model"] |= dict(window=512, global_every=4)
  model = train_config(tree).model_config(32_129)
  looped = dataclasses.replace(model, num_layers=8, num_loops=3)
  for full in (False, True):
    count = lambda m, full=full: flops.per_token(m, 2048, full_attention=full)
    assert count(looped) == count(model)


# Of a run of 1,024 rows on 8 devices, each with a copy of the parameters: what
# it needs in GiB, with all changes alike.
def needs(config, *, state=8, row=1 / 16, copies=8):
  split = copies if config.mesh.data == 1 else 1
  rows = config.batch_size / config.optim.num_microbatches
  kept = 0.5 if config.model["remat"] == "full" else 1
  extra = 1 if config.optim.num_microbatches > 1 else 0  # The sum of gradients.
  return state / split + row * rows * kept + extra


def remedies(available, *, largest, **sizes):
  """Returns (what is offered, what was asked) for a run that does not fit."""
  config = train_config(load_config("pretrain_c4:size=1b").to_dict())
  asked = []

  def ask(changed, words):
    asked.append((words, needs(changed, **sizes)))
    return int(asked[-1][1] * GIB)

  found = find_remedies(
    config,
    ask,
    available_bytes=available * GIB,
    num_slices=1,
    num_copies=8,
    num_shards=8,
    largest_batch=largest,
  )
  return found, asked


SPLIT = "--config.mesh.data=1 --config.mesh.fsdp=-1"


@pytest.mark.parametrize(
  ("available", "largest", "offered"),
  [
    (66, 900, SPLIT),
    (60, 900, "--config.optim.num_microbatches=2"),
    # The estimate is wrong: microbatches need a copy of the gradients more.
    (40.5, 512, "--config.optim.num_microbatches=4"),
    # Only together: the state is too large, and so are the rows.
    (8, 0, f"{SPLIT} --config.model.remat=full "
     "--config.optim.num_microbatches=128"),
  ],
)  # fmt: skip
def test_the_first_remedy_was_accepted_by_the_compiler(
  available, largest, offered
):
  found, asked = remedies(available, largest=largest)
  assert found[0].words == offered
  assert found[0].needed_bytes == int(dict(asked)[offered] * GIB)
  assert found[0].needed_bytes <= available * GIB
  # One was accepted, and the search stopped; the others were not asked.
  assert [words for words, gib in asked if gib <= available] == [offered]
  assert all(not one.needed_bytes for one in found[1:])
  refused = {words for words, gib in asked if gib > available}
  assert not refused & {one.words for one in found}


def test_a_smaller_batch_is_offered_only_where_it_was_accepted():
  found, _ = remedies(14, largest=128, state=9, copies=1, row=1 / 32)
  assert found[0].words == "--config.optim.num_microbatches=8"
  found, _ = remedies(9.2, largest=64, state=8.6, copies=1, row=1 / 64)
  assert found[0].words == "--config.batch_size=32"


def test_no_remedy_that_does_not_fit_is_offered_as_fitting():
  found, asked = remedies(0.5, largest=0)
  assert found == [] and len(asked) <= 6
  text = summary.report_text(dataclasses.replace(FOUND, remedies=found))
  assert "It does not fit v5e-256: the step needs 20.00 GiB" in text
  assert "16.00 GiB are available" in text and "--config" not in text
  assert "more devices" in text


def test_unchecked_remedies_are_marked():
  found = [
    Remedy(words=SPLIT, needed_bytes=11 * GIB),
    Remedy(words="--config.model.remat=full"),
  ]
  text = summary.report_text(dataclasses.replace(FOUND, remedies=found))
  checked, others = text.split("not checked: ")
  assert f"add {SPLIT} (needs 11.00 GiB: it fits)" in checked
  assert "--config.model.remat=full, or more devices" in others
  assert "an estimate, on the line through 1,024 and 2,048" in checked


@pytest.mark.parametrize(
  "argv,said",
  [
    ([], "--topology"),
    (["--topology=v5e256"], "did you mean 'v5e-256'"),
    (["--topology=v5e-8", "--vocab_size=-1"], "--vocab_size"),
    (["--topology=v5e-8", "--preemptions_per_day=-1"], "--preemptions_per_day"),
    (["--topology=v5e-8", "--restart_minutes=nan"], "--restart_minutes"),
    (["--topology=v5e-8", "--topolgy=x"], "did you mean '--topology'"),
    (["--topology=v5e-8", "--json=tests"], "--json: tests is a folder"),
  ],
)
def test_a_usage_error_is_reported_before_jax_starts(argv, said, capsys):
  code = cli.main(["preflight", "--config=configs/smoke.py", *argv])
  assert code == 2
  assert said in capsys.readouterr().err


# `pausejax` without the search for the largest batch that fits.
NO_SEARCH = """
import sys
from pausejax import cli
from pausejax.training import ahead
ahead.largest_batch = lambda first, *_, **__: (first.batch_size, [first])
sys.exit(cli.main(sys.argv[1:]))
"""


def preflight(tmp_path, *argv, program=("-m", "pausejax")):
  """Returns (exit code, what was printed, what was written)."""
  out = tmp_path / "found.json"
  command = [sys.executable, *program, "preflight"]
  small = [
    "--config=configs/pretrain_c4.py:size=tiny",
    "--config.model.num_layers=1",
    "--config.data.seq_len=128",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=-1",
    "--vocab_size=255",
    f"--json={out}",
  ]
  # The target's compiler shall do all that it does for a user, but not rewrite
  # the search's largest batches, for minutes, until they fit into memory.
  full = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "JAX_MEMORY_FITTING_LEVEL": "O0",
  }
  run = subprocess.run(
    [*command, *small, *argv],
    env={**os.environ, **full},
    capture_output=True,
    text=True,
    check=False,
  )
  written = json.loads(out.read_text()) if out.exists() else {}
  return run.returncode, run.stdout + run.stderr, written


# Estimated seconds of the toy's step on v5e-8, by compiler. A step that gets
# faster lowers its figure; the failing test prints the new one.
TOY_SECONDS = {"libtpu 0.0.42.1": 0.000377}


def grown(found):
  """Returns the estimate of a toy over the stored one."""
  stored = TOY_SECONDS.get(found["compiler"])
  if stored is None:
    measured = found["estimate"]["step_seconds"]
    pytest.fail(f"store {measured} for {found['compiler']}")
  return found["estimate"]["step_seconds"] / stored


@pytest.mark.slow
@needs_libtpu
def test_a_toy_compiles_for_a_tpu_and_one_too_large_is_refused(tmp_path):
  code, text, found = preflight(
    tmp_path,
    *("--topology=v5e-8", "--config.batch_size=64", "--estimate"),
    "--preemptions_per_day=2",
  )
  assert code == 0, text
  assert "It fits v5e-8" in text
  assert found["compiler"].startswith("libtpu")
  assert found["collectives"]["all-gather"]["count"] > 0
  assert found["available_bytes"] == chips.CHIPS["v5e"].memory_bytes
  # It holds less than a gigabyte; what XLA pads is little.
  assert 0 < found["state_bytes"] < found["needed_bytes"] < GIB
  assert "estimated time of a step" in text and "goodput with 2" in text
  # The step does not get slower by more than 5% unnoticed.
  assert grown(found) <= 1.05, found["estimate"]["step_seconds"]
  # All of it is priced.
  assert found["estimate"]["num_uncounted"] == 0
  assert 0 < found["estimate"]["mfu"]["causal"] < 1
  # Of a state that is too large, all is refused: nothing takes long.
  words = ("--config.batch_size=64", "--vocab_size=20000000")
  code, text, found = preflight(tmp_path, "--topology=v5e-8", *words)
  assert code == 1, text
  assert "It does not fit v5e-8" in text
  assert found["largest_batch"] == 0 and found["remedies"] == []
  assert all(one["refused"] for one in found["verdicts"])
  assert found["verdicts"][0]["seconds"] < 60


@pytest.mark.slow
@needs_libtpu
def test_a_slower_program_does_not_pass_the_bar(tmp_path):
  code, text, found = preflight(
    tmp_path,
    *("--topology=v5e-8", "--config.batch_size=64", "--estimate"),
    "--config.optim.num_microbatches=4",
    program=("-c", NO_SEARCH),
  )
  assert code == 0, text
  assert grown(found) > 1.05


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("jax_plugins") is not None
  and importlib.util.find_spec("jax_plugins.xla_cuda12") is not None,
  reason="the CUDA plugin is there",
)
def test_without_the_target_compiler_the_cpu_estimates(tmp_path):
  code, text, found = preflight(
    tmp_path, "--topology=h100-2", "--config.batch_size=8"
  )
  assert code == 0, text
  assert "pip install '.[cuda-compiler]'" in text
  assert "ESTIMATE" in text
  assert found["num_devices"] == 2
  state = 12 * found["num_parameters"] / 2  # Parameters and two moments.
  assert state < found["state_bytes"] < 1.1 * state


def test_every_topology_of_the_help_is_known():
  from pausejax.preflight import topologies
  from pausejax.programs import preflight as program

  names = program.__doc__.split("--topology: ")[1].split(".")[0]
  for name in names.replace(",", " ").split():
    if "-" in name:
      topologies.parse_topology(name.strip("()"))


def test_the_vocabulary_size_and_its_source():
  from pausejax.programs import preflight as program

  c4 = train_config(load_config("pretrain_c4:size=1b").to_dict())
  assert program._vocab_size(1000, c4)[0] == 1000
  assert program._vocab_size(0, c4)[0] == 32_128
  tree = default()
  tree.data.task = "text"
  text = train_config(tree.to_dict())
  assert program._vocab_size(0, text)[0] == 259


def test_the_goodput_follows_from_the_lost_steps():
  interruptions = Interruptions(
    per_day=24, restart_seconds=360, step_seconds=1.2, step_source="estimated"
  )
  assert interruptions.goodput_with_notice == pytest.approx(1 / 1.1)
  # 20 minutes apart, one failure an hour.
  t, r, restart = 1200, 1 / 3600, 360
  lost = math.exp(r * restart) * math.expm1(r * t)
  assert interruptions.goodput(1000) == pytest.approx(r * t / lost)
  # Rare failures lose half of the interval and the restart.
  rare = dataclasses.replace(interruptions, per_day=0.1)
  expected = 1 - 0.1 / 86_400 * (600 + 360)
  assert rare.goodput(1000) == pytest.approx(expected, abs=1e-5)
  text = summary.report_text(
    dataclasses.replace(FOUND, interruptions=interruptions)
  )
  assert "goodput with 24 preemptions a day, 6 minutes" in text
  assert "90.9%  the run saves" in text
  assert "checkpoint.every=100: 2.0 minutes apart" in text
  data = summary.report_data(
    dataclasses.replace(FOUND, interruptions=interruptions)
  )
  assert data["goodput"]["killed_without_notice"] == interruptions.goodput(1000)


@pytest.mark.parametrize(
  "per_day,seconds", [(1e9, 1.0), (1.0, 1e9), (1e5, 1e5)]
)
def test_a_run_that_never_gets_through_has_no_goodput(per_day, seconds):
  never = Interruptions(
    per_day=per_day, restart_seconds=1e5, step_seconds=seconds, step_source=""
  )
  assert never.goodput(1000) == pytest.approx(0)


def test_the_report_states_what_checkpoints_need():
  text = summary.report_text(FOUND)
  assert "12.00 GB on disk" in text
  assert "48.00 GB on disk, at most: 4 of them while one is written" in text
  assert "1.00 GB while one is written" in text


def test_small_sizes_are_shown_in_small_units():
  small = dataclasses.replace(
    FOUND,
    state_bytes=90_000,
    needed_bytes=2_000_000,
    collectives={"all-gather": {"count": 1, "bytes": 52_000, "far_bytes": 0}},
    flops_per_token=87_000.0,
    tokens_per_step=16,
    num_steps=3,
  )
  text = summary.report_text(small)
  assert "87.89 KiB" in text and "1.91 MiB" in text and "52.00" in text
  assert "87.00 kFLOP per token" in text
  assert re.search(r"times +kB", text)
  assert not re.search(r"\b0\.00+\b", text)


@pytest.mark.parametrize("fraction", ["0", "-1", "nan", "1.5", "most"])
def test_a_part_of_the_memory_that_cannot_be_is_refused(fraction, monkeypatch):
  monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", fraction)
  with pytest.raises(errors.UsageError, match=f"FRACTION: .* got '{fraction}'"):
    measure._available_bytes(topologies.parse_topology("h100-1"))


def test_the_largest_batch_of_a_run_is_one_that_it_reaches():
  tree = default().to_dict()
  tree |= {"batch_size": 8, "later_batch_sizes": "20:16,500:32"}
  for num_steps, rows in ((10, 8), (20, 8), (21, 16), (501, 32)):
    config = train_config(tree | {"num_steps": num_steps})
    assert measure._with_largest_batch(config).batch_size == rows


@pytest.mark.slow
def test_every_batch_size_divides_over_the_mesh(tmp_path):
  later = "--config.later_batch_sizes=10:16"
  words = ("--topology=v5e-8", "--config.num_steps=100", later)
  code, text, _ = preflight(tmp_path, *words, "--config.batch_size=4")
  assert code == 2 and "optim.num_microbatches 4 is not divisible" in text
  code, text, found = preflight(tmp_path, *words, "--config.batch_size=8")
  assert code == 0 and "16 rows for all steps" in text
  assert found["batch_size"] == 16
