"""Preflight: what is asked of a compiler, and what is made of its answer."""

import dataclasses
import math
import re

import pytest

from pausejax import cli, errors
from pausejax.config import default, load_config, train_config
from pausejax.preflight import measure, summary, topologies
from pausejax.preflight.interruptions import Checkpoint, Interruptions
from pausejax.preflight.remedies import Remedy, find_remedies
from pausejax.preflight.summary import Preflight
from pausejax.training import ahead

GIB = 2**30
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


@pytest.mark.parametrize(("available", "rows"), [(9, 0), (10, 16)])
def test_verdicts_that_need_equally_many_bytes(available, rows):
  verdicts = [
    ahead.Verdict(batch_size=n, needed_bytes=10, hlo_text="", seconds=1.0)
    for n in (8, 16)
  ]
  assert ahead._fitting(*verdicts, available) == rows


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
