"""The floors: imports point down, and TensorFlow stays in its room."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pausejax"

# Room -> floor; a file may import its own floor's room and lower floors. The
# longest matching prefix counts.
FLOORS = {
  "errors": 0,
  "files": 0,
  "locks": 0,
  "pause": 0,
  "intervals": 0,
  "metrics": 0,
  "batching": 0,
  "settings": 0,
  "json_files": 0,
  "config_files": 1,
  "model": 1,
  "losses": 1,
  "optimizer": 1,
  "parameter_groups": 1,
  "schedules": 1,
  "unstacked": 1,
  "sharding": 1,
  "runtime": 2,
  "checkpoints": 2,
  "training": 2,
  "inference": 2,
  "data": 3,
  "tasks": 3,
  "evaluation": 3,
  "commandline": 4,
  "config_help": 4,
  "programs": 4,
  "cli": 4,
  "__init__": 0,
  "__main__": 4,
}
# Rooms of floor 3 that make data: they know no JAX, hence nothing of 1 and 2.
DATA_ROOMS = ("data", "tasks")
TENSORFLOW = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio"}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "torch", "marshal"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
  """Every module name that the file imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
  here = room(path)
  for name in imported(path):
    parts = name.split(".")
    if parts[0] != "pausejax" or len(parts) < 2 or parts[1] == "__version__":
      continue
    there = parts[1]
    assert FLOORS[there] <= FLOORS[here], f"{here} imports {name}"
    if here in DATA_ROOMS:
      assert there in DATA_ROOMS or FLOORS[there] == 0, f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tensorflow_is_imported_in_its_room_only(path):
  outside = PACKAGE / "data" / "seqio" not in path.parents
  tops = {name.split(".")[0] for name in imported(path)}
  assert not (outside and tops & TENSORFLOW)
  assert not tops & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_code_that_came_as_data(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Call):
      called = ast.unparse(node.func)
      assert called not in ("eval", "exec", "os.system", "os.popen"), called
      for keyword in node.keywords:
        assert keyword.arg not in ("shell", "allow_pickle"), called


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nnx_is_used_for_modules_only(path):
  allowed = {"Module", "Param", "Variable"}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nnx":
      assert node.attr in allowed, f"{path}: nnx.{node.attr}"


@pytest.mark.slow
def test_the_core_imports_with_tensorflow_blocked():
  modules = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in FILES
    if PACKAGE / "data" / "seqio" not in p.parents and p.stem != "__main__"
  ]
  code = (
    f"import sys; sys.modules.update(dict.fromkeys({sorted(TENSORFLOW)!r}))\n"
    f"import importlib\n"
    f"for name in {modules!r}: importlib.import_module(name)\n"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
