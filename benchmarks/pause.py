"""Compares a train step with pauses and the same step on text only.

  python -m benchmarks.pause --shape=tiny
  python -m benchmarks.pause --shape=gpt2 --fraction=0.1

One state and one compiled program alternate between batches of text and batches
with `<pause>`, never a target, at 10% of the positions. "ratio" is the time of
the pause step divided by that of the standard step.
"""

import itertools

from benchmarks import measure
from benchmarks.arms.shapes import SHAPES, batches


def main(argv: list[str] | None = None) -> None:
  """Times both steps, prints and writes the result."""
  parser = measure.parser(__doc__, rounds=15)
  add = parser.add_argument
  add("--shape", default="tiny", choices=SHAPES)
  add("--fraction", type=float, default=0.1, help="pauses per position")
  add("--threads", type=int, default=2)
  options = parser.parse_args(argv)
  measure.set_up_cpu(options.threads)
  start = measure.conditions()
  rows = measure_both(SHAPES[options.shape], options.fraction, options.rounds)
  columns = {"median_s": ".4f", "best_s": ".4f", "ratio": ".3f"}
  measure.print_table(rows, {**columns, "targets": ".1%"})
  measure.publish("pause", options, rows, start=start)


def measure_both(shape, fraction: float, rounds: int) -> list[measure.Row]:
  """Returns a row for the standard and one for the pause step."""
  from benchmarks.arms import ours

  trainer = ours.Trainer(ours.config(shape), shape.vocab_size)
  data = {
    "standard": batches(shape, 4),
    "pause": batches(shape, 4, pause_fraction=fraction),
  }
  turn = lambda feed: lambda: trainer.step(next(feed))
  arms = {name: turn(itertools.cycle(made)) for name, made in data.items()}
  taken = measure.take_turns(arms, rounds=rounds, warmup=2)
  rows = measure.compare(taken, "standard")
  targets = lambda name: float(data[name][0]["loss_mask"].mean())
  return [{**row, "targets": targets(row["name"])} for row in rows]


if __name__ == "__main__":
  main()
