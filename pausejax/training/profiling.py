"""Traces of chosen steps, and the compiled train step as text.

WORKDIR/profile/plugins/profile/TIME/  traces of process 0 (`jax.profiler`)
WORKDIR/hlo/train_step.N.txt           N-th program compiled since the start
WORKDIR/hlo/train_step.N.memory.json   its memory per device, in bytes
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax

from pausejax import files
from pausejax.config import ProfileConfig
from pausejax.runtime import distributed

_STEP = "train"  # The name of a step in a trace.


class Profiler:
  """Traces the steps that the config chooses, in process 0.

  Attributes:
    seconds: the time that it took to start and to write traces.
  """

  def __init__(
    self, workdir: pathlib.Path, config: ProfileConfig, place: str = ""
  ):
    """Makes a profiler that has not started.

    Args:
      workdir: the folder of the run.
      config: the steps to trace.
      place: the path or URL of the run in messages; default `workdir`.
    """
    self._folder = workdir / "profile"
    self._place = f"{place or workdir}/profile"
    self._first = config.start_step
    self._last = config.start_step + config.num_steps - 1
    self._step = 0  # The last one that was traced.
    self._is_tracing = False
    self.seconds = 0.0

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error) -> None:
    if self._is_tracing:
      self._stop("; the run ended before the last step to trace")

  def note(self, start: int, end: int) -> str:
    """Returns a line if a run writes no trace although one is asked for.

    Args:
      start: the step from which the run starts or resumes.
      end: its last step.
    """
    if not self._first or start < self._first <= end:
      return ""
    which = f"resumes from step {start}" if start else "starts at step 0"
    return (
      f"profile.start_step {self._first}: no trace is written, since the run "
      f"{which} and ends at step {end}; choose {start + 1} to {end}"
    )

  def step(self, step: int, state: Any) -> contextlib.AbstractContextManager:
    """Returns the context of a step; starts the trace before the first one.

    Args:
      step: number of the step, from 1.
      state: the state before it; the trace starts once it is computed.
    """
    if not self._first or distributed.process_index():
      return contextlib.nullcontext()
    if step == self._first:
      jax.block_until_ready(state)
      with self._timed():
        self._folder.mkdir(exist_ok=True)
        jax.profiler.start_trace(self._folder)
      self._is_tracing = True
    self._step = step
    return jax.profiler.StepTraceAnnotation(_STEP, step_num=step)

  def end_step(self, step: int, state: Any) -> None:
    """Ends the trace after the last step to trace.

    Args:
      step: number of the step.
      state: the state after it; the trace ends once it is computed.
    """
    if self._is_tracing and step == self._last:
      jax.block_until_ready(state)
      self._stop()

  def _stop(self, addition: str = "") -> None:
    self._is_tracing = False
    with self._timed():
      jax.profiler.stop_trace()
    print(
      f"steps {self._first} to {self._step}: a trace is in {self._place} "
      f"(docs/tuning.md){addition}"
    )

  @contextlib.contextmanager
  def _timed(self) -> Iterator[None]:
    began = time.perf_counter()
    yield
    self.seconds += time.perf_counter() - began


def with_hlo(
  train_step: Callable[..., Any], workdir: pathlib.Path, place: str
) -> Callable[..., Any]:
  """Returns the train step; each program is written when it is compiled.

  Args:
    train_step: jitted (state, batch) -> (state, metrics).
    workdir: the folder of the run.
    place: its path or URL in messages.
  """
  programs: dict[Any, jax.stages.Compiled] = {}

  def step(state, batch):
    shapes = tuple((k, x.shape, x.dtype) for k, x in sorted(batch.items()))
    if shapes not in programs:
      programs[shapes] = train_step.lower(state, batch).compile()
      if not distributed.process_index():
        name = f"train_step.{len(programs)}.txt"
        _write_program(programs[shapes], workdir / "hlo" / name)
        print(f"the compiled train step is in {place}/hlo/{name}")
    return programs[shapes](state, batch)

  return step


def _write_program(program: jax.stages.Compiled, path: pathlib.Path) -> None:
  """Writes a compiled program and its memory."""
  path.parent.mkdir(exist_ok=True)
  files.write(path, (program.as_text() or "").encode())
  if memory := program.memory_analysis():
    names = [n for n in dir(memory) if n.endswith("_in_bytes")]
    sizes = {name: getattr(memory, name) for name in names}
    path = path.with_suffix(".memory.json")
    files.write(path, json.dumps(sizes, indent=2).encode() + b"\n")
