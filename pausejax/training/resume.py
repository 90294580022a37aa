"""Compares the settings of a resumed run with those of its checkpoint.

A field whose declaration does not say `may_change` must have the saved value:
it decides what the model computes, or what the data is (a position in the data
is step * batch_size + row). Every other difference is printed.
`config_history.jsonl` in the workdir has one line per change: {"step": last
step before it, "config": all fields}.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from pausejax import errors, json_files
from pausejax.buckets import copies
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders, saved_run
from pausejax.config import TrainConfig, fields
from pausejax.config.batch_skips import batch_skips
from pausejax.data import tokenizers

Difference = tuple[str, Any, Any]  # Field, saved value, new value.


def own_checkpoint(workdir: pathlib.Path) -> saved_run.SavedRun | None:
  """Returns the newest readable checkpoint of a run, None if there is none.

  Damage is not reported here but by `Store.restore`.
  """
  folder = workdir / CHECKPOINTS
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  for step in sorted(map(int, filter(str.isdigit, names)), reverse=True):
    try:
      return saved_run.find_run(str(folder / str(step)))
    except (ValueError, KeyError, TypeError, OSError):
      continue
  return None


def differences(saved: Mapping[str, Any], new: Mapping) -> list[Difference]:
  """Returns the fields that differ between two configs, in order.

  A field that one of them lacks, because another version of this package wrote
  it, is not compared; in the free-form optim.kwargs, it counts as None.
  """
  a, b = json_files.flat_fields(saved), json_files.flat_fields(new)
  names = [n for n in {**b, **a} if (n in a and n in b) or ".kwargs." in n]
  rows = [(name, a.get(name), b.get(name)) for name in names]
  return [row for row in rows if row[1] != row[2]]


def may_change(field: str) -> bool:
  """Returns whether a resumed run may change a field."""
  return field in fields.changeable(TrainConfig)


def require_resumable(
  workdir: object, saved: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  """Raises UsageError with a table of the fields that must not differ."""
  refused = _refused(saved, new)
  if refused:
    raise errors.UsageError(
      f"--workdir: the run in {workdir} cannot resume with another "
      f"{', '.join(name for name, _, _ in refused)}; choose another --workdir, "
      "or give the saved values",
      "\n".join(difference_lines(refused)),
    )


def require_continuable(
  source: saved_run.SavedRun, config: TrainConfig, new: Mapping[str, Any]
) -> None:
  """Raises unless another workdir may continue a run from its checkpoint.

  Args:
    source: the checkpoint (`init_load=state`).
    config: the config to continue with.
    new: its fields as plain values.

  Raises:
    UsageError: a field must not differ, or no step is left.
  """
  refused = _refused(source.meta["config"], new)
  if refused:
    raise errors.UsageError(
      f"init_load=state: the run in {source.place} cannot continue with "
      f"another {', '.join(name for name, _, _ in refused)}; give the saved "
      "values, or load only its parameters (init_load=parameters)",
      "\n".join(difference_lines(refused)),
    )
  errors.require(
    not is_over(config, source.step),
    f"init_load=state: the run starts at step {source.step} of "
    f"{source.place}, and num_steps is {config.num_steps}, stop_at_step "
    f"{config.stop_at_step}; raise num_steps",
  )


def require_same_batches(
  source: saved_run.SavedRun, config: TrainConfig
) -> None:
  """Raises UsageError if the steps so far were trained on other batches.

  Args:
    source: the checkpoint to resume from.
    config: the config to resume with.
  """
  step = source.step
  saved = batch_skips(source.meta["config"]["skip_batches"])
  errors.require(
    saved.until(step) == config.batch_skips.until(step),
    f"skip_batches: got {config.skip_batches!r}, but the checkpoint at step "
    f"{step} was trained up to batch {saved.batch(step)} with "
    f"{source.meta['config']['skip_batches']!r}; add later batches to these, "
    "or go back with --rollback_to=STEP",
  )


def _refused(saved: Mapping[str, Any], new: Mapping) -> list[Difference]:
  return [d for d in differences(saved, new) if not may_change(d[0])]


def difference_lines(rows: list[Difference]) -> list[str]:
  """Returns one line per differing field: its name, old -> new."""
  width = max((len(name) for name, _, _ in rows), default=0)
  return [f"  {name:{width}}  {old!r} -> {new!r}" for name, old, new in rows]


def resume_notes(
  config: TrainConfig, new: Mapping[str, Any], meta: Mapping[str, Any]
) -> list[str]:
  """Returns lines on how a resumed run differs from its checkpoint.

  Args:
    config: the config of the run.
    new: its fields as plain values.
    meta: meta.json of its checkpoint.
  """
  changed = difference_lines(differences(meta["config"], new))
  if changed:
    changed.insert(0, "settings that differ from those of the checkpoint:")
  return changed + _note_on_initial(config.init_from, meta.get("initial"))


def _note_on_initial(spec: str, began: Mapping[str, Any] | None) -> list[str]:
  """Returns a line if `init_from` names other parameters than at the start."""
  if not (spec and began):
    return []
  first = f"step {began['step']} of {began['workdir']}"
  try:
    workdir, step = folders.locate_checkpoint(spec)
    now = f"step {step} of {copies.run_url(spec) or workdir}"
  except errors.UserError:
    now = "without a checkpoint"
  if now == first:
    return []
  return [
    f"init_from: {spec} is now {now}; this run started from {first} and "
    "resumes from its own checkpoint"
  ]


def tokenizer_spec(run: saved_run.SavedRun) -> str:
  """Returns the value of `data.tokenizer` with which to resume a run.

  This is the file that the run started with if it is unchanged, else the run's
  copy.
  """
  named = run.meta["config"]["data"]["tokenizer"]
  try:
    is_same = (
      tokenizers.load_tokenizer(named).fingerprint() == run.meta["tokenizer"]
    )
  except errors.UserError:
    is_same = False
  return named if is_same else run.tokenizer_spec


def last_step(config: TrainConfig) -> int:
  """Returns the step after which a start of the run ends."""
  return min(config.num_steps, config.stop_at_step or config.num_steps)


def is_over(config: TrainConfig, step: int) -> bool:
  """Returns whether no step remains after `step`."""
  return step >= last_step(config)


def nothing_to_do(config: TrainConfig, step: int, folder: str) -> str:
  """Returns a line that says why no step remains.

  Args:
    config: the config of the run.
    step: the step of its checkpoint.
    folder: the folder of its checkpoints.
  """
  saved = f"step {step} of {config.num_steps} is saved in {folder}"
  if step == config.num_steps:
    return f"the run is complete: {saved}; nothing to do"
  if step > config.num_steps:
    return (
      f"step {step} is saved in {folder}, which is beyond num_steps "
      f"{config.num_steps}; nothing to do, nothing was changed"
    )
  return (
    f"{saved}, and stop_at_step is {config.stop_at_step}; nothing to do (raise "
    "it or set it to 0 to continue)"
  )


def ending(config: TrainConfig, state: Any, folder: str) -> str:
  """Returns the last line of a run.

  Args:
    config: the config of the run.
    state: the state that was saved.
    folder: the folder of its checkpoints.
  """
  line = (
    f"step {state.step} is saved in {folder} (num_steps {config.num_steps})"
  )
  if state.num_skipped:
    line += f"; {state.num_skipped} steps were skipped: not finite, or a spike"
  return line
