"""The wheel runs the shipped experiments by name from any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from pausejax.config import loader

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.slow
pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """The files of the wheel, built from a copy of the tree without network."""
  source = tmp_path_factory.mktemp("source")
  skip = shutil.ignore_patterns("__pycache__")
  for name in ("pausejax", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=skip)
  for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, source)
  shutil.copy(ROOT / "LICENSE", source)
  options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
  command = [sys.executable, "-m", "pip", "wheel", *options, "-w", "dist", "."]
  subprocess.run(command, cwd=source, check=True)
  (wheel,) = (source / "dist").glob("pausejax-*.whl")
  folder = tmp_path_factory.mktemp("site")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder)
  return folder


@pytest.fixture
def pausejax(installed, tmp_path):
  """Runs the wheel's `pausejax` from a folder with a foreign `configs`."""
  (tmp_path / "configs").mkdir()
  foreign = "raise RuntimeError('the foreign configs was imported')\n"
  for name in ("__init__", "smoke"):
    (tmp_path / "configs" / f"{name}.py").write_text(foreign)

  def run(*words):
    return subprocess.run(
      [sys.executable, "-m", "pausejax", *words],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": f"{tmp_path}:{installed}"},
      capture_output=True,
      text=True,
      check=False,
    )

  return run


def test_the_wheel_installs_one_package_with_every_experiment(installed):
  tops = {p.name for p in installed.iterdir() if p.suffix != ".dist-info"}
  assert tops == {"pausejax"}
  found = {p.stem for p in (installed / "pausejax/_configs").glob("*.py")}
  assert found == {*loader.shipped()}
  assert "smoke" in found


def test_shipped_experiments_run_by_name_from_any_folder(pausejax, tmp_path):
  done = pausejax("train", "--config=smoke:pause=false", "--help")
  assert done.returncode == 0, done.stderr
  assert "  num_steps = 200  (100000)" in done.stdout
  done = pausejax("study", "--config=study_smoke", "--workdir=s", "--dry_run")
  assert done.returncode == 0, done.stderr
  assert "--config=smoke:pause=true" in done.stdout
  assert "configs/" not in done.stdout
  text = tmp_path / "text"
  text.mkdir()
  for i in range(30):
    (text / f"{i}.txt").write_text(f"Document {i} has some words.\n" * 40)
  done = pausejax(
    "train",
    "--config=smoke",
    "--workdir=run",
    "--config.data.task=text",
    f"--config.data.files={text}",
    "--config.num_steps=1",
    "--config.batch_size=8",
    "--config.data.seq_len=64",
    "--config.model.num_layers=1",
    "--config.model.scan_unroll=1",
    "--config.eval.num_batches=1",
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    ("smok", "did you mean 'smoke'?"),
    ("nonsense", "known: continue_pretrain, "),
  ],
)
def test_the_error_for_an_unknown_experiment_lists_the_known_ones(
  pausejax, spec, words
):
  done = pausejax("train", f"--config={spec}", "--workdir=run")
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert f"no file '{spec}'" in line and words in line
