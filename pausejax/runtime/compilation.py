"""The persistent compilation cache, and the time spent compiling.

JAX saves compiled programs in a folder, under a key that holds the program, the
devices, the versions and the XLA flags. Process 0 writes, all processes read. A
program that cannot be read back is compiled again. JAX's key does not hold the
type of the CPU, and a program compiled for another type may crash: programs for
CPUs are in a folder of their own per type.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import stat
from collections.abc import Iterator

from pausejax import errors
from pausejax.runtime import distributed

AUTO, NONE = "auto", "none"  # Values of the field `compilation_cache`.

_FOLDER = "compilation_cache"
_MIN_SECONDS = 0.5  # Programs that compile faster are not saved.
_DIR = "jax_compilation_cache_dir"
_THRESHOLD = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_COMPILING = "/jax/core/compile/"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# XLA saves programs for CPUs with AVX-512 that it refuses to load, with errors
# in the log (github.com/jax-ml/jax/issues/38445).
_UNREADABLE = "avx512f"


@contextlib.contextmanager
def use_cache(field: str, workdir: pathlib.Path) -> Iterator[str]:
  """Uses a cache until the context ends; yields its folder, "" if none.

  The folder of JAX_COMPILATION_CACHE_DIR is used if that is set.

  Args:
    field: the config's `compilation_cache`.
    workdir: the folder of the run.

  Raises:
    UserError: the folder cannot be made, or every user can write it.
  """
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  given = getattr(jax.config, _DIR)
  folder = given or _choose(field, workdir, jax.default_backend())
  _require_own(folder)
  if given or not folder:
    yield folder
    return
  values: dict[str, object] = {_DIR: folder}
  if _THRESHOLD not in os.environ:
    values[_THRESHOLD.lower()] = _MIN_SECONDS
  before = {name: getattr(jax.config, name) for name in values}
  try:
    _update(jax.config, values)
    compilation_cache.reset_cache()
    yield folder
  finally:
    _update(jax.config, before)
    compilation_cache.reset_cache()


def _require_own(folder: str) -> None:
  """Raises if every user can write the programs, which are run as they are."""
  path = pathlib.Path(folder or ".")
  if folder and path.is_dir() and path.stat().st_mode & stat.S_IWOTH:
    raise errors.UserError(
      f"compilation_cache: every user of this machine can write {folder}, and "
      f"with it the programs that a run loads; `chmod o-w {folder}`, name "
      f"another folder, or {NONE}"
    )


def _update(config, values: dict[str, object]) -> None:
  for name, value in values.items():
    config.update(name, value)


def _choose(field: str, workdir: pathlib.Path, backend: str) -> str:
  """Returns the folder of the cache on this backend, "" if there is none."""
  is_auto, is_cpu = field == AUTO, backend == "cpu"
  if field == NONE or (is_auto and is_cpu and _UNREADABLE in _cpu_flags()):
    return ""
  if is_cpu and distributed.num_processes() > 1:
    # The key of a program differs by process, and process 0 alone writes: it
    # would load while the others compile, and lose them meanwhile.
    if not is_auto:
      print("compilation_cache: not used by several processes on CPUs")
    return ""
  folder = workdir / _FOLDER if is_auto else pathlib.Path(field).resolve()
  folder = folder / cpu_type() if is_cpu else folder
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise errors.UserError(
      f"compilation_cache: cannot write {folder}: {e.strerror}; name another "
      f"folder, or {NONE}"
    ) from e
  return str(folder)


def cache_variables(workdir: pathlib.Path) -> dict[str, str]:
  """Returns environment variables with which commands share a cache.

  Args:
    workdir: the folder that holds it.
  """
  return {
    _DIR.upper(): str(workdir / _FOLDER / cpu_type()),
    _THRESHOLD: str(_MIN_SECONDS),
  }


def cpu_type() -> str:
  """Returns a name for CPUs with the same instructions, such as cpu-1f3b9c."""
  parts = (platform.machine(), *_cpu_flags())
  return f"cpu-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def _cpu_flags() -> list[str]:
  """Returns words that describe this machine's CPU, sorted."""
  path = pathlib.Path("/proc/cpuinfo")
  first = path.read_text().split("\n\n")[0] if path.exists() else ""
  names = ("flags", "Features", "vendor_id", "cpu family", "model")
  words = platform.processor().split()
  for line in first.splitlines():
    name, _, value = line.partition(":")
    words += value.split() if name.strip() in names else []
  return sorted({*words})


class CompileWatch:
  """Counts what JAX compiles in this process from now on.

  Attributes:
    seconds: seconds of tracing, lowering, and compiling or loading.
    num_loaded: programs loaded from the persistent cache.
  """

  def __init__(self):
    self.seconds = 0.0
    self.num_loaded = 0
    self._spans: list[tuple[float, float]] = []

  def __enter__(self):
    import jax.monitoring

    jax.monitoring.register_event_listener(self._on_event)
    jax.monitoring.register_event_time_span_listener(self._on_span)
    return self

  def __exit__(self, *error) -> None:
    import jax.monitoring

    jax.monitoring.unregister_event_listener(self._on_event)
    jax.monitoring.unregister_event_time_span_listener(self._on_span)

  def _on_event(self, event: str, **kwargs) -> None:
    self.num_loaded += event == _CACHE_HIT

  def _on_span(self, event: str, start: float, end: float, **kwargs) -> None:
    """Adds a span of time; it replaces the spans inside it."""
    if not event.startswith(_COMPILING):
      return
    while self._spans and self._spans[-1][0] >= start:
      first, last = self._spans.pop()
      self.seconds -= last - first
    self._spans.append((start, end))
    self.seconds += end - start
