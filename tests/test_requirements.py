"""The lock files: one set for each Python, and what setup.cfg asks for."""

import configparser
import pathlib
import re

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
EXTRAS = SETUP["options.extras_require"]


def requirements(text):
  lines = (line.split(" #")[0].strip() for line in text.splitlines())
  return [Requirement(line) for line in lines if line and line[0] != "#"]


def read_lock(kind, python):
  """A dict of name -> version."""
  path = ROOT / f"requirements/{kind}-py{python.replace('.', '')}.txt"
  pins = re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", path.read_text(), re.M)
  return dict(pins)


def unmet(needed, lock, python):
  """The requirements that a lock does not meet, with the version it has."""
  environment = {"python_version": python, "python_full_version": f"{python}.0"}
  for need in needed:
    if need.marker and not need.marker.evaluate(environment):
      continue
    version = lock.get(re.sub(r"[-_.]+", "-", need.name).lower())
    if version is None or not need.specifier.contains(version):
      yield f"{need}: {version}"


def test_locks_and_makefile_cover_the_pythons_that_setup_cfg_names():
  makefile = (ROOT / "Makefile").read_text()
  listed = re.search(r"^PYTHONS := (.*)$", makefile, re.M)[1].split()
  assert sorted(listed) == sorted(PYTHONS)
  for kind in ("core", "lock", "docs"):
    files = (ROOT / "requirements").glob(f"{kind}-py*.txt")
    tags = {path.stem.removeprefix(f"{kind}-py") for path in files}
    assert tags == {python.replace(".", "") for python in PYTHONS}


@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_meets_what_setup_cfg_asks_for(python):
  core = requirements(SETUP["options"]["install_requires"])
  whole = [
    *core,
    *(
      n
      for e in ("seqio", "tensorboard", "dev")
      for n in requirements(EXTRAS[e])
    ),
  ]
  assert not [*unmet(core, read_lock("core", python), python)]
  assert not [*unmet(whole, read_lock("lock", python), python)]
  docs = [*core, *requirements(EXTRAS["docs"])]
  assert not [*unmet(docs, read_lock("docs", python), python)]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_core_is_part_of_the_whole_and_has_no_tensorflow(python):
  core, whole = read_lock("core", python), read_lock("lock", python)
  assert core.items() <= whole.items()
  assert "tensorflow" not in core
  assert ("tensorflow" in whole) == (python != "3.14")


def test_unmet_names_what_is_missing_or_too_old():
  needed = requirements(
    "numpy>=2\nscipy>=1\nseqio>=1 ; python_version < '3.14'"
  )
  lock = {"numpy": "1.0", "scipy": "1.5"}
  assert [*unmet(needed, lock, "3.14")] == ["numpy>=2: 1.0"]
  assert len([*unmet(needed, lock, "3.13")]) == 2
