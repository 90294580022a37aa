"""Checkpoints of which none can be used, and files that cannot be read."""

import json
import os
import pathlib
import shutil
import tempfile

import pytest

from pausejax import errors
from pausejax.checkpoints import folders, restoring
from pausejax.checkpoints.store import Store
from tests import saved_steps
from tests.saved_steps import KEEP, listing, refuses, ruin, same, state_of

abstract, pristine = saved_steps.abstract, saved_steps.pristine
workdir = saved_steps.workdir


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
        with (
          saved_steps.without_rights(),
          pytest.raises(errors.UserError) as caught,
        ):
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
