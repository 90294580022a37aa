"""Compares the train step with that of other trainers, on this CPU.

  python -m benchmarks.step --shape=tiny
  python -m benchmarks.step --shape=gpt2 --config.loss.num_chunks=4
  python -m benchmarks.step --shape=130m --kinds=gpt --arms=pausejax,plain

Forward, backward, clipping and AdamW, float32, on `--threads` cores. Two
models: a GPT (pausejax, the plain JAX trainer, PyTorch eager and compiled) and
a Llama (pausejax, Hugging Face eager and compiled). All arms of a model start
from the same weights and read the same batches; their first three losses must
agree to 1e-4 before the timing. "ratio" is the time of an arm divided by that
of pausejax: above 1, pausejax is faster.

Arms whose package is not installed are listed as missing.
`--config.FIELD=VALUE` changes the config of pausejax, as in training.
"""

import argparse
import itertools

from benchmarks import measure
from benchmarks.arms.shapes import SHAPES, Shape, batches

TOLERANCE = 1e-4  # Nats, float32.
_ARMS = {
  "gpt": ("pausejax", "plain jax", "pytorch eager", "pytorch compiled"),
  "llama": ("pausejax", "hugging face eager", "hugging face compiled"),
}


def main(argv: list[str] | None = None) -> None:
  """Checks the losses, times the steps, prints and writes the result."""
  parser = measure.parser(__doc__, rounds=9)
  add = parser.add_argument
  add("--shape", default="tiny", choices=SHAPES)
  kinds = measure.listed(*_ARMS)
  add("--kinds", type=kinds, default="gpt,llama", help="models")
  add("--arms", default="", help="names or prefixes of names; empty: all")
  add("--threads", type=measure.count, default=2)
  options, overrides = measure.parse(parser, argv)
  names = [name for kind in options.kinds for name in _ARMS[kind]]
  for word in options.arms.split(","):
    if not any(name.startswith(word) for name in names):
      parser.error(f"--arms: no {word!r}; known: {', '.join(names)}")
  measure.set_up_cpu(options.threads)
  start, rows = measure.conditions(), []
  for kind in options.kinds:
    rows += one_kind(kind, SHAPES[options.shape], options, overrides)
  columns = {"median_s": ".4f", "best_s": ".4f", "tokens_per_s": ",.0f"}
  measure.print_table(rows, {**columns, "ratio": ".3f"})
  print(f"load average {start['load_average']}")
  measure.publish("step", options, rows, start=start, overrides=overrides)


def one_kind(
  kind: str, shape: Shape, options: argparse.Namespace, overrides: list[str]
) -> list[measure.Row]:
  """Returns a row for each arm of a "gpt" or a "llama"."""
  from benchmarks.arms import ours

  config = ours.config(shape, kind, overrides)
  base = ours.Trainer(config, shape.vocab_size)
  makers = peers(kind, config, base)
  prefixes = tuple(options.arms.split(","))
  trainers, missing = measure.build(
    {n: make for n, make in makers.items() if n.startswith(prefixes)}
  )
  trainers = {"pausejax": base, **trainers}
  data = batches(shape, 4)
  require_same_losses(trainers, data)
  turn = lambda trainer, feed: lambda: trainer.step(next(feed))
  taken = measure.take_turns(
    {n: turn(t, itertools.cycle(data)) for n, t in trainers.items()},
    rounds=options.rounds,
  )
  rows = measure.compare(taken, "pausejax")
  for row in rows:
    row["tokens_per_s"] = shape.num_tokens / row["median_s"]
  return [{**r, "name": f"{kind}: {r['name']}"} for r in rows + missing]


def peers(kind: str, config, base) -> dict:
  """Returns name -> constructor of the other arms, from `base`'s weights."""
  from benchmarks.arms import ours

  start = ours.weights(base.state.model)

  def plain():
    from benchmarks.arms import plain

    return plain.Trainer(config, start)

  def torch(compiled: bool):
    import torch

    from benchmarks.arms import pytorch

    torch.set_num_threads(len(measure.cores()))
    make = getattr(pytorch, kind)
    model = make(base.model_config, start)
    return pytorch.Trainer(model, config, compiled=compiled)

  if kind == "llama":
    return {
      "hugging face eager": lambda: torch(False),
      "hugging face compiled": lambda: torch(True),
    }
  return {
    "plain jax": plain,
    "pytorch eager": lambda: torch(False),
    "pytorch compiled": lambda: torch(True),
  }


def require_same_losses(trainers: dict, data: list) -> None:
  """Takes three steps with every arm and compares their losses."""
  first = {
    name: [trainer.step(batch) for batch in data[:3]]
    for name, trainer in trainers.items()
  }
  for name, losses in first.items():
    print(f"{name:24}", *(f"{loss:.5f}" for loss in losses), flush=True)
    for ours, theirs in zip(first["pausejax"], losses, strict=True):
      if not abs(ours - theirs) <= TOLERANCE:
        raise SystemExit(f"{name}: loss {theirs}, pausejax {ours}: they differ")


if __name__ == "__main__":
  main()
