"""A disk that is full, and a folder that goes away, during a run."""

import contextlib
import shutil
import subprocess

import pytest

from pausejax import errors
from pausejax.checkpoints import folders, retention, space
from pausejax.checkpoints.store import Store
from pausejax.runtime import metric_writer
from tests.saved_steps import KEEP, make_abstract, same, state_of

MB = 2**20


@pytest.fixture(scope="module")
def abstract():
  return make_abstract()


@contextlib.contextmanager
def small_disk(path, size):
  """Mounts a file system of so many bytes; skips where that is not allowed."""
  path.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
  if (
    shutil.which("mount") is None
    or subprocess.run(mount, capture_output=True).returncode
  ):
    pytest.skip("a tmpfs cannot be mounted here: it takes root")
  try:
    yield path
  finally:
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def save(store, abstract, step):
  position = b'{"step": %d}' % step
  data = {"position.json": position}
  store.save(state_of(abstract, step), data=data, meta={})
  store.wait()


def test_a_full_disk_is_one_line_and_later_saves_succeed(
  tmp_path, abstract, capfd, monkeypatch
):
  with small_disk(tmp_path / "disk", 2 * MB) as disk:
    folder = disk / "checkpoints"
    store = Store(folder, KEEP)
    save(store, abstract, 1)
    one = sum(p.stat().st_size for p in folder.rglob("*"))
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(free - one // 3))
    # Another program may fill the disk after this was asked.
    with monkeypatch.context() as patch:
      patch.setattr(space, "require_now", lambda *_: None)
      save(store, abstract, 2)
    save(store, abstract, 3)  # And this one is not begun.
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 2, error
    for step, line in zip((2, 3), error.splitlines(), strict=True):
      assert f"step {step} was not saved in {folder}: No space left" in line
      assert "free)" in line and "training continues" in line
    assert sorted(p.name for p in folder.iterdir()) == ["1"]
    ballast.unlink()
    save(store, abstract, 4)
    store.close()
    assert folders.numbered(folder) == [1, 4]
    restored = Store(folder, KEEP).restore(abstract)
    assert same(restored.state, state_of(abstract, 4))


def test_three_failures_in_a_row_and_a_failed_last_save_end_the_run(
  tmp_path, abstract
):
  store = Store(tmp_path / "checkpoints", KEEP)
  save(store, abstract, 1)
  # A folder in the way of the file that Orbax writes.
  for step in (2, 3, 4):
    (tmp_path / "checkpoints" / str(step)).mkdir()
  save(store, abstract, 2)
  with pytest.raises(errors.UserError, match="the last step was not saved"):
    store.close()
  save(store, abstract, 3)
  with pytest.raises(errors.UserError, match="failed saves in a row: 3"):
    save(store, abstract, 4)
  restored = Store(tmp_path / "checkpoints", KEEP).restore(abstract)
  assert int(restored.state.step) == 1


def test_free_space_is_checked_before_the_first_step(
  tmp_path, abstract, capsys
):
  with small_disk(tmp_path / "disk", 1 * MB) as disk:
    store = Store(disk / "checkpoints", KEEP)
    store.prepare(abstract)
    line = capsys.readouterr().err
    assert "warning: checkpoint.keep=9 needs space for 10 checkpoints" in line
    assert "kB" in line and "free" in line
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    with pytest.raises(errors.UserError, match="no space for a checkpoint in"):
      Store(disk / "checkpoints", KEEP).prepare(abstract)


def test_write_access_is_checked_before_the_first_step(tmp_path, abstract):
  (tmp_path / "run").write_text("a file")
  with pytest.raises(errors.UserError, match=r"cannot write .*/checkpoints"):
    Store(tmp_path / "run" / "checkpoints", KEEP).prepare(abstract)


@pytest.mark.parametrize("again", [False, True])
def test_a_workdir_that_is_deleted_is_named(tmp_path, abstract, again):
  folder = tmp_path / "run" / "checkpoints"
  store = Store(folder, KEEP)
  save(store, abstract, 1)
  shutil.rmtree(tmp_path / "run")
  if again:
    folder.mkdir(parents=True)  # May take the inode of the one before.
  with pytest.raises(errors.UserError, match="was deleted or replaced"):
    save(store, abstract, 2)
  assert not folder.exists() or not list(folder.iterdir())


def test_metrics_wait_for_free_space_and_stop_if_the_folder_is_deleted(
  tmp_path, capsys
):
  with small_disk(tmp_path / "disk", 64 * 1024) as disk:
    writer = metric_writer.MetricWriter(disk, 0)
    writer.write(1, {"loss": 1.0})
    ballast = disk / "ballast"
    with contextlib.suppress(OSError):
      ballast.write_bytes(bytes(MB))
    for step in range(2, 400):
      writer.write(step, {"loss": 1.0})
    error = capsys.readouterr().err
    assert error.count("No space left") == 1 == len(error.splitlines())
    ballast.unlink()
    writer.write(400, {"loss": 1.0})
    lines = (disk / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 400
    (disk / "metrics.jsonl").unlink()
    with pytest.raises(errors.UserError, match="was deleted or replaced"):
      writer.write(401, {"loss": 1.0})


def test_an_incomplete_save_deletes_nothing(tmp_path, abstract):
  store = Store(tmp_path / "checkpoints", KEEP)
  save(store, abstract, 1)
  for step in (2, 3):
    save(store, abstract, step)
  store.close()
  folder = tmp_path / "checkpoints"
  (folder / "2" / "params" / "manifest.ocdbt").unlink()
  few = type(KEEP)(every=1, keep=1, keep_period=0, keep_best=0)
  retention.delete_old(folder, few, last_finite=1)
  assert folders.numbered(folder) == [1, 2, 3]  # 2 is damaged, so it stays.
