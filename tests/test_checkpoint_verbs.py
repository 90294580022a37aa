"""`pausejax checkpoint`: reads without changing, and repairs what is intact."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile

import numpy as np
import pytest

from pausejax import cli
from pausejax.checkpoints import folders, leaves, verification
from pausejax.checkpoints.store import Store
from pausejax.runtime import run_folder
from pausejax.selftest.damage import DAMAGES, files_of
from tests import saved_steps, test_damage, toys


@pytest.fixture(scope="module")
def abstract():
  return saved_steps.make_abstract()


@pytest.fixture(scope="module")
def pristine(abstract, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("verbs") / "run"
  return saved_steps.save_steps(workdir, abstract)


@pytest.fixture
def workdir(pristine, tmp_path):
  return shutil.copytree(pristine, tmp_path / "run")


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a command; returns (exit code, what it printed)."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # Reset after the test.

  def run(*words):
    code = cli.main(["checkpoint", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err and (code in (0, 1) or err)
    return code, out + err

  return run


def content(folder: pathlib.Path) -> dict:
  """Everything that a change of a folder would change."""
  found = {}
  for path in [folder, *folder.rglob("*")]:
    stat = path.lstat()
    is_file = path.is_file() and not path.is_symlink()
    digest = hashlib.sha256(path.read_bytes()).digest() if is_file else None
    found[path] = stat.st_mtime_ns, stat.st_mode, stat.st_size, digest
  return found


def flip(path: pathlib.Path) -> None:
  """Changes one bit in the middle of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def disturb(workdir: pathlib.Path) -> None:
  """Adds whatever may stand in the folder of a run that was killed."""
  folder = workdir / "checkpoints"
  shutil.copytree(folder / "4", folder / "2")
  folders.move_aside(folder, 2, "digest of model/embedding does not match")
  for name in ("12.orbax-checkpoint-tmp", "trash/1", "notes", "007", "16"):
    (folder / name).mkdir(parents=True)
  (folder / "20").write_text("a file")


STATES = {
  "checkpoints/4": "complete",
  "checkpoints/8": "complete",
  "checkpoints/12.orbax-checkpoint-tmp": "incomplete",
  "checkpoints/trash/1": "incomplete",
  "checkpoints/16": "damaged",
  "checkpoints/20": "damaged",
  "set_aside/2-0": "set aside",
}


def test_every_step_is_listed_with_its_state(workdir, run):
  disturb(workdir)
  code, printed = run("ls", workdir, "--json")
  (listed,) = json.loads(printed)
  states = {step["folder"]: step["state"] for step in listed["steps"]}
  assert code == 0 and states == STATES
  assert listed["not_read"] == ["checkpoints/007", "checkpoints/notes"]
  newest = [step["folder"] for step in listed["steps"] if step["newest"]]
  assert newest == ["checkpoints/8"]
  (eight,) = (s for s in listed["steps"] if s["folder"] == "checkpoints/8")
  path = workdir / "checkpoints" / "8"
  files = [p for p in path.rglob("*") if p.is_file()]
  assert eight["bytes"] == sum(p.stat().st_size for p in files)
  assert abs(eight["saved"] - path.stat().st_mtime) < 60
  code, printed = run("ls", workdir)
  assert "set aside: digest of model/embedding does not match" in printed
  assert "complete, newest" in printed and "checkpoints/notes" in printed


def test_relative_paths_are_read(workdir, run, monkeypatch):
  aside(workdir)
  monkeypatch.chdir(workdir.parent)
  for words in (["verify", "run"], ["repair", "run", "--step=8"]):
    code, printed = run(*words)
    assert code == 0 and printed.startswith("run/"), printed
  assert run("diff", "run", "run/checkpoints/4")[0] == 0


def test_every_run_below_a_folder_is_listed_and_verified(workdir, run):
  shutil.copytree(workdir, workdir.parent / "study" / "task" / "arm")
  (workdir.parent / "study" / "segments" / "checkpoints").mkdir(parents=True)
  code, printed = run("ls", workdir.parent)
  assert code == 0 and printed.count("complete, newest") == 2
  code, printed = run("verify", workdir.parent)
  meta = folders.read_step(workdir / "checkpoints", 8).meta
  num_leaves = 4 * len(meta["leaves"])
  assert code == 0 and "4 of 4 steps are intact" in printed
  assert f"8 files and {num_leaves} leaves" in printed


READS = [
  ["ls", "RUN"],
  ["ls", "RUN", "--json"],
  ["verify", "RUN"],
  ["verify", "RUN", "--step=8"],
  ["verify", "RUN", "--step=2-0"],
  ["diff", "RUN/checkpoints/8"],
  ["repair", "RUN", "--step=2"],
]


def test_reading_changes_nothing(workdir, run):
  disturb(workdir)
  before = content(workdir)
  for words in READS:
    run(*(word.replace("RUN", str(workdir)) for word in words))
    assert content(workdir) == before, words


def test_a_folder_that_may_only_be_read_is_enough(pristine, run):
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)  # pytest's own folders are for one user.
    workdir = pathlib.Path(shutil.copytree(pristine, f"{folder}/run"))
    disturb(workdir)
    for path in [workdir, *workdir.rglob("*")]:
      path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(workdir)
    with saved_steps.without_rights():
      codes = [
        run(*(word.replace("RUN", str(workdir)) for word in words))[0]
        for words in READS
      ]
    # Three folders are no intact steps; 4 and 8 differ.
    assert codes == [0, 0, 3, 0, 3, 1, 3]
    assert content(workdir) == before
    for path in workdir.rglob("*"):
      path.chmod(0o755)


def test_damage_is_named_with_its_file_or_leaf(workdir, run):
  step = workdir / "checkpoints" / "8"
  flip(step / "data" / "process_0-position.json")
  code, printed = run("verify", workdir)
  assert code == 3 and "1 of 2 steps are intact" in printed
  assert "checkpoints/8: DAMAGED\n  data/process_0-position.json" in printed
  assert run("verify", workdir, "--step=4")[0] == 0
  flip(toys.array_file(workdir / "checkpoints" / "4" / "params"))
  code, printed = run("verify", workdir, "--step=4")
  assert code == 3 and "0 of 1 steps are intact" in printed
  # A flipped byte is read as another value, or cannot be read.
  damage = r"digest of model/\S+ .*does not match|model/\S+ cannot be read"
  damage += r"|model/\S+: it cannot be read"
  assert re.search(rf"checkpoints/4: DAMAGED\n  ({damage})", printed), printed


def test_a_step_that_a_run_deletes_meanwhile_is_not_damaged(
  workdir, run, monkeypatch
):
  verify = verification.verify_step

  def delete_first(path, step):
    if step == 4:
      shutil.rmtree(path)
    return verify(path, step)

  monkeypatch.setattr(verification, "verify_step", delete_first)
  code, printed = run("verify", workdir)
  assert code == 0 and "checkpoints/4: deleted meanwhile" in printed
  assert "1 of 1 steps are intact" in printed


def test_comparing_nothing_is_a_failure(workdir, run):
  code, printed = run("verify", workdir, "--step=5")
  assert code == 1 and "no step 5 in" in printed
  (workdir.parent / "empty" / "checkpoints").mkdir(parents=True)
  code, printed = run("verify", workdir.parent / "empty")
  assert code == 1 and "no checkpoint in" in printed
  shutil.rmtree(workdir / "checkpoints")
  (workdir / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir(parents=True)
  code, printed = run("verify", workdir)
  assert code == 1 and "nothing was compared" in printed


@pytest.mark.slow
def test_verify_and_a_resume_find_the_same_damage(pristine, abstract, tmp_path):
  expected = {step: saved_steps.state_of(abstract, step) for step in (4, 8)}
  names = ("flip 0", "cut", "deleted")
  cases = itertools.product(files_of(pristine / "checkpoints" / "8"), names)
  num_damaged = 0
  for file, name in cases:
    copy = shutil.copytree(pristine, tmp_path / "run")
    step = copy / "checkpoints" / "8"
    DAMAGES[name](step / file, step)
    found = bool(verification.verify_step(step, 8).problems)
    outcome = test_damage.resume(copy, abstract, expected)
    assert found == (outcome == "older"), (file, name, outcome)
    num_damaged += found
    shutil.rmtree(copy)
  assert num_damaged > 20


def test_leaves_are_read_a_few_at_a_time(pristine, monkeypatch):
  meta = folders.read_step(pristine / "checkpoints", 8).meta
  monkeypatch.setattr(verification, "_GROUP_BYTES", 5000)
  groups = [named for _, named in verification.leaf_groups(meta)]
  sizes = [
    sum(x.size * x.dtype.itemsize for x in named.values()) for named in groups
  ]
  assert sorted(n for named in groups for n in named) == sorted(meta["leaves"])
  assert len(groups) > 5
  for named, size in zip(groups, sizes, strict=True):
    assert size <= 5000 or len(named) == 1
  assert not verification.verify_step(
    pristine / "checkpoints" / "8", 8
  ).problems


def save(workdir, state, step=8):
  store = Store(workdir / "checkpoints", saved_steps.KEEP)
  position = json.dumps({"step": step}).encode()
  store.save(state, data={"position.json": position}, meta={"versions": {}})
  store.close()


def changed(state, name, value):
  named = leaves.flatten(state)
  return leaves.unflatten(state, {**named, name: value})


def test_equal_and_different_steps(workdir, abstract, tmp_path, run):
  copy = shutil.copytree(workdir, tmp_path / "copy")
  code, printed = run("diff", workdir, copy)
  assert code == 0 and "A and B are equal" in printed
  assert "leaves: 0 of" in printed
  code, printed = run("diff", workdir)
  assert code == 1 and "position in the data:\n  step  8 -> 4" in printed
  assert run("diff", workdir / "checkpoints" / "4")[0] == 2  # None is older.
  missing = run("diff", workdir, workdir / "checkpoints" / "5")
  assert missing[0] == 2 and "no step 5" in missing[1]


def test_the_largest_difference_of_a_leaf_is_printed(abstract, tmp_path, run):
  a = saved_steps.state_of(abstract, 8)
  x = leaves.flatten(a)["model/embedding"]
  b = changed(a, "model/embedding", x.at[3, 1].add(0.5))
  # A float32 sum is off by a rounding error.
  largest = float(np.abs(np.asarray(b.model.embedding[...]) - x).max())
  save(tmp_path / "a", a)
  save(tmp_path / "b", b)
  code, printed = run("diff", tmp_path / "a", tmp_path / "b")
  line = f"largest |A - B| {largest:.3g}, 1 of {x.size:,} elements"
  assert code == 1 and line in printed and "leaves: 1 of" in printed
  # The arrays of an item may be in several files, of which one is compared.
  params = tmp_path / "b" / "checkpoints/8/params"
  for path in params.glob("ocdbt.process_*/d/*"):
    os.truncate(path, 20)
  code, printed = run("diff", tmp_path / "a", tmp_path / "b")
  assert code == 3 and "is damaged" in printed


def test_missing_leaves_shapes_and_dtypes_differ(abstract, tmp_path, run):
  a = saved_steps.state_of(abstract, 8)
  x = leaves.flatten(a)["model/embedding"]
  b = changed(a, "model/embedding", x[:-1])
  scale = leaves.flatten(a)["model/final_norm/scale"]
  b = changed(b, "model/final_norm/scale", scale.astype("bfloat16"))
  b = dataclasses.replace(b, opt_state=())
  save(tmp_path / "a", a)
  save(tmp_path / "b", b)
  code, printed = run("diff", tmp_path / "a", tmp_path / "b", "--json")
  found = json.loads(printed)
  rows = x.shape[0]
  width = x.shape[1]
  assert code == 1 and not found["equal"]
  assert found["leaves"]["model/embedding"] == (
    f"float32[{rows}, {width}] -> float32[{rows - 1}, {width}]"
  )
  scale = found["leaves"]["model/final_norm/scale"]
  assert scale == f"float32[{width}] -> bfloat16[{width}]"
  gone = [n for n, text in found["leaves"].items() if text.endswith("-> none")]
  assert gone and all(name.startswith("opt_state/") for name in gone)


def aside(workdir, step=8):
  return folders.move_aside(workdir / "checkpoints", step, "for a test")


def test_a_step_that_was_set_aside_is_put_back(workdir, abstract, run):
  path, whole = aside(workdir), content(workdir / "checkpoints")
  code, printed = run("repair", workdir, "--step=8")
  assert code == 0 and "it was set aside: for a test" in printed
  assert "nothing was changed" in printed and path.is_dir()
  assert content(workdir / "checkpoints") == whole
  code, printed = run("repair", workdir, "--step=8", "--apply")
  assert code == 0 and f"moved to {workdir / 'checkpoints' / '8'}" in printed
  assert not path.exists() and not [*workdir.rglob("set_aside.txt")]
  restored = Store(workdir / "checkpoints", saved_steps.KEEP).restore(abstract)
  assert saved_steps.same(restored.state, saved_steps.state_of(abstract, 8))


def refused(run, workdir, step, code, *parts):
  before = content(workdir)
  for more in ([], ["--apply"]):
    got, printed = run("repair", workdir, f"--step={step}", *more)
    assert got == code and all(part in printed for part in parts), printed
    assert content(workdir) == before


def test_a_damaged_step_is_not_put_back(workdir, run):
  path = aside(workdir)
  flip(toys.array_file(path / "params"))
  refused(run, workdir, "8", 3, f"{path} is damaged and was not put back")
  refused(run, workdir, "8-0", 3, "model/")


def test_a_step_is_not_put_back_beside_a_run(workdir, run):
  aside(workdir)
  with run_folder.hold_workdir(workdir):
    who = f"process {os.getpid()} on {socket.gethostname()}"
    refused(run, workdir, "8", 1, who, "wait until it ends")


def test_a_step_is_not_put_back_over_another(workdir, run):
  path = aside(workdir)
  shutil.copytree(path, workdir / "set_aside" / "8-1")
  refused(run, workdir, "8", 1, "several: 8-0, 8-1")
  shutil.copytree(path, workdir / "checkpoints" / "8")
  refused(run, workdir, "8-1", 1, "exists, so 8-1 cannot take its place")
  refused(run, workdir, "5", 1, "no such step (set aside: 8-0, 8-1)")
  for name in ("../8", "8-0/../..", "", "-1", "8.0"):
    refused(run, workdir, name, 2, "expected a step such as 8")


def test_links_are_not_followed_by_a_repair(workdir, tmp_path, run):
  shutil.move(aside(workdir), tmp_path / "elsewhere")
  (workdir / "set_aside" / "8-0").symlink_to(tmp_path / "elsewhere")
  refused(run, workdir, "8-0", 2, "reached by a symbolic link")


@pytest.mark.parametrize("action", ["ls", "verify", "diff", "repair --step=1"])
def test_a_folder_without_a_run_is_one_line(action, tmp_path, run):
  words = action.split()
  for folder in (tmp_path, tmp_path / "none"):
    code, printed = run(words[0], folder, *words[1:])
    assert code in (1, 2) and len(printed.splitlines()) == 1
  assert not [*tmp_path.iterdir()]
  file = tmp_path / "file"
  file.touch()
  code, printed = run(words[0], file, *words[1:])
  assert code == 2 and f"'{file}' is a file, not the folder of a run" in printed
