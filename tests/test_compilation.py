"""The compilation cache of a run: a restart does not compile again."""

import re
import subprocess
import sys

import jax
import pytest

from pausejax import errors
from pausejax.runtime import compilation
from tests import processes, toys


@pytest.fixture
def no_cache(monkeypatch):
  """The tests' own cache is off."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_is_in_the_workdir_by_type_of_cpu(
  no_cache, tmp_path, monkeypatch
):
  monkeypatch.setattr(compilation, "_cpu_flags", lambda: ["avx2"])
  with compilation.use_cache("auto", tmp_path) as folder:
    assert folder.startswith(f"{tmp_path}/compilation_cache/cpu-")
    assert jax.config.jax_compilation_cache_dir == folder
  assert jax.config.jax_compilation_cache_dir is None
  monkeypatch.setattr(compilation, "_cpu_flags", lambda: ["avx", "fma"])
  with compilation.use_cache("auto", tmp_path) as other:
    assert other != folder
  # XLA does not load what it saves there, so only a chosen folder is used.
  monkeypatch.setattr(compilation, "_cpu_flags", lambda: ["avx512f"])
  with compilation.use_cache("auto", tmp_path) as none:
    assert none == "" and jax.config.jax_compilation_cache_dir is None
  with compilation.use_cache(str(tmp_path / "mine"), tmp_path) as mine:
    assert mine.startswith(f"{tmp_path}/mine/cpu-")


def test_the_environment_decides_before_the_config(no_cache, tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "env"))
  for field in ("auto", "none", str(tmp_path / "mine")):
    with compilation.use_cache(field, tmp_path) as folder:
      assert folder == str(tmp_path / "env")
  assert not (tmp_path / "mine").exists()


def test_other_devices_share_one_folder(tmp_path):
  chosen = compilation._choose("auto", tmp_path, "tpu")
  assert chosen == str(tmp_path / "compilation_cache")
  assert compilation._choose("none", tmp_path, "gpu") == ""


def test_several_processes_on_cpus_have_none(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(compilation, "_cpu_flags", lambda: ["avx2"])
  monkeypatch.setattr(compilation.distributed, "num_processes", lambda: 2)
  assert compilation._choose("auto", tmp_path, "cpu") == ""
  assert capsys.readouterr().out == ""
  assert compilation._choose(str(tmp_path), tmp_path, "cpu") == ""
  assert "not used by several processes" in capsys.readouterr().out
  assert compilation._choose("auto", tmp_path, "tpu")


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(errors.UserError, match="compilation_cache: cannot write"):
    compilation._choose(str(tmp_path / "file" / "x"), tmp_path, "cpu")


def run(args) -> str:
  """Runs a program without a cache in the environment; returns its output."""
  env = processes.environment(0, 1, 0, devices=1)
  # Also small programs are saved, so that there is none to compile again.
  env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  env.pop("JAX_COMPILATION_CACHE_DIR")
  done = subprocess.run(
    args,
    cwd=toys.ROOT,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout + done.stderr


# Counts the programs that `pausejax` loads and compiles, by JAX's own events.
COUNTED = """
import sys, jax
events = []
jax.monitoring.register_event_listener(lambda e, **k: events.append(e))
from pausejax import cli
code = cli.main(sys.argv[1:])
print("hits", events.count("/jax/compilation_cache/cache_hits"))
print("misses", events.count("/jax/compilation_cache/cache_misses"))
sys.exit(code)
"""


@pytest.mark.slow
def test_a_restart_does_not_compile_again_and_computes_the_same(tmp_path):
  corpus, workdir, cache = (tmp_path / n for n in ("corpus", "run", "cache"))
  toys.write_corpus(corpus)

  def program(workdir, cache, stop):
    more = ("--config.num_steps=8", "--config.eval.every=2")
    more += (f"--config.compilation_cache={cache}",)
    words = toys.command(corpus, workdir, *more)[3:]
    stop = f"--config.stop_at_step={stop}"
    output = run([sys.executable, "-c", COUNTED, *words, stop])
    counts = re.findall(r"^(hits|misses) (\d+)$", output, re.MULTILINE)
    return output, {name: int(number) for name, number in counts}

  output, first = program(workdir, cache, 3)
  assert "train step: compiled in" in output
  assert first["hits"] == 0 and first["misses"] > 2
  output, again = program(workdir, cache, 6)
  assert "resuming from step 3" in output
  assert "train step: loaded in" in output
  assert again["hits"] > 2 and again["misses"] == 0
  # A program that cannot be read is compiled again.
  for path in cache.rglob("jit_train_step*"):
    path.write_bytes(path.read_bytes()[:1000])
  output, damaged = program(workdir, cache, 8)
  assert "train step: compiled in" in output and damaged["hits"] > 1
  output, plain = program(tmp_path / "plain", "none", 8)
  assert "train step: compiled in" in output and plain["hits"] == 0
  assert not (tmp_path / "plain" / "compilation_cache").exists()
  found = [
    {row["step"]: row["loss"] for row in toys.rows(folder)}
    for folder in (workdir, tmp_path / "plain")
  ]
  assert found[0] == found[1] and len(found[0]) == 8
