"""The contents of a step: two to four items of arrays, data, meta.json."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from pausejax.checkpoints import arrays, folders, leaves, upgrade
from pausejax.runtime import distributed
from pausejax.train_state import TrainState


def named_by_process(data: Mapping[str, bytes]) -> dict[str, bytes]:
  """Returns the files under names that are unique to this process."""
  process = f"process_{jax.process_index()}-"
  return {process + name: content for name, content in data.items()}


def meta_files(
  step: int,
  run: Mapping[str, Any],
  arrays_: Mapping[str, Mapping[str, jax.Array]],
  data: Mapping[str, bytes],
  *,
  is_shared: bool,
) -> dict[str, bytes]:
  """Returns the files of the item `meta`; all processes call it together.

  Args:
    step: the step of the state.
    run: the fields of meta.json that describe the run, such as its config.
    arrays_: `items` of the state.
    data: the files of this process, from `named_by_process`.
    is_shared: whether all processes write to one folder (`arrays.py`).
  """
  named = {n: x for item in arrays_.values() for n, x in item.items()}
  sums = {name: folders.sha256(content) for name, content in data.items()}
  gathered = [pair for d in distributed.all_gather(sums) for pair in d.items()]
  content = json.dumps(
    {
      "format": upgrade.FORMAT if is_shared else upgrade.FORMAT_OF_SHARDS,
      "step": step,
      **upgrade.meta_to_json(run),
      "leaves": leaves.shapes_and_dtypes(named),
      "digests": arrays.host_digests(named),
      "data_sha256": dict(gathered),
    },
    indent=1,
  ).encode()
  return {
    folders.META: content,
    folders.META_SHA256: folders.checksum(content),
  }


def of_process(files: Mapping[str, bytes]) -> dict[str, bytes]:
  """Returns the files that this process saved.

  A process that did not exist then uses those of process 0. If the position in
  the data depends on the process, the data's fingerprint rejects another number
  of processes.
  """
  names = [f"process_{i}-" for i in (jax.process_index(), 0)]
  own = next(
    (p for p in names if any(n.startswith(p) for n in files)), names[1]
  )
  return {
    n.removeprefix(own): content
    for n, content in files.items()
    if n.startswith(own)
  }


def items(state: TrainState) -> dict[str, dict[str, Any]]:
  """Returns the named leaves of the array items of a step.

  They are params and opt_state; average if the run averages its parameters, and
  spikes if it skips spikes.
  """
  found: dict[str, dict[str, Any]] = {"params": {}, "opt_state": {}}
  for name, leaf in leaves.flatten(state).items():
    found.setdefault(item_of(name), {})[name] = leaf
  return {item: x for item, x in found.items() if x}


def item_of(name: str) -> str:
  """Returns the item of a step that holds a leaf."""
  top = name.partition("/")[0]
  names = {"model": "params", "average": "average", "spikes": "spikes"}
  return names.get(top, "opt_state")
