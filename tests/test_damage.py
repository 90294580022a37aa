"""Every file of a checkpoint, damaged in every way: found, or without effect.

A reader of a damaged step must refuse it, go back to the step before and say
so, or return exactly what was saved. Anything else counts as silent.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from pausejax import errors, optimizer
from pausejax.checkpoints import folders, restoring, verification
from pausejax.checkpoints.store import Store
from pausejax.config import CheckpointConfig, OptimConfig, default
from pausejax.selftest.damage import DAMAGES, files_of
from tests import models, toys
from tests.test_sharding import abstract_on, one_device_mesh

KEEP = CheckpointConfig(every=1, keep=9, keep_period=0, keep_best=0)


def make_abstract():
  """The state of a model with one layer and an optimizer without moments."""
  fields = {**default().optim.to_dict(), "name": "sgd", "kwargs": {}}
  made = optimizer.make_optimizer(OptimConfig(**fields), 2000)[0]
  config = models.model_config(num_layers=1)
  return abstract_on(one_device_mesh(), config, made)


@pytest.fixture(scope="module")
def abstract():
  return make_abstract()


def state_of(abstract, step):
  """A state in which every leaf depends on the step."""
  rng = np.random.default_rng(step)
  fresh = jax.tree.map(
    lambda x: jax.device_put(
      rng.standard_normal(x.shape).astype(x.dtype), x.sharding
    ),
    abstract,
  )
  return dataclasses.replace(fresh, step=jax.numpy.asarray(step, "int32"))


@pytest.fixture(scope="module")
def pristine(abstract, tmp_path_factory):
  """A workdir with the intact steps 4 and 8."""
  return save_steps(tmp_path_factory.mktemp("pristine"), abstract)


def save_steps(workdir, abstract):
  store = Store(workdir / "checkpoints", KEEP)
  for step in (4, 8):
    position = json.dumps({"step": step}).encode()
    store.save(
      state_of(abstract, step),
      data={"position.json": position},
      meta={"counters": {"total_tokens": 100 * step}, "answers": {}},
    )
  store.close()
  return workdir


@pytest.fixture
def workdir(pristine, tmp_path):
  return shutil.copytree(pristine, tmp_path / "run")


def same(a, b):
  return all(
    x.dtype == y.dtype and np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


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
from tests import test_damage
abstract = test_damage.make_abstract()
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


def listing(workdir):
  return sorted((p, p.lstat().st_size) for p in workdir.rglob("*"))


def ruin(step):
  (step / "meta" / "meta.json").write_text("{")


def refuses(workdir, abstract, kind, match):
  """Starts three times: the same error each time, and nothing is changed."""
  before = listing(workdir)
  for _ in range(3):
    with pytest.raises(kind, match=match) as caught:
      Store(workdir / "checkpoints", KEEP).restore(abstract)
    assert type(caught.value) is kind
    assert len(caught.value.message.splitlines()) == 1
    assert listing(workdir) == before


def test_damage_of_all_steps_is_refused_each_time(workdir, abstract):
  for step in ("4", "8"):
    ruin(workdir / "checkpoints" / step)
  match = "no checkpoint is intact .*to start over at step 0"
  refuses(workdir, abstract, errors.CheckpointUnusable, match)


def test_a_run_whose_checkpoints_were_set_aside_does_not_start_over(
  workdir, abstract
):
  (workdir / "checkpoints").rename(workdir / "set_aside")
  match = "/set_aside/4; .*/set_aside/8"
  refuses(workdir, abstract, errors.CheckpointUnusable, match)
  (workdir / "checkpoints").mkdir()
  refuses(workdir, abstract, errors.CheckpointUnusable, match)
  (workdir / "set_aside" / "8").rename(workdir / "checkpoints" / "8")
  restored = Store(workdir / "checkpoints", KEEP).restore(abstract)
  assert int(restored.state.step) == 8


def test_an_empty_step_folder_does_not_make_a_run_start_over(
  tmp_path, abstract
):
  (tmp_path / "checkpoints" / "12").mkdir(parents=True)
  refuses(tmp_path, abstract, errors.CheckpointUnusable, "it lacks meta/meta")


def test_an_interrupted_first_save_makes_a_run_start_over(tmp_path, abstract):
  for name in ("4.orbax-checkpoint-tmp", "trash", "notes", "²", "007"):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
  assert Store(tmp_path / "checkpoints", KEEP).restore(abstract) is None


def test_a_newer_format_is_refused(workdir, abstract):
  path = workdir / "checkpoints" / "8" / "meta" / "meta.json"
  meta = json.dumps({**json.loads(path.read_text()), "format": 5}).encode()
  path.write_bytes(meta)
  (path.parent / "meta.sha256").write_bytes(folders.checksum(meta))
  match = "has format 5, this version of pausejax reads formats 1 to 4"
  refuses(workdir, abstract, errors.CheckpointUnusable, match)


def to_format_1(step):
  """Rewrites a step as pausejax 0.1.0 wrote it."""
  path = step / "meta" / "meta.json"
  meta = {**json.loads(path.read_text()), "format": 1}
  del meta["data_sha256"]
  path.write_text(json.dumps(meta, indent=1))
  (path.parent / "meta.sha256").unlink()


def test_format_1_is_read_and_its_data_position_is_checked(workdir, abstract):
  folder = workdir / "checkpoints"
  to_format_1(folder / "8")
  to_format_1(folder / "4")
  expected = state_of(abstract, 8)
  assert same(Store(folder, KEEP).restore(abstract).state, expected)
  model = restoring.restore_params(folder, 8, abstract.model)
  assert same(model, expected.model)
  (folder / "8/data/process_0-position.json").write_text('{"step": 9}')
  restored = Store(folder, KEEP).restore(abstract)
  assert int(restored.state.step) == 4
  assert "position.json is of another step" in restored.reason


# An I/O error is no proof of damage.


def test_an_unreadable_folder_moves_nothing(workdir, abstract):
  (workdir / "checkpoints").rename(workdir / "elsewhere")
  (workdir / "checkpoints").write_text("a file")
  refuses(workdir, abstract, errors.UserError, "that is no sign of damage")


@pytest.mark.parametrize("part", ["meta/meta.json", "params/manifest.ocdbt"])
def test_an_unreadable_file_moves_nothing(workdir, abstract, part):
  # Permissions do not stop root, but reading a folder as a file fails for all,
  # as a link that leads to itself does.
  path = workdir / "checkpoints" / "8" / part
  path.unlink()
  path.symlink_to(path)
  refuses(workdir, abstract, errors.UserError, "that is no sign of damage")


@contextlib.contextmanager
def without_rights():
  """Switches to another user inside, since root may read everything."""
  is_root = os.geteuid() == 0
  if is_root:
    os.seteuid(65534)
  try:
    yield
  finally:
    if is_root:
      os.seteuid(0)


@pytest.mark.parametrize(
  "part",
  [
    *(".", "checkpoints", "checkpoints/8", "checkpoints/8/meta"),
    *("checkpoints/8/params", "checkpoints/8/opt_state/d", "set_aside"),
    "checkpoints/8/data/process_0-position.json",
  ],
)
def test_checkpoints_without_read_permission_move_nothing(
  pristine, abstract, part
):
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)  # pytest's own folders are for one user.
    workdir = shutil.copytree(pristine, f"{folder}/run")
    (pathlib.Path(workdir) / "set_aside").mkdir()
    os.chmod(workdir, 0o755)
    before = listing(pathlib.Path(workdir))
    os.chmod(os.path.join(workdir, part), 0)
    try:
      for _ in range(2):
        with without_rights(), pytest.raises(errors.UserError) as caught:
          store = Store(os.path.join(workdir, "checkpoints"), KEEP)
          store.restore(abstract)
        assert type(caught.value) is errors.UserError
        assert "that is no sign of damage" in caught.value.message
    finally:
      os.chmod(os.path.join(workdir, part), 0o755)
    assert listing(pathlib.Path(workdir)) == before


def test_glob_characters_in_a_workdir_are_literal(abstract, tmp_path):
  folder = tmp_path / "run [a] {b}\\c*?" / "checkpoints"
  for name in ("run a {b}", "run [a] {b}"):
    (tmp_path / name).mkdir()
  store = Store(folder, KEEP)
  store.save(
    state_of(abstract, 4), data={"position.json": b'{"step": 4}'}, meta={}
  )
  store.close()
  restored = Store(folder, KEEP).restore(abstract)
  assert same(restored.state, state_of(abstract, 4))
  model = restoring.restore_params(folder, 4, abstract.model)
  assert same(model, restored.state.model)
