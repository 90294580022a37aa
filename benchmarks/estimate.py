"""Estimated step times on TPUs, by libtpu's own cost model, without a TPU.

  python -m benchmarks.estimate --json=estimate.json
  python -m benchmarks.estimate --json=estimate.json --chips=v5e --sizes=1b \\
    --devices=256 --rows=4 --remat=names,full --attention=auto,xla

Each arm is a train step of `configs/pretrain_c4.py` that is compiled for a chip
and estimated as by `pausejax preflight --estimate`, whose assumptions hold: all
combinations of the lists. The product of each chip is its calibration: a plain
bfloat16 product of 8192 x 8192 in the same model.

`--arms=ours,plain,levanter` compares with other trainers, at the same shape,
batch and compiler options: a plain JAX trainer, and levanter (pip install
marin-levanter gitpython, in an environment of its own) with its defaults. Both
are GPT's, and levanter's has tied embeddings:

  python -m benchmarks.estimate --json=peers.json --arms=ours,plain,levanter \\
    --chips=v5e --sizes=130m --rows=8 --config.model.tied_embeddings=true

An arm takes minutes to compile (1b: 3 to 8), so each row is written as it is
measured, and the rows that the file already has are not measured again.
`--config.FIELD=VALUE` changes the config of all arms; use another file then.
`--sizes=` measures the products alone.
Needs libtpu (make env EXTRA=tpu).
"""

import argparse
import dataclasses
import functools
import importlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

from benchmarks import measure, trials
from pausejax import errors
from pausejax.preflight import compilers, topologies

_SIZE = 8192  # Of the product.
_COLUMNS = {
  "step_ms": ",.1f",
  "products": ".1%",
  "attention": ".1%",
  "collectives_ms": ",.1f",
  "mfu": ".1%",
  "mfu_whole": ".1%",
  "of_product": ".1%",
  "gib": ",.2f",
}


def main(argv: list[str] | None = None) -> None:
  """Estimates the arms that the file lacks, then prints its table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--json", type=measure.result_file, required=True, help="for the result")
  words = measure.listed
  chips = words("v5e", "v6e", "v5p", "v4")
  add("--chips", type=chips, default="v5e,v6e,v5p,v4", help="of TPUs")
  sizes = words("tiny", "130m", "1b")
  add("--sizes", type=sizes, default="130m,1b", help="of the model")
  arms = words("ours", "plain", "levanter")
  add("--arms", type=arms, default="ours", help="ours, plain, levanter")
  add("--devices", type=_counts, default="8", help="JAX devices, all in fsdp")
  add("--rows", type=_counts, default="4", help="rows per device")
  remat = words("none", "names", "full")
  add("--remat", type=remat, default="names", help="model.remat")
  attention = words("auto", "xla", "splash")
  add("--attention", type=attention, default="auto", help="model.attention")
  options, overrides = measure.parse(parser, argv)
  if not compilers.installed(topologies.parse_topology("v5e-1"))[0]:
    parser.error("libtpu is not installed: make env EXTRA=tpu")
  arms = list(arms_of(options))
  try:  # A wrong name is refused before anything is measured.
    for name, *_ in arms:
      topologies.parse_topology(name)
  except errors.UserError as e:
    parser.error(f"--devices: {e.message}")
  os.environ.update(compilers.ENVIRONMENT)
  if not options.json.exists():
    trials.write(options.json, {"benchmark": "estimate", "rows": []})
  session = trials.Session(options.json, "estimate", float("inf"))
  for chip in options.chips:
    run(session, f"{chip} product", functools.partial(product, chip))
  for topology, size, rows, *arm in arms:
    name = " ".join([topology, size, "rows", rows, *arm])
    run(
      session,
      name,
      functools.partial(train_step, topology, size, rows, arm, overrides),
    )
  show(session.rows())


def _counts(text: str) -> list[str]:
  return [str(measure.count(part)) for part in text.split(",")]


def arms_of(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
  """Yields (topology, size, rows, remat, attention), or an arm's name last."""
  o = options
  for arm in o.arms:
    choices = [o.remat, o.attention] if arm == "ours" else [[arm]]
    for chip, count, *rest in itertools.product(
      o.chips, o.devices, o.sizes, o.rows, *choices
    ):
      yield (topology_name(chip, int(count)), *rest)


def run(session: trials.Session, name: str, arm) -> None:
  """Measures an arm unless the file has its result."""
  done = {row["name"] for row in session.rows() if "failed" not in row}
  if name not in done:
    session.trial(name, arm)


def topology_name(chip: str, num_devices: int) -> str:
  """Returns the name of a slice with so many JAX devices."""
  cores = 2 if chip in ("v4", "v5p") else 1
  return f"{chip}-{cores * num_devices}"


def product(chip: str) -> trials.Row:
  """Returns the share of the peak that a plain product gets in the model."""
  import jax
  import jax.numpy as jnp

  from pausejax.preflight.estimate import estimate

  smallest = 8 if chip in ("v4", "v5p") else 1
  topology = topologies.parse_topology(f"{chip}-{smallest}")
  device = topologies.described_devices(topology)[0]
  layout = jax.sharding.SingleDeviceSharding(device)
  x = jax.ShapeDtypeStruct((_SIZE, _SIZE), jnp.bfloat16, sharding=layout)
  text = jax.jit(jnp.matmul).lower(x, x).compile().as_text()
  seconds = estimate(text or "", topology.chip)
  share = 2 * _SIZE**3 / seconds.product_seconds / topology.chip.peak_flops
  return {"step_ms": 1e3 * seconds.product_seconds, "mfu": share}


def train_step(
  topology_name: str,
  size: str,
  rows: str,
  arm: list[str],
  overrides: list[str],
) -> trials.Row:
  """Returns the estimate of one train step.

  Args:
    topology_name: what it is compiled for.
    size: of the model.
    rows: per device.
    arm: [remat, attention] of ours, or the name of a peer.
    overrides: changes of the config.
  """
  import jax

  from pausejax import commandline, config, sharding
  from pausejax.preflight.estimated_step import estimated_step
  from pausejax.training import ahead

  topology = topologies.parse_topology(topology_name)
  devices = topologies.described_devices(topology)
  chosen = zip(("remat", "attention"), arm, strict=True) if arm[1:] else ()
  words = [
    f"--config=pretrain_c4:size={size}",
    f"--config.batch_size={int(rows) * topology.num_devices}",
    *(f"--config.model.{field}={value}" for field, value in chosen),
    *("--config.mesh.data=1", "--config.mesh.fsdp=-1", *overrides),
  ]
  parser = commandline.Parser("estimate", __doc__, config=True)
  run_config = config.train_config(parser.parse(words)[1].to_dict())
  model = dataclasses.replace(run_config.model_config(32_129), dtype="bfloat16")
  mesh = sharding.make_mesh(run_config.mesh, devices)
  if chosen:
    with jax.set_mesh(mesh):
      verdict = ahead.compile_step(run_config, model)
  else:
    peer = importlib.import_module(f"benchmarks.arms.{arm[0]}")
    require_gpt(model)
    verdict = ahead.compile_lowered(
      peer.lower(run_config, model, devices), batch_size=run_config.batch_size
    )
  gib = verdict.needed_bytes / 2**30
  if verdict.is_refused:
    return {"missing": f"it does not fit: {gib:.2f} GiB"}
  step = estimated_step(
    verdict.hlo_text, run_config, model, topology, list(mesh.devices.flat)
  )
  return {**columns(step.as_data()), "gib": gib, "estimate": step.as_data()}


def require_gpt(model: Any) -> None:
  """Raises ValueError for a model that is not GPT's."""
  chosen = model.position, model.norm, model.mlp
  if chosen != ("learned", "layernorm", "gelu"):
    raise ValueError(f"the other trainers are GPT's, not {', '.join(chosen)}")


def columns(data: dict) -> trials.Row:
  """Returns the columns of the table; shares are of the computing time."""
  parts = ("product", "attention", "other", "unpriced")
  total = sum(data[f"{part}_seconds"] for part in parts)
  return {
    "step_ms": 1e3 * data["step_seconds"],
    "products": data["product_seconds"] / total,
    "attention": data["attention_seconds"] / total,
    "collectives_ms": 1e3 * sum(data["collective_seconds"].values()),
    "mfu": data["mfu"]["causal"],
    "mfu_whole": data["mfu"]["whole"],
    "of_product": data["mfu"]["causal_calibrated"],
  }


def show(rows: list[trials.Row]) -> None:
  """Prints the table, the last result of each arm."""
  latest = {row["name"]: row for row in rows}
  shown = [
    {**row, "missing": row.get("failed") or row.get("missing")}
    for row in latest.values()
  ]
  measure.print_table(shown, _COLUMNS)


if __name__ == "__main__":
  main()
