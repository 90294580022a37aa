"""Measures how time and memory grow with layers, width, length and devices.

  python -m benchmarks.growth
  python -m benchmarks.growth --config.model.scan_unroll=1 --config.mesh.fsdp=-1

One size of a small shape is changed at a time, with the same batch. The devices
are virtual and share the cores, so only memory per device and compile time are
meaningful across devices. "ratio" is the time of a step divided by that of the
first point; all points take turns.
"""

import argparse
import dataclasses
import itertools
import os

from benchmarks import measure
from benchmarks.arms.shapes import Shape, batches

MIB = 2**20
START = Shape(
  num_layers=2,
  d_model=128,
  num_heads=4,
  seq_len=128,
  vocab_size=4096,
  batch_size=8,
)


def main(argv: list[str] | None = None) -> None:
  """Measures everything and prints it."""
  parser = measure.parser(__doc__, rounds=5)
  add = parser.add_argument
  add("--layers", default="4,8,16")
  add("--widths", default="256,512")
  add("--lengths", default="256,512")
  add("--devices", default="2,4,8")
  add("--threads", type=int, default=2)
  options, overrides = measure.parse(parser, argv)
  use_virtual_devices(max(numbers(options.devices), default=1))
  measure.set_up_cpu(options.threads)  # Reads the number of devices.
  start = measure.conditions()
  rows = measure_points(options, overrides)
  columns = {"median_s": ".4f", "ratio": ".2f", "compile_s": ".2f"}
  measure.print_table(rows, {**columns, "mib_a_device": ",.1f"})
  measure.publish("growth", options, rows, start=start, overrides=overrides)


def use_virtual_devices(count: int) -> None:
  """Splits the CPU into virtual devices; call it before JAX starts."""
  flag = f"--xla_force_host_platform_device_count={count}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def numbers(text: str) -> list[int]:
  """Returns the comma-separated whole numbers."""
  return [int(part) for part in text.split(",") if part]


def points(options: argparse.Namespace) -> dict[str, tuple[Shape, int]]:
  """Returns name -> (shape, number of devices) of every point."""
  change = lambda **fields: (dataclasses.replace(START, **fields), 1)
  made = {"start": (START, 1)}
  for n in numbers(options.layers):
    made[f"{n} layers"] = change(num_layers=n)
  for n in numbers(options.widths):
    made[f"d_model {n}"] = change(d_model=n)
  for n in numbers(options.lengths):
    made[f"seq_len {n}"] = change(seq_len=n)
  for n in numbers(options.devices):
    made[f"{n} devices"] = (START, n)
  return made


def measure_points(
  options: argparse.Namespace, overrides: list[str]
) -> list[measure.Row]:
  """Returns one row per point."""
  import jax

  from benchmarks.arms import ours

  arms, more = {}, {}
  for name, (shape, num_devices) in points(options).items():
    devices = jax.devices()[:num_devices]
    config = ours.config(shape, overrides=overrides)
    trainer = ours.Trainer(config, shape.vocab_size, devices)
    data = batches(shape, 2)
    compile_s, needed = trainer.compile(data[0])
    more[name] = {"compile_s": compile_s, "mib_a_device": needed / MIB}
    feed = itertools.cycle(data)
    arms[name] = lambda t=trainer, f=feed: t.step(next(f))
  rows = measure.compare(
    measure.take_turns(arms, rounds=options.rounds), "start"
  )
  return [{**row, **more[row["name"]]} for row in rows]


if __name__ == "__main__":
  main()
