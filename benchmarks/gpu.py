"""Measures training and decoding on one accelerator, in eight minutes.

  python -m benchmarks.gpu --json=gpu.json
  python -m benchmarks.gpu --json=gpu.json --parts="ceiling,ours 1b"
  python -m benchmarks.gpu --json=gpu.json --rows=64 --trials product default \
    --parts="ceiling,ours 130m,ours 130m"      # two rounds of a few trials
  python -m benchmarks.gpu --json=smoke.json --smoke   # anywhere, toy sizes

Matrix products (the ceiling), train steps of 130m and 1b (batch sizes, unrolled
layers, pauses, a Llama, attention, rematerialization, chunks of the loss, the
plain JAX trainer), the same steps in PyTorch and Hugging Face's Llama, and
decoding. Random ids; bfloat16 with float32 parameters in every arm.

Each part runs in a separate process, which frees all memory at its end, and has
a share of the remaining time. A trial that fails or does not fit also gets a
row, and every row is written as soon as it is measured. Needs jax, flax, optax
and ml_collections (pure Python: on a machine without it, put its wheel on
PYTHONPATH), and PyTorch and transformers for their arms.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from benchmarks import measure, trials

# Part -> its share of the time.
SHARES = {
  "ceiling": 1.0,
  "ours 130m": 6.0,
  "pytorch 130m": 3.5,
  "ours 1b": 10.0,
  "pytorch 1b": 5.5,
  "hugging face 130m": 3.0,
  "hugging face 1b": 6.0,
  "decode": 5.0,
}


def main(argv: list[str] | None = None) -> None:
  """Runs all parts in separate processes, or one part in this process."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--json", type=measure.result_file, required=True, help="for the result")
  add("--minutes", type=float, default=7.8, help="for all parts together")
  add("--parts", default="", help="names, comma-separated; empty: all")
  add("--rows", type=int, default=0, help="batch size; 0: search it")
  add("--trials", nargs="*", default=[], help="words of names, with --rows")
  add("--smoke", action="store_true", help="toy shapes, as a test")
  add("--without", default="", help="packages not to use, comma-separated")
  add("--part", choices=SHARES, help=argparse.SUPPRESS)
  add("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  parts = options.parts.split(",") if options.parts else list(SHARES)
  unknown = set(parts) - set(SHARES)
  if unknown:
    parser.error(f"--parts: no {sorted(unknown)} (known: {list(SHARES)})")
  if options.smoke:
    # Both sizes have the same toy shape.
    parts = [part for part in parts if not part.endswith("1b")]
  if options.part:
    run_part(options)
  else:
    run_all(options, parts)


def run_all(options: argparse.Namespace, names: list[str]) -> None:
  """Starts one process per part, then prints the table."""
  options.json = options.json.resolve()
  settings = {k: str(v) for k, v in vars(options).items()}
  record = {"benchmark": "gpu", "options": settings, "rows": []}
  trials.write(options.json, {**record, "start": measure.conditions()})
  end = time.monotonic() + 60 * options.minutes
  for i, name in enumerate(names):
    left = end - time.monotonic()
    share = left * SHARES[name] / sum(SHARES[n] for n in names[i:])
    start_part(options, name, share, min(1.3 * share, left))
  print_rows(json.loads(options.json.read_text())["rows"])
  print(f"the result is {options.json}")


def start_part(
  options: argparse.Namespace, name: str, soft: float, hard: float
) -> None:
  """Runs a part: no new trial after `soft` seconds, stopped after `hard`."""
  words = [f"--json={options.json}", f"--part={name}", f"--seconds={soft}"]
  words += [f"--without={options.without}"] + ["--smoke"] * options.smoke
  words += [f"--rows={options.rows}", "--trials", *options.trials]
  failure = ""
  try:
    subprocess.run(
      [sys.executable, "-m", "benchmarks.gpu", *words],
      env={**os.environ, **environment(name)},
      timeout=max(hard, 1.0),
      check=True,
    )
  except subprocess.TimeoutExpired:
    failure = f"stopped after {hard:.0f} s"
  except subprocess.CalledProcessError as e:
    failure = f"exit code {e.returncode}"
  if failure:
    row = {"part": name, "name": "the part itself", "failed": failure}
    trials.append(options.json, row)


def environment(part: str) -> dict[str, str]:
  """Returns how JAX shares the device's memory in the process of a part."""
  if part.startswith("ours"):
    # It has the device alone; cuBLAS, cuDNN and CUDA use the rest.
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
  if part == "decode":
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  return {} if part == "ceiling" else {"JAX_PLATFORMS": "cpu"}


def run_part(options: argparse.Namespace) -> None:
  """Measures one part, in this process."""
  for package in filter(None, options.without.split(",")):
    sys.modules[package] = None  # type: ignore[assignment]
  from benchmarks import gpu_parts

  session = trials.Session(
    options.json, options.part, options.seconds, options.trials
  )
  plan = gpu_parts.plan(options.smoke, options.rows)
  try:
    gpu_parts.run(options.part, session, plan)
  except trials.OutOfTime:
    print(f"[{options.part}] out of time", flush=True)
  except ModuleNotFoundError as e:
    row = {"part": options.part, "name": "the part itself"}
    missing = {"missing": f"{e.name} is not installed"}
    trials.append(options.json, {**row, **missing})


def print_rows(rows: list[measure.Row]) -> None:
  """Prints the table of all parts."""
  columns = {
    "tokens_per_s": ",.0f",
    "of_ceiling": ".1%",
    "of_datasheet": ".1%",
    "of_datasheet_full_attention": ".1%",
    "memory_gib": ".1f",
    "compile_s": ".1f",
    "tflops": ",.1f",
    "gb_per_s": ",.0f",
  }
  labeled = [{**row, "name": f"{row['part']}: {row['name']}"} for row in rows]
  measure.print_table(
    [
      {**row, "missing": row["failed"]} if "failed" in row else row
      for row in labeled
    ],
    columns,
  )


if __name__ == "__main__":
  main()
