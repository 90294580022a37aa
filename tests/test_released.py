"""Released versions: each has its files in `saved/`, and refuses newer ones.

A version is released when the changelog has it without "not yet released". Its
commit is in the name of its archive.
"""

import io
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

from tests import runs
from tests.test_saved_files import ARCHIVES
from tests.toys import ROOT

VERSIONS = dict(path.name[: -len(".tar.gz")].split("-") for path in ARCHIVES)


def test_every_released_version_has_its_files():
  changelog = (ROOT / "CHANGELOG.md").read_text()
  headings = re.findall(r"^## (.+)$", changelog, re.M)
  released = [h for h in headings if "not yet released" not in h]
  assert sorted(VERSIONS) == sorted(released) and released


def of_commit(commit: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes the package of a commit; skips the test without the history."""
  done = subprocess.run(
    ["git", "-C", str(ROOT), "archive", commit, "pausejax", "configs"],
    capture_output=True,
    check=False,
  )
  if done.returncode:
    pytest.skip(f"commit {commit} is not in this clone (git fetch --unshallow)")
  with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
    archive.extractall(folder, filter="data")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_version_refuses_a_checkpoint_of_this_one(version, tmp_path):
  package = of_commit(VERSIONS[version], tmp_path / "package")
  run = runs.save_run(tmp_path / "run")
  finetune = package / "configs" / "finetune_smoke.py"
  before = sorted(tmp_path.rglob("run/*"))
  for words in (
    ["generate", f"--checkpoint={run}", "--prompt=a"],
    ["evaluate", f"--checkpoint={run}", "--task=stdlib_cloze"],
    ["train", f"--config={finetune}", f"--init_from={run}", "--workdir=new"],
  ):
    done = subprocess.run(
      [sys.executable, "-m", "pausejax", *words],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": str(package), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=False,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "'0.2.0 or newer'" in line, line
  assert sorted(tmp_path.rglob("run/*")) == before
