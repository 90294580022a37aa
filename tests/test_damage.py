"""Every file of a checkpoint, damaged in every way: found, or without effect.

A reader of a damaged step must refuse it, go back to the step before and say
so, or return exactly what was saved. Anything else counts as silent.
"""

import collections
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest

from pausejax import errors
from pausejax.checkpoints import folders, restoring, verification
from pausejax.checkpoints.store import Store
from pausejax.selftest.damage import DAMAGES, files_of
from tests import saved_steps, toys
from tests.saved_steps import (
  KEEP,
  same,
  state_of,
)

abstract, pristine = saved_steps.abstract, saved_steps.pristine
workdir = saved_steps.workdir


def resume(workdir, abstract, expected):
  """Returns "whole", "older" or "silent"; what was set aside stays so."""
  found = [Store(workdir / "checkpoints", KEEP).restore(abstract)]
  step = int(found[0].state.step)
  if step != 8:
    found.append(Store(workdir / "checkpoints", KEEP).restore(abstract))
  for restored in found:
    position = json.dumps({"step": step}).encode()
    if not (
      same(restored.state, expected[step])
      and restored.data == {"position.json": position}
      and restored.meta["counters"] == {"total_tokens": 100 * step}
    ):
      return "silent"
  if step == 8:
    return "whole"
  assert "8 was set aside: " in found[0].reason
  assert [p.name for p in (workdir / "set_aside").iterdir()] == ["8-0"]
  return "older"


def load(workdir, abstract, expected):
  """As evaluate, generate and --init_from read: "whole" or "refused"."""
  before = sorted(p for p in workdir.rglob("*"))
  folder = workdir / "checkpoints"
  try:
    meta = folders.require_step(folder, 8).meta
    model = restoring.restore_params(folder, 8, abstract.model)
  except errors.CheckpointUnusable as e:
    assert f"{workdir}/checkpoints/8 is damaged: " in e.message
    assert f"({workdir}/checkpoints/4)" in e.message
    assert len(e.message.splitlines()) == 1
    assert sorted(p for p in workdir.rglob("*")) == before
    return "refused"
  is_same = same(model, expected[8].model)
  is_same = is_same and meta["counters"] == {"total_tokens": 800}
  return "whole" if is_same else "silent"


def matrix(pristine, abstract, tmp_path, cases):
  """Returns {(reader, outcome): files and damages} of files and damages."""
  expected = {step: state_of(abstract, step) for step in (4, 8)}
  outcomes = collections.defaultdict(list)
  for file, name in cases:
    workdir = tmp_path / "run"
    shutil.copytree(pristine, workdir)
    step = workdir / "checkpoints" / "8"
    DAMAGES[name](step / file, workdir / "checkpoints" / "4" / file)
    reads_it = "opt_state" not in file.parts
    # The optimizer's state is read by a resume alone.
    for reader in (load, resume) if reads_it else (resume,):
      outcome = reader(workdir, abstract, expected)
      outcomes[reader.__name__, outcome].append((str(file), name))
    shutil.rmtree(workdir)
  return outcomes


SOME = ("flip 0", "deleted", "swapped")
# What every step has under the same name, and decides what a run reads.
NAMED = (
  pathlib.Path("data/process_0-position.json"),
  pathlib.Path("meta/meta.json"),
  pathlib.Path("meta/meta.sha256"),
)


@pytest.mark.slow
def test_small_files_are_never_read_damaged(pristine, abstract, tmp_path):
  """Here any damage at all is found: each file is under a SHA-256."""
  cases = itertools.product(NAMED, SOME)
  outcomes = matrix(pristine, abstract, tmp_path, cases)
  assert outcomes.keys() == {("load", "refused"), ("resume", "older")}
  assert all(len(found) == 9 for found in outcomes.values())


@pytest.mark.slow
def test_arrays_are_never_read_damaged(pristine, abstract, tmp_path):
  step = pristine / "checkpoints" / "8"
  file = toys.array_file(step / "params").relative_to(step)
  cases = [(file, name) for name in ("flip 0", "cut", "deleted", "zeroed")]
  outcomes = matrix(pristine, abstract, tmp_path, cases)
  assert not outcomes["load", "silent"] and not outcomes["resume", "silent"]
  assert outcomes["load", "refused"] and outcomes["resume", "older"]


@pytest.mark.slow
def test_no_damage_of_any_file_is_silent(pristine, abstract, tmp_path):
  files = files_of(pristine / "checkpoints" / "8")
  cases = [*itertools.product(files, DAMAGES)]
  outcomes = matrix(pristine, abstract, tmp_path, cases)
  counts = {key: len(found) for key, found in outcomes.items()}
  print(counts)
  assert not outcomes["load", "silent"] and not outcomes["resume", "silent"]
  of_load = [case for case in cases if "opt_state" not in case[0].parts]
  assert sum(counts.values()) == len(cases) + len(of_load)
  assert counts["load", "refused"] >= 50 and counts["resume", "older"] >= 80


def change_letter(path, seed):
  """Changes the last letter of a word; the file is as readable as before."""
  text = path.read_text()
  words = [m.end() - 1 for m in re.finditer("[A-Za-z_]+", text)]
  place = random.Random(seed).choice(words)
  path.write_text(text[:place] + "X" + text[place + 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("item", ["params", "opt_state"])
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_name_in_metadata_is_found_by_all_or_by_none(
  workdir, abstract, item, seed
):
  change_letter(workdir / "checkpoints" / "8" / item / "_METADATA", seed)
  verified = verification.verify_step(workdir / "checkpoints" / "8", 8)
  expected = {step: state_of(abstract, step) for step in (4, 8)}
  assert load(workdir, abstract, expected) != "silent"
  outcome = resume(workdir, abstract, expected)
  assert outcome == ("older" if verified.problems else "whole")


READS = """
import gc, pathlib, sys
from pausejax import errors
from pausejax.checkpoints import restoring
from tests import saved_steps
abstract = saved_steps.make_abstract()
folder = pathlib.Path(sys.argv[1]) / "checkpoints"
for _ in range(10):
  try:
    restoring.restore_params(folder, 8, abstract.model)
  except errors.CheckpointUnusable:
    print("refused")
  gc.collect()  # What Orbax leaves behind shows up here.
"""


@pytest.mark.slow
def test_a_damaged_array_shows_no_traceback_of_orbax(workdir):
  for path in (workdir / "checkpoints/8/params").rglob("d/*"):
    os.truncate(path, min(path.stat().st_size, 1000))
  done = subprocess.run(
    [sys.executable, "-c", READS, workdir],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ["refused"] * 10
  assert "Traceback" not in done.stderr


def test_a_step_under_another_name_is_refused(workdir, abstract):
  folder = workdir / "checkpoints"
  shutil.copytree(folder / "8", folder / "12")
  restored = Store(folder, KEEP).restore(abstract)
  assert int(restored.state.step) == 8
  assert "12 was set aside: meta/meta.json is of step 8" in restored.reason


def test_whole_items_of_another_step_are_refused(workdir, abstract):
  folder = workdir / "checkpoints"
  for item in ("params", "data", "meta"):
    shutil.copytree(folder / "8" / item, workdir / "kept")
    shutil.rmtree(folder / "8" / item)
    shutil.copytree(folder / "4" / item, folder / "8" / item)
    with pytest.raises(errors.CheckpointUnusable, match="8 is damaged"):
      restoring.restore_params(folder, 8, abstract.model)
    shutil.rmtree(folder / "8" / item)
    (workdir / "kept").rename(folder / "8" / item)
