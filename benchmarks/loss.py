"""Compares the loss and its gradients with full logits: time and memory.

  python -m benchmarks.loss
  python -m benchmarks.loss --tokens=4096 --d_model=2048 --dtype=bfloat16

Forward and backward pass of a head with a vocabulary of 32,768 on given
vectors. 90% of the targets count, as in pretraining with pauses, or 3%, as in
finetuning, where the head is computed only at counted positions ("chosen", as
the train step chooses them from a packed batch). The naive arm computes the
full logits, and JAX differentiates optax's cross entropy. All gradients must
agree before the timing. Memory is that of the compiled program without its
arguments and results.

B batch, T tokens, K chosen positions of a row, D d_model, V vocabulary rows.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from pausejax import losses

VOCAB_SIZE = 32_768
MIB = 2**20


def main(argv: list[str] | None = None) -> None:
  """Measures everything and prints it."""
  parser = measure.parser(__doc__, rounds=7)
  add = parser.add_argument
  add("--batch_size", type=int, default=4)
  add("--tokens", type=int, default=1024, help="positions of a row")
  add("--d_model", type=int, default=768)
  add("--vocab_size", type=int, default=VOCAB_SIZE)
  add("--chunks", default="8,16", help="numbers of chunks, comma-separated")
  add("--dtype", default="float32", choices=("float32", "bfloat16"))
  add("--threads", type=int, default=2)
  options = parser.parse_args(argv)
  measure.set_up_cpu(options.threads)
  start = measure.conditions()
  rows = [row for f in (0.9, 0.03) for row in one_fraction(f, options)]
  columns = {"median_s": ".4f", "ratio": ".3f", "temporary_mib": ",.1f"}
  measure.print_table(rows, {**columns, "memory_ratio": ".3f"})
  measure.publish("loss", options, rows, start=start)


def one_fraction(
  fraction: float, options: argparse.Namespace
) -> list[measure.Row]:
  """Returns one row per arm for a fraction of counted targets."""
  args = inputs(fraction, options)
  functions = {"full logits": naive}
  for chunks in map(int, options.chunks.split(",")):
    functions[f"{chunks} chunks"] = functools.partial(
      chunked, num_chunks=chunks
    )
  if fraction < 0.5:
    positions_BK = counted_positions(np.asarray(args[-1]))
    functions["chosen"] = functools.partial(chosen, positions_BK=positions_BK)
  compiled = {
    name: jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(*args).compile()
    for name, f in functions.items()
  }
  require_same(compiled, args)
  taken = measure.take_turns(
    {
      name: lambda run=run: jax.block_until_ready(run(*args))
      for name, run in compiled.items()
    },
    rounds=options.rounds,
  )
  rows = measure.compare(taken, "full logits")
  for row in rows:
    memory = compiled[row["name"]].memory_analysis()
    row["temporary_mib"] = memory.temp_size_in_bytes / MIB
    row["memory_ratio"] = row["temporary_mib"] / rows[0]["temporary_mib"]
  return [{**row, "name": f"{fraction:.0%}: {row['name']}"} for row in rows]


def inputs(fraction: float, options: argparse.Namespace) -> tuple:
  """Returns (x_BTD, head_DV, targets_BT, mask_BT), random."""
  rng = np.random.default_rng(0)
  shape = (options.batch_size, options.tokens)
  normal = lambda *size: rng.standard_normal(size, np.float32)
  return (
    jnp.asarray(normal(*shape, options.d_model), options.dtype),
    jnp.asarray(0.02 * normal(options.d_model, options.vocab_size)),
    jnp.asarray(rng.integers(0, options.vocab_size, shape, dtype=np.int32)),
    jnp.asarray(rng.random(shape) < fraction),
  )


def naive(x_BTD, head_DV, targets_BT, mask_BT):
  """Returns the summed loss from the full logits."""
  logits_BTV = jnp.matmul(
    x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32
  )
  nll_BT = optax.softmax_cross_entropy_with_integer_labels(
    logits_BTV, targets_BT
  )
  return jnp.sum(jnp.where(mask_BT, nll_BT, 0.0))


def chunked(x_BTD, head_DV, targets_BT, mask_BT, *, num_chunks):
  """Returns the summed loss of `pausejax.losses`."""
  objective, _ = losses.cross_entropy(
    x_BTD,
    head_DV,
    targets_BT,
    mask_BT,
    finish=lambda products: products,  # Every row is an id.
    num_chunks=num_chunks,
    z_loss=0.0,
  )
  return objective


def chosen(x_BTD, head_DV, targets_BT, mask_BT, *, positions_BK):
  """Returns the same loss, with the head at the chosen positions only."""
  rows_B1 = np.arange(len(positions_BK))[:, None]
  picked = (x[rows_B1, positions_BK] for x in (x_BTD, targets_BT, mask_BT))
  x_BKD, targets_BK, mask_BK = picked
  args = x_BKD, head_DV, targets_BK, mask_BK
  return chunked(*args, num_chunks=1)


def counted_positions(mask_BT: np.ndarray) -> np.ndarray:
  """Returns int32 [B, K], "counted" of `data.batch.packed_batch`."""
  num_chosen = -(-int(mask_BT.sum(axis=1).max()) // 8) * 8
  order_BT = np.argsort(~mask_BT, axis=1, kind="stable")
  return order_BT[:, :num_chosen]


def require_same(compiled: dict, args: tuple) -> None:
  """Compares values and gradients of all arms with those of the naive one."""
  tolerance = 2e-4 if args[0].dtype == jnp.float32 else 5e-2
  value, grads = compiled["full logits"](*args)
  for name, run in compiled.items():
    loss, loss_grads = run(*args)
    pairs = zip((loss, *loss_grads), (value, *grads), strict=True)
    for a, b in pairs:
      difference = float(jnp.max(jnp.abs(a - b))) / float(jnp.max(jnp.abs(b)))
      if not difference <= tolerance:
        raise SystemExit(f"{name}: differs by {difference:.2g} of full logits")


if __name__ == "__main__":
  main()
