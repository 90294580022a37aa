"""What pauses cost at inference: seconds an answer with M pauses and without.

  python -m benchmarks.inference
  python -m benchmarks.inference --size=tiny --batch_size=8 --pauses=10

Random weights, an answer of a fixed length (there is no EOS), greedy. The
variants take turns, so that a busy machine slows all of them; medians are
compared, and the fastest of each. A pause is read together with the prompt and
costs no step of its own. Every step reads all the weights of the blocks and the
head; the floor is that reading alone, at the speed of one long sum.

Prints a table and, below it, the same as one line of JSON.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from pausejax import pause, settings
from pausejax.inference import decode
from pausejax.model import decoder

VOCAB_SIZE = 32_129
PAUSE_ID = VOCAB_SIZE - 1


def random_model(size: str) -> decoder.Decoder:
  """Returns a decoder of a size; float32 where bfloat16 is only emulated."""
  config = base.get_config()
  config.model.update(base.SIZES[size])
  if jax.default_backend() == "cpu":
    config.model.dtype = "float32"
  fields = settings.ModelConfig(vocab_size=VOCAB_SIZE, **config.model.to_dict())
  rng = np.random.default_rng(0)
  draw = lambda x: 0.02 * rng.standard_normal(x.shape, np.float32)
  shapes = jax.eval_shape(lambda: decoder.init(fields, 0))
  return jax.tree.map(lambda x: jnp.asarray(draw(x)), shapes)


def answer(model: decoder.Decoder, options, num_pauses: int):
  """Returns a function that makes one batch of answers and waits for it."""
  rng = np.random.default_rng(0)
  rows = [
    pause.append_pauses(prompt, num_pauses, PAUSE_ID)
    for prompt in rng.integers(
      3, PAUSE_ID, (options.batch_size, options.prompt_len)
    )
  ]
  width = options.prompt_len + num_pauses
  tokens_BT, is_real_BT = decode.left_pad(rows, width=width, pad_id=0)

  def run() -> None:
    decode.generate(
      model,
      tokens_BT,
      is_real_BT,
      is_real_BT,
      jax.random.key(0),
      num_new=options.new_tokens,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=-1,
      pause_id=PAUSE_ID,
    ).block_until_ready()

  return run


def seconds(run) -> float:
  """Returns the wall-clock seconds of one call."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def reading_seconds(model: decoder.Decoder) -> float:
  """Returns how long one step must take: the weights that it reads, summed."""
  matrices = (model.blocks, model.head_DV())
  num_bytes = sum(
    x.size * np.dtype(model.config.dtype).itemsize
    for x in jax.tree.leaves(matrices)
  )
  words = jnp.ones(num_bytes // 4, jnp.float32)
  total = jax.jit(jnp.sum)
  read = lambda: total(words).block_until_ready()
  return min(seconds(read) for _ in range(6))


def main() -> None:
  """Measures everything and prints it."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--size", default="130m", choices=base.SIZES)
  add("--batch_size", type=int, default=1)
  add("--prompt_len", type=int, default=128)
  add("--new_tokens", type=int, default=128)
  add("--pauses", default="10,50", help="numbers of pauses, with commas")
  add("--rounds", type=int, default=7, help="answers of each kind")
  options = parser.parse_args()
  model = random_model(options.size)
  counts = [0, *map(int, options.pauses.split(","))]
  runs = {m: answer(model, options, m) for m in counts}
  for run in runs.values():
    run()  # Compiles.
  taken = {m: [] for m in counts}
  for i in range(options.rounds):
    for m in counts[:: -1 if i % 2 else 1]:
      taken[m].append(seconds(runs[m]))
  report(options, taken, reading_seconds(model))


def against(choose, times: list[float], base_times: list[float]):
  """Returns what `choose` makes of the times, and its ratio to the base's."""
  chosen = choose(times)
  return chosen, chosen / choose(base_times)


def report(options, taken: dict[int, list[float]], floor: float) -> None:
  """Prints the table and the JSON."""
  columns = ("pauses", "median s", "ratio", "fastest s", "ratio", "ms a token")
  print(" ".join(f"{c:>10}" for c in columns))
  rows = []
  for num_pauses, times in taken.items():
    median, ratio = against(statistics.median, times, taken[0])
    fastest, ratio_of_fastest = against(min, times, taken[0])
    per_token = 1e3 * median / options.new_tokens
    print(
      f"{num_pauses:10} {median:10.3f} {ratio:10.3f} {fastest:10.3f} "
      f"{ratio_of_fastest:10.3f} {per_token:10.2f}"
    )
    rows.append(dict(pauses=num_pauses, seconds=times, ratio=ratio))
  print(f"floor: {1e3 * floor:.2f} ms a token to read the weights once")
  device = jax.devices()[0].device_kind
  record = {**vars(options), "device": device, "rows": rows, "floor": floor}
  print(json.dumps(record))


if __name__ == "__main__":
  main()
