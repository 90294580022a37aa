"""Timing and reports of all benchmarks: turns, medians, ratios, JSON.

The arms of a comparison run in one process and take turns, so that other load
on the machine slows all of them; each round starts with the next arm. A ratio
is the median over rounds of the time of an arm divided by that of the base in
the same round, not a quotient of two medians.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pausejax.runtime import heap

Row = dict[str, Any]

_RECORDED = ("XLA_", "JAX_", "MALLOC_", "GLIBC_")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
  """Returns a parser with the options that every benchmark has."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--rounds", type=count, default=rounds, help="turns of each arm")
  add("--json", type=result_file, help="file for the result, or print it")
  return parser


def count(text: str) -> int:
  """Returns a number of at least 1; a type of argparse."""
  if not (text.isascii() and text.isdecimal() and int(text) > 0):
    raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
  return int(text)


def listed(*known: str) -> Callable[[str], list[str]]:
  """Returns a type of argparse: a comma-separated list of known words."""

  def parse(text: str) -> list[str]:
    words = list(filter(None, text.split(",")))
    for word in words:
      if word not in known:
        raise argparse.ArgumentTypeError(
          f"no {word!r}; known: {', '.join(known)}"
        )
    return words

  return parse


def result_file(text: str) -> pathlib.Path:
  """Returns the path of a file that can be written; a type of argparse."""
  path = pathlib.Path(text)
  if path.is_dir() or not path.parent.is_dir():
    raise argparse.ArgumentTypeError(f"no file can be written at {text!r}")
  return path


def parse(
  parser: argparse.ArgumentParser, argv: list[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the options and every --config.FIELD=VALUE among them."""
  options, overrides = parser.parse_known_args(argv)
  unknown = [a for a in overrides if not a.startswith("--config.")]
  if unknown:
    parser.error(f"unknown: {' '.join(unknown)}")
  return options, overrides


def cores() -> list[int]:
  """Returns the cores that this process may use."""
  return sorted(os.sched_getaffinity(0))


def set_up_cpu(num_threads: int) -> None:
  """Limits this process to some cores, and keeps the memory that it frees.

  Call it before JAX starts. `pausejax train` keeps memory, too; here it is kept
  for all arms of a benchmark.
  """
  os.sched_setaffinity(0, cores()[:num_threads])
  os.environ["OMP_NUM_THREADS"] = str(num_threads)
  heap.keep_freed_memory()


def seconds(run: Callable[[], Any]) -> float:
  """Returns the wall-clock seconds of one call."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def take_turns(
  arms: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
  """Returns the seconds of each arm's turns, one per round.

  Args:
    arms: name -> a function that returns when its work is done.
    rounds: measured turns of each arm.
    warmup: turns of each arm before them, which compile and are not measured.
  """
  for run in arms.values():
    for _ in range(warmup):
      run()
  taken: dict[str, list[float]] = {name: [] for name in arms}
  names = list(arms)
  for i in range(rounds):
    first = i % len(names)
    for name in names[first:] + names[:first]:
      taken[name].append(seconds(arms[name]))
  return taken


def step_seconds(
  dispatch: Callable[[], Any], *, steps: int, warmup: int
) -> list[float]:
  """Returns the seconds from each step to the next, as a training loop runs.

  Args:
    dispatch: starts a step and returns its loss, for which `float` waits.
    steps: measured steps.
    warmup: steps before them.
  """
  times, pending = [], dispatch()
  for _ in range(warmup + steps):
    # The loss of a step is read after the next step is dispatched.
    started, pending = pending, dispatch()
    float(started)
    times.append(time.perf_counter())
  float(pending)
  ends = times[warmup - 1 :]
  return [b - a for a, b in itertools.pairwise(ends)]


def compare(taken: Mapping[str, list[float]], base: str) -> list[Row]:
  """Returns one row per arm: times, their median and the ratio to `base`."""
  return [
    {
      "name": name,
      "median_s": statistics.median(times),
      "best_s": min(times),
      "ratio": statistics.median(
        t / b for t, b in zip(times, taken[base], strict=True)
      ),
      "seconds": times,
    }
    for name, times in taken.items()
  ]


def build(
  makers: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Any], list[Row]]:
  """Builds the arms; an arm whose package is not installed becomes a row."""
  arms, missing = {}, []
  for name, make in makers.items():
    try:
      arms[name] = make()
    except ModuleNotFoundError as e:
      missing.append({"name": name, "missing": f"{e.name} is not installed"})
  return arms, missing


def conditions() -> Row:
  """Returns the conditions of a result: load average, machine, versions."""
  return {
    "load_average": os.getloadavg(),
    "cores": len(cores()),
    "machine": platform.machine(),
    "python": platform.python_version(),
    "environment": {
      k: v for k, v in os.environ.items() if k.startswith(_RECORDED)
    },
    "versions": {name: _version(name) for name in _PACKAGES},
  }


def print_table(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
  """Prints rows under the names of `columns`: key -> format of its values.

  A row without a value shows a dash, and a "missing" row shows the reason.
  """
  width = max(len(str(row["name"])) for row in rows)
  print(" " * width + "".join(f" {_title(key):>14}" for key in columns))
  for row in rows:
    cells = (
      f"{row[key]:>14{form}}" if key in row else f"{'-':>14}"
      for key, form in columns.items()
    )
    text = row.get("missing") or " ".join(cells)
    print(f"{row['name']:{width}} {text}", flush=True)


def publish(
  name: str, options: argparse.Namespace, rows: Sequence[Row], **more: Any
) -> None:
  """Writes the result as JSON to --json, or prints it as one line.

  Args:
    name: name of the benchmark.
      options: its command-line options.
      rows: the measured rows.
      **more: further entries, such as `start`, the `conditions` before the
      first turn; those at the end are added here.
  """
  record = {
    "benchmark": name,
    "options": {k: str(v) for k, v in vars(options).items()},
    **more,
    "end": conditions(),
    "rows": rows,
  }
  if options.json:
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    print(f"the result is {options.json}")
  else:
    print(json.dumps(record))


def _title(key: str) -> str:
  return key.replace("_", " ")


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"
