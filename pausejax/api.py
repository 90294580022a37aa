"""Training and data from Python; `pausejax/__init__.py` exports the names.

B rows, T positions.
"""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pausejax import arguments, errors
from pausejax.buckets import copies
from pausejax.data import batch
from pausejax.pause import PauseSpec, is_pause_id
from pausejax.runtime import accelerators, metric_rows, signals
from pausejax.training import inputs


def train(
  config: ConfigDict | Mapping[str, Any],
  workdir: str | os.PathLike[str],
  *,
  init_from: str | os.PathLike[str] = "",
) -> dict[str, np.ndarray]:
  """Trains for `config.num_steps` steps, or resumes the run in the workdir.

  Trains as `pausejax train` does, in this process, and writes checkpoints and
  metrics into the workdir. It sets no environment variables, leaves the memory
  allocator as it is, and prints no summary at the end. The config is not
  changed.
  Ctrl-C saves after the current step and raises KeyboardInterrupt; a second one
  does not wait for the step.

  >>> config = pausejax.config.default()
  >>> config.model.update(num_layers=1, d_model=16, num_heads=2)
  >>> config.model.update(dtype="float32", remat="none")
  >>> config.data.update(task="text", files=str(text), seq_len=32)
  >>> config.update(num_steps=2, batch_size=8)
  >>> metrics = pausejax.train(config, workdir)  # doctest: +ELLIPSIS
  preparing segments in ...
  >>> metrics["step"].tolist()  # The last step is evaluated, too.
  [1, 2, 2]

  Args:
    config: from `pausejax.config.default()` or `pausejax.config.load_config`,
      or the same fields as plain values.
    workdir: folder of the run; made if it does not exist.
    init_from: workdir of the run whose parameters to start from, whose
      tokenizer and architecture replace those of the config.

  Returns:
    `read_metrics(workdir)`.

  Raises:
    Diverged: the parameters, or too many steps in a row, are not finite.
    UserError: the config, the data, the devices or the checkpoint in the
      workdir do not fit together.
  """
  tree = _copy(config)
  workdir = arguments.path("workdir", workdir)
  init_from = arguments.path("init_from", init_from)
  inputs.inherit(tree, init_from=init_from, workdir=workdir, is_saved=False)
  started = time.time()
  with _stop_flag() as stop:
    start = inputs.check_inputs(tree, workdir)
    accelerators.require_used()
    from pausejax.programs import train_setup
    from pausejax.training import loop

    with train_setup.open_run(start, stop, started) as run:
      if run is not None:
        loop.train_loop(run)
  return read_metrics(start.place)


def read_metrics(workdir: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Returns the metrics of a run: arrays [number of rows], by name.

  "step" is int64, all others are float64 and NaN where a row lacks the value,
  as "eval_loss" in most rows. docs/metrics.md describes the names.

  >>> metrics = pausejax.read_metrics(workdir)
  >>> metrics["step"].tolist()
  [1, 2, 2]
  >>> bool(np.isnan(metrics["eval_loss"][0]))
  True

  Args:
    workdir: folder of the run.

  Raises:
    UserError: the folder holds no metrics.jsonl that can be read.
  """
  spec = arguments.path("workdir", workdir)
  path = copies.local_run(spec, "workdir") / "metrics.jsonl"
  try:
    return metric_rows.arrays(path)
  except OSError as e:
    raise errors.UserError(f"workdir: {path} cannot be read: {e}") from e


def insert_pauses(
  tokens: Any,
  *,
  pause_id: int,
  pause_fraction: float = 0.1,
  mode: str = "insert_trim",
  run_length: float = 1.0,
  num_pause_ids: int = 1,
  seed: int = 0,
  first_position: int = 0,
) -> np.ndarray:
  """Returns segments with pauses (section 3.1, and later ways of pausing).

  The pauses depend only on the seed and on each segment's number.

  >>> pausejax.insert_pauses(np.arange(8), pause_id=99, pause_fraction=0.25)
  array([99,  0, 99,  1,  2,  3,  4,  5])

  Args:
    tokens: int [T] or [B, T], ids without pauses.
    pause_id: id written at the pauses; with several ids, the first of them.
      They must fit the dtype of the tokens.
    pause_fraction: pauses inserted, as a fraction of T; with "exact", of the
      positions of the result. In [0, 0.999].
    mode: a name in `pause_places.MODES`; not one that follows units of text.
      "insert_trim" cuts the result to T positions, so that pauses displace
      text at the end; "exact" lengthens it, so that all text stays.
    run_length: pauses in a row, where `mode` has runs.
    num_pause_ids: n; pause j of a run, from 0, has id `pause_id` + j modulo n.
    seed: any int.
    first_position: number of the first segment within the whole run, in
      [0, 2**63); the others follow it.

  Returns:
    Array of the same dtype; its length depends on `mode`.

  Raises:
    UsageError: another shape or dtype, tokens that hold ids of pauses, or a
      value out of range.
  """
  tokens = arguments.id_array("tokens", tokens, shape="[T] or [B, T]")
  tokens_BT = np.atleast_2d(tokens)
  pause_id, num_pause_ids = _pause_ids(
    pause_id,
    num_pause_ids,
    min(np.iinfo(tokens.dtype).max, arguments.MAX_INT64),
  )
  seed = arguments.whole_number("seed", seed, -math.inf)
  first_position = arguments.whole_number(
    "first_position", first_position, 0, arguments.MAX_INT64
  )
  spec = PauseSpec(
    fraction=pause_fraction,
    mode=mode,
    run_length=run_length,
    num_ids=num_pause_ids,
  )
  pauses = tokens_BT[is_pause_id(tokens_BT, pause_id, num_pause_ids)]
  if len(pauses):
    raise errors.UsageError(f"tokens: they hold pause_id {pauses[0]} already")
  errors.require(
    not spec.unit, f"mode: {mode!r} needs a tokenizer; choose another here"
  )
  found_BT = spec.insert(
    tokens_BT,
    seq_len=spec.length(tokens_BT.shape[1]),
    pause_id=pause_id,
    seed=seed,
    rows_B=first_position + np.arange(len(tokens_BT)),
  )
  return found_BT if tokens.ndim == 2 else found_BT[0]


def make_batch(
  rows: Sequence[Sequence[int]],
  *,
  bos_id: int,
  pad_id: int,
  pause_id: int,
  num_pause_ids: int = 1,
  seq_len: int = 0,
) -> batch.Batch:
  """Returns a batch of a language model, as `LoadedRun.model` reads it.

  >>> batch = pausejax.make_batch(
  ...   [[5, 99, 6], [7]], bos_id=1, pad_id=0, pause_id=99
  ... )
  >>> batch["tokens"].tolist(), batch["targets"].tolist()
  ([[1, 5, 99], [1, 7, 0]], [[5, 99, 6], [7, 0, 0]])
  >>> batch["loss_mask"].tolist()
  [[True, False, True], [True, False, False]]

  Args:
    rows: B rows of ids without BOS, pauses in place; their lengths may differ.
    bos_id: id of the first input.
    pad_id: id that pads shorter rows; it never counts.
    pause_id: id whose targets do not count; with several, the first of them.
    num_pause_ids: number of such ids, which follow one another.
    seq_len: T; 0 for the longest row.

  Returns:
    Arrays [B, T]: int32 `tokens` (BOS, then the targets shifted by one),
    `targets`, `positions` and `segment_ids` (1, or 0 on padding), and bool
    `loss_mask`, True where the target counts.

  Raises:
    UsageError: no row, an empty one, one that is longer than `seq_len`, or an
      id that is not a whole number in [0, 2**31).
  """
  limit = arguments.MAX_INT32
  bos_id = arguments.whole_number("bos_id", bos_id, 0, limit)
  pad_id = arguments.whole_number("pad_id", pad_id, 0, limit)
  pause_id, num_pause_ids = _pause_ids(pause_id, num_pause_ids, limit)
  seq_len = arguments.whole_number("seq_len", seq_len, 0, limit)
  rows_B = [
    arguments.id_array(f"rows[{b}]", row, shape="[T]", max_id=limit)
    for b, row in enumerate(arguments.as_list("rows", rows))
  ]
  errors.require(bool(rows_B), "rows: give at least one")
  longest = max(map(len, rows_B))
  seq_len = seq_len or longest
  errors.require(
    longest <= seq_len, f"rows: one has {longest} ids, seq_len is {seq_len}"
  )
  targets_BT = np.full((len(rows_B), seq_len), batch.PADDING, np.int32)
  for target_T, row_T in zip(targets_BT, rows_B, strict=True):
    target_T[: len(row_T)] = row_T
  return batch.language_model_batch(
    targets_BT,
    # Every spec counts only text as targets.
    pauses=PauseSpec(fraction=0.0, num_ids=num_pause_ids),
    bos_id=bos_id,
    pad_id=pad_id,
    pause_id=pause_id,
  )


def _pause_ids(pause_id: int, num_ids: int, limit: int) -> tuple[int, int]:
  """Returns the first id of pauses and their number, checked."""
  num_ids = arguments.whole_number("num_pause_ids", num_ids, 1, limit)
  last = limit - num_ids + 1
  return arguments.whole_number("pause_id", pause_id, 0, last), num_ids


def _copy(config: ConfigDict | Mapping[str, Any]) -> ConfigDict:
  """Returns an unlocked copy of a config."""
  errors.require(
    isinstance(config, (ConfigDict, Mapping)),
    f"config: expected a ConfigDict or a mapping, got {type(config).__name__}; "
    "pausejax.config.load_config reads one from a file",
  )
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  return ConfigDict(dict(config))


@contextlib.contextmanager
def _stop_flag() -> Iterator[signals.StopFlag]:
  """Yields the flag that Ctrl-C and SIGTERM set, then restores their handlers.

  Raises:
    KeyboardInterrupt: Ctrl-C was pressed; the run is saved, unless it was
      pressed again.
    SystemExit: the same for SIGTERM.
  """
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.getsignal(number) for number in numbers}
  stop = signals.StopFlag(interrupt=True)
  try:
    yield stop
  except signals.Stopped:
    pass
  finally:
    if signals.can_handle():
      for number, handler in before.items():
        signal.signal(number, handler)
  if stop.exit_code == signals.INTERRUPTED:
    raise KeyboardInterrupt
  if stop.exit_code:
    raise SystemExit(stop.exit_code)
