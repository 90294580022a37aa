"""Hostile files in a run's folder: one line, no traceback, nothing outside."""

import json
import os
import shutil

import pytest

from pausejax import cli, errors
from pausejax.checkpoints import folders
from pausejax.checkpoints.store import Store
from pausejax.runtime import run_folder
from tests import saved_steps

abstract, pristine = saved_steps.abstract, saved_steps.pristine
workdir = saved_steps.workdir


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a command; returns (exit code, what it printed)."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")

  def run(*words):
    code = cli.main([*map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out + err

  return run


def change_meta(step, change) -> None:
  """Changes meta.json as somebody who also writes its SHA-256."""
  path = step / "meta" / "meta.json"
  meta = json.loads(path.read_text())
  change(meta)
  content = json.dumps(meta).encode()
  path.write_bytes(content)
  (path.parent / "meta.sha256").write_bytes(folders.checksum(content))


def set_first(field, value):
  return lambda meta: meta[field].update({next(iter(meta[field])): value})


HOSTILE = {
  "a NUL in a name": lambda m: m["data_sha256"].update({"a\0b": "x"}),
  "half a character": lambda m: m["data_sha256"].update({"\ud800": "x"}),
  "a leaf without a shape": set_first("leaves", 7),
  "a leaf with half of it": set_first("leaves", ["float32"]),
  "a leaf with too much": set_first("leaves", [[1], "float32", "x"]),
  "digests that are texts": set_first("digests", "x"),
  "a format below 1": lambda m: m.update(format=-1),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_meta_is_damage_for_every_reader(
  change, workdir, abstract, run
):
  change_meta(workdir / "checkpoints" / "8", change)
  code, printed = run("checkpoint", "ls", workdir)
  assert code == 0 and "damaged: meta/meta.json" in printed
  assert run("checkpoint", "verify", workdir)[0] == 3
  assert run("checkpoint", "diff", workdir)[0] == 3
  restored = Store(workdir / "checkpoints", saved_steps.KEEP).restore(abstract)
  assert int(restored.state.step) == 4
  assert "8 was set aside: meta/meta.json" in restored.reason


def test_names_and_reasons_are_printed_without_control_characters(workdir, run):
  folder = workdir / "checkpoints"
  (folder / "4" / "_CHECKPOINT_METADATA").write_text("[" * 100_000)
  (folder / "notes\nFAKE").mkdir()
  aside = folders.move_aside(folder, 8, "")
  (aside / folders.REASON).write_text("\x1b]0;changed\x07")
  code, printed = run("checkpoint", "ls", workdir)
  assert code == 0 and "\x1b" not in printed and "\nFAKE" not in printed


def test_a_step_is_set_aside_under_a_free_name(workdir):
  folder = workdir / "checkpoints"
  (workdir / "set_aside" / "8-1").mkdir(parents=True)
  (workdir / "set_aside" / "8-1" / "kept").touch()
  assert folders.move_aside(folder, 8, "damaged").name == "8-0"
  shutil.copytree(folder / "4", folder / "8")
  assert folders.move_aside(folder, 8, "damaged").name == "8-2"
  assert (workdir / "set_aside" / "8-1" / "kept").exists()


@pytest.mark.parametrize("name", ["lock", "checkpoints", "set_aside"])
def test_a_workdir_with_a_link_out_of_it_is_refused(name, tmp_path):
  outside = tmp_path / "outside"
  if name == "lock":
    outside.write_text("of another program")
  else:
    (outside / "trash").mkdir(parents=True)
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / name).symlink_to(outside)
  with (
    pytest.raises(errors.UserError, match="is a symbolic link"),
    run_folder.hold_workdir(workdir),
  ):
    pass
  if name == "lock":
    assert outside.read_text() == "of another program"
  else:
    assert [*outside.iterdir()] == [outside / "trash"]


def test_a_lock_of_another_program_is_kept(tmp_path):
  (tmp_path / "lock").write_text("a list of locks")
  with (
    pytest.raises(errors.UserError, match="is no lock of a run"),
    run_folder.hold_workdir(tmp_path),
  ):
    pass
  assert (tmp_path / "lock").read_text() == "a list of locks"


def test_a_linked_workdir_is_held(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "linked").symlink_to(tmp_path / "real")
  for _ in range(2):  # With and without a lock of an earlier run.
    with run_folder.hold_workdir(tmp_path / "linked"):
      assert (tmp_path / "real" / "lock").exists()


def test_a_pipe_or_a_huge_file_is_one_line(workdir, run):
  meta = workdir / "checkpoints" / "8" / "meta" / "meta.json"
  os.truncate(meta, 2**40)  # Sparse: it takes no space.
  code, printed = run("checkpoint", "ls", workdir)
  assert code == 0 and "are read" in printed
  meta.unlink()
  os.mkfifo(meta)
  code, printed = run("checkpoint", "ls", workdir)
  assert code == 0 and "not a regular file" in printed
  os.mkfifo(workdir / "x.py")
  code, printed = run("train", f"--config={workdir / 'y.py'}", "--workdir=x")
  assert code == 2 and "no file" in printed
