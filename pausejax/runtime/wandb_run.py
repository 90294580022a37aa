"""A run in Weights & Biases, beside its rows in the workdir.

`wandb_run.json` in the workdir holds the id of the run there, so that a resumed
run continues it. W&B cannot delete or reorder rows, and refuses a row of an
earlier step than the last one. So rows have no W&B step but a column `step`,
which is declared as the horizontal axis of all charts.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import errors, files, json_files
from pausejax.config import LogConfig
from pausejax.config.saved import config_to_json
from pausejax.runtime import signals

STATE = "wandb_run.json"
_SHAPE = {"id": str, "sent": int, "open": str}
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_SECONDS_TO_START, _SECONDS_TO_END = 30, 20


def require_login(option: str) -> None:
  """Raises UserError unless runs can be sent, or WANDB_MODE is offline.

  Never asks for an API key.

  Args:
    option: what needs W&B.
  """
  if importlib.util.find_spec("wandb") is None:
    raise errors.UserError(
      f"{option} needs the extra: make env EXTRA=wandb, or pip install "
      "'.[wandb]' in the clone"
    )
  mode = os.environ.get("WANDB_MODE") or "online"
  errors.require_one_of("WANDB_MODE", mode, _MODES)
  import wandb

  try:
    mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
    is_ready = mode != "online" or wandb.login(prompt=False, verify=False)
  except Exception as e:
    raise errors.UserError(f"{option}: {errors.first_line(e)}") from e
  if not is_ready:
    raise errors.UserError(
      f"{option}: not logged in to W&B; run `wandb login`, or set "
      "WANDB_MODE=offline to keep the run in the workdir"
    )


@dataclasses.dataclass
class _State:
  """What the workdir knows of its run in W&B.

  Attributes:
    id: id of the run.
    sent: the last step whose rows were certainly sent.
    open: folder in `<workdir>/wandb` of a start that has not ended, or "".
  """

  id: str
  sent: int = 0
  open: str = ""

  def save(self, workdir: pathlib.Path) -> None:
    text = json.dumps(dataclasses.asdict(self)) + "\n"
    files.write(workdir / STATE, text)


def _read_state(workdir: pathlib.Path) -> _State:
  """Returns the state in a workdir; a new one if there is none."""
  path = workdir / STATE
  if path.exists():
    state = _State(**json_files.read(path, _SHAPE, "remove it"))
    if not state.open or files.is_name(state.open):
      return state
    raise errors.UserError(
      f"{path} is damaged: open: {state.open!r} is not a folder name; remove it"
    )
  return _State(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))


class WandbRun:
  """The run of a workdir.

  Attributes:
    next_step: the first step whose rows W&B lacks.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    log: LogConfig,
    values: Mapping[str, Any],
    step: int,
    dropped: Sequence[Mapping[str, Any]],
  ):
    """Begins or continues the run.

    Args:
      workdir: the run's folder.
      log: project, name, group and tags.
      values: all fields of the run's config.
      step: the step that the run resumes from, 0 if none.
      dropped: rows that an earlier start wrote and the run writes again.
    """
    state = _read_state(workdir)
    if step == 0 and state.sent:
      state = _State(secrets.token_hex(4))  # Another run, from the start.
    if state.open.startswith("offline-"):
      _set_aside(workdir / "wandb" / state.open)
    elif state.open:  # Killed while it sent rows: all but the last are there.
      state.sent = max(state.sent, step)
    self._sent = {_identity(r) for r in dropped if r["step"] <= state.sent}
    self.next_step = state.sent + 1
    self._workdir, self._state = workdir, state
    config = config_to_json(values)
    self._run = _start(workdir, log, state.id, "train", config)
    if not self._run.disabled:
      state.open = pathlib.Path(self._run.sync_dir).name
      state.save(workdir)
    self._run.define_metric("step", hidden=True)
    self._run.define_metric("*", step_metric="step")

  def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
    """Sends the metrics of a step."""
    row = {"step": step, **metrics}
    if _identity(row) not in self._sent:
      self._run.log(row)
    self._state.sent = max(self._state.sent, step)

  def texts(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
    """Sends the samples of a step as a table."""
    import wandb

    rows = [{"step": step, **sample} for sample in samples]
    if self._sent.issuperset(map(_identity, rows)):
      return
    columns = ["step", "prompt", "num_pauses", "text"]
    table = wandb.Table(
      columns=columns, data=[[row[name] for name in columns] for row in rows]
    )
    self._run.log({"step": step, "samples": table})

  def close(self, exit_code: int) -> None:
    """Waits until all is sent, for a limited time."""
    if exit_code == signals.PREEMPTED:
      self._run.mark_preempting()
    _end(self._run, exit_code)
    if not self._run.disabled:
      self._state.open = ""
      self._state.save(self._workdir)


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns what is equal in a row that a run writes a second time.

  The times differ, and losses differ only if the settings do.
  """
  names = ("step", "loss", "eval_loss", "prompt", "num_pauses", "text")
  return tuple(str(row.get(name)) for name in names)


def publish_sweep(
  workdir: pathlib.Path,
  log: LogConfig,
  points: Sequence[tuple[int, Mapping[str, float]]],
) -> None:
  """Sends metrics over the number of pauses as a run beside that of training.

  It replaces the run of an earlier evaluation.

  Args:
    workdir: folder of the run that was evaluated.
    log: project, name, group and tags.
    points: (M, name -> value) of each condition, ascending in M.
  """
  state = _read_state(workdir)
  if not (workdir / STATE).exists():
    state.save(workdir)
  run = _start(workdir, log, f"{state.id}-evaluate", "evaluate", {})
  run.define_metric("num_pauses", hidden=True)
  run.define_metric("*", step_metric="num_pauses")
  for num_pauses, metrics in points:
    run.log({"num_pauses": num_pauses, **metrics})
  _end(run, 0)


def _start(
  workdir: pathlib.Path,
  log: LogConfig,
  run_id: str,
  kind: str,
  config: Mapping[str, Any],
) -> Any:
  """Begins or continues a run; offline if W&B cannot be reached."""
  import wandb

  name = log.wandb_name or os.environ.get("WANDB_NAME") or workdir.name
  arguments = {
    "project": log.wandb_project
    or os.environ.get("WANDB_PROJECT")
    or "pausejax",
    "name": name if kind == "train" else f"{name} {kind}",
    "group": log.wandb_group or None,
    "tags": log.wandb_tags or None,
    "job_type": kind,
    "id": run_id,
    # Without it, the run replaces one of the same id.
    "resume": "allow" if kind == "train" else None,
    "dir": str(workdir),
    "config": dict(config),
    "allow_val_change": True,
    "settings": wandb.Settings(
      silent=True,
      console="off",
      save_code=False,
      init_timeout=_SECONDS_TO_START,
      finish_timeout=_SECONDS_TO_END,
      finish_timeout_raises=True,
    ),
  }
  try:
    run = wandb.init(**arguments)
  except Exception as e:
    print(
      f"pausejax: warning: wandb: {errors.first_line(e)}; the run is recorded "
      "offline",
      file=sys.stderr,
      flush=True,
    )
    wandb.teardown()
    run = wandb.init(**arguments, mode="offline")
  if run.offline:
    where = f"offline; to upload it: wandb sync {run.sync_dir}"
  else:
    where = run.url or "disabled"
  print(f"wandb: {where}", flush=True)
  return run


def _end(run: Any, exit_code: int) -> None:
  """Waits until a run is sent; after a limit, says how to send the rest."""
  try:
    run.finish(exit_code=exit_code)
  except TimeoutError as e:
    raise errors.UserError(
      f"not all was sent in {_SECONDS_TO_END} s; to send the rest: wandb sync "
      f"{run.sync_dir}"
    ) from e


def _set_aside(folder: pathlib.Path) -> None:
  """Renames the folder of an offline start that was killed.

  It may lack its last rows, so all of its rows are sent again. `wandb sync`
  does not upload folders of this name.
  """
  if folder.is_dir():
    folder.rename(folder.with_name(f"replaced-{folder.name}"))
