"""Imports point down and have no cycles; TensorFlow stays apart."""

import ast
import collections
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "pausejax"

# Lowest first: a module imports its own package and packages of lower layers.
LAYERS = (
  (
    "errors",
    "arguments",
    "files",
    "buckets",
    "locks",
    "json_files",
    "pause_places",
    "pause",
    "prompt_pauses",
    "curriculum",
    "metrics",
    "__init__",
  ),
  ("config",),
  ("tasks",),
  ("data",),
  (
    "sharding",
    "losses",
    "parameter_groups",
    "schedules",
    "freezing",
    "spikes",
  ),
  ("model", "unstacked", "optimizer", "train_state", "runtime"),
  ("checkpoints", "inference"),
  ("interop", "training"),
  ("evaluation", "inspection", "preflight", "probe"),
  ("study", "selftest"),
  ("commandline", "programs", "api", "cli", "__main__"),
)
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
# Public names that several modules define, always named with their module.
SEVERAL = {
  "main": "one per program",
  "parser": "the command line, one per program that reads one",
  "upgrade": "one per saved format",
  "examples": "one per task: a record -> its examples",
  "from_tfds": "one per task that TFDS has: its example -> the record",
  "source": "one per corpus: the config -> its documents",
}
# What makes data knows no JAX.
WITHOUT_JAX = ("tasks", "data", "inspection")
TENSORFLOW = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio"}
NOT_IN_CI = {"lm_eval", "datasets"}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "torch", "marshal"}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts).removesuffix(".__init__")


def package(module: str) -> str:
  """Returns the package or the module that stands directly in pausejax/."""
  return [*module.split("."), "__init__"][1]


def imported(path: pathlib.Path) -> set[str]:
  """Returns every module name that the file imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


MODULES = {name_of(path): path for path in FILES}


def imported_modules(path: pathlib.Path) -> set[str]:
  """Returns the modules of this package that the file imports, lazily too."""
  found = set()
  for name in imported(path):
    while name and name not in MODULES:
      name = name.rpartition(".")[0]
    found |= {name} - {"", name_of(path)}
  return found


GRAPH = {name: imported_modules(path) for name, path in MODULES.items()}


def test_no_module_and_no_package_imports_itself_through_others():
  graphlib.TopologicalSorter(GRAPH).prepare()
  packages = {}
  for name, others in GRAPH.items():
    here = packages.setdefault(package(name), set())
    here |= {package(other) for other in others} - {package(name)}
  graphlib.TopologicalSorter(packages).prepare()
  assert len(packages) == len(LAYER)


def test_a_public_function_or_class_has_a_name_of_its_own():
  modules = collections.defaultdict(list)
  for name, path in MODULES.items():
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        modules[node.name].append(name)
  several = {
    name: where
    for name, where in modules.items()
    if len(where) > 1 and not name.startswith("_")
  }
  assert several.keys() == SEVERAL.keys(), several


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_down(module):
  here = package(module)
  for other in GRAPH[module]:
    there = package(other)
    # Within a layer, packages have no cycles.
    assert LAYER[there] <= LAYER[here], f"{module} imports {other}"
    if here in WITHOUT_JAX and there != here:
      assert LAYER[there] <= LAYER["data"], f"{module} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tensorflow_is_imported_in_data_seqio_only(path):
  outside = PACKAGE / "data" / "seqio" not in path.parents
  tops = {name.split(".")[0] for name in imported(path)}
  assert not (outside and tops & TENSORFLOW)
  assert not tops & FORBIDDEN


def test_private_modules_of_jax_are_read_in_one_place():
  private = {
    name
    for name, path in MODULES.items()
    if any("._src" in other for other in imported(path))
  }
  assert private == {"pausejax.runtime.distributed"}


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_mesh_comes_from_the_scope_and_never_as_an_argument(path):
  mesh_type = re.compile(r"\bMesh\b")
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.arg | ast.AnnAssign):
      kind = ast.unparse(node.annotation) if node.annotation else ""
      assert not mesh_type.search(kind), ast.unparse(node)
    if isinstance(node, ast.arg):
      assert "mesh" not in node.arg, f"argument {node.arg}"
    elif isinstance(node, ast.Attribute) and path.stem != "sharding":
      assert node.attr not in ("get_mesh", "get_abstract_mesh")


@pytest.mark.slow
def test_the_core_imports_with_tensorflow_blocked():
  modules = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in FILES
    if PACKAGE / "data" / "seqio" not in p.parents
    and p.stem != "__main__"
    and not {name.split(".")[0] for name in imported(p)} & NOT_IN_CI
  ]
  code = (
    f"import sys; sys.modules.update(dict.fromkeys({sorted(TENSORFLOW)!r}))\n"
    f"import importlib\n"
    f"for name in {modules!r}: importlib.import_module(name)\n"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
