"""The inputs of a run, checked before JAX is imported."""

import dataclasses
import pathlib
from typing import Any

from pausejax import errors, tasks
from pausejax.buckets import copies, urls
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import saved_run
from pausejax.config import (
  DataConfig,
  FinetuneConfig,
  ModelConfig,
  TrainConfig,
  architecture_fields,
  check_fields,
  train_config,
)
from pausejax.data import pipeline, text_units, tokenizers
from pausejax.data.finetuning import prompts
from pausejax.errors import require_same
from pausejax.runtime import distributed, provenance, trackers
from pausejax.training import resume
from pausejax.training.rollback import Rollback, plan_rollback

# Fields of `data` that a finetuning inherits with pauses after every token.
_PAUSES_BEHIND_TOKENS = (
  "pause_mode",
  "pause_fraction",
  "pause_run_length",
  "pauses_share_positions",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """The inputs of a run.

  Attributes:
    config: the config of the run.
    values: its fields as plain values, as saved in each checkpoint.
    tokenizer: the tokenizer of its data.
    workdir: absolute path of its folder on this machine, or of this process.
    url: the URL of its folder if that is in a bucket, else "".
    own: the checkpoint to resume from in the workdir, if any: the newest
      readable one, or that of the rollback.
    rollback: the rollback to make before, if any.
    initial: the run whose parameters it starts from; None if `own` is set.
  """

  config: TrainConfig
  values: dict[str, Any]
  tokenizer: tokenizers.PauseTokenizer
  workdir: pathlib.Path
  url: str
  own: saved_run.SavedRun | None
  initial: saved_run.SavedRun | None
  rollback: Rollback | None

  @property
  def checkpoints(self) -> pathlib.Path:
    """The folder of the run's checkpoints."""
    return self.workdir / CHECKPOINTS

  @property
  def place(self) -> str:
    """The path or URL of the run's folder, for messages."""
    return self.url or str(self.workdir)

  def require_resumable(self, saved: saved_run.SavedRun) -> None:
    """Raises unless the run may resume from its own checkpoint."""
    resume.require_resumable(self.place, saved.meta["config"], self.values)
    _check_tokenizer(self.tokenizer, saved)


def check_inputs(
  tree: Any, workdir: str, rollback_to: int | None = None
) -> Inputs:
  """Returns the inputs of a run; all processes call this together.

  Args:
    tree: its `ConfigDict`; `data.local_dir` and `init_from` become absolute in
      it.
    workdir: its folder.
    rollback_to: the step to go back to, if any.

  Raises:
    UserError: a field, the data settings, the tokenizer, the workdir, or the
      run to start from is invalid, or the processes were started differently.
  """
  # Absolute, since later programs may run in other folders.
  folder = tree.data.local_dir
  errors.require_local("data.local_dir", folder)
  tree.data.local_dir = str(pathlib.Path(folder).resolve()) if folder else ""
  if tree.init_from and not urls.is_url(tree.init_from):
    tree.init_from = str(pathlib.Path(tree.init_from).resolve())
  values = tree.to_dict()
  config = train_config(values)
  tasks.import_module(config.tasks_module)
  pipeline.check_data(config.data, config.finetune)
  if distributed.process_index() == 0:
    trackers.require_usable(trackers.chosen(config.log), "log.{}")
  tokenizer = tokenizers.load_for(config.data)
  pause_row_init(config.finetune, tokenizer)  # Raises if it is invalid.
  if config.data.pauses.unit:
    # Raises if no id can end such a unit.
    text_units.TextUnits(tokenizer, config.data.pauses.unit)
  errors.require(bool(workdir), "--workdir: got '', name a folder")
  url = urls.normal("--workdir", workdir) if urls.is_url(workdir) else ""
  errors.require(
    not (url and config.checkpoint.export_every),
    "checkpoint.export_every: exports are not written to a bucket; set it to "
    "0, and run pausejax export afterwards",
  )
  path = (
    urls.local_folder(url, "run") if url else pathlib.Path(workdir).resolve()
  )
  errors.require(
    not config.optim.pause_only_steps or reads_pauses(config),
    f"optim.pause_only_steps {config.optim.pause_only_steps}: no sequence of "
    "this run contains <pause>; set it to 0, or set data.pause_fraction or "
    "finetune.num_pauses above 0",
  )
  own, rollback = _own_checkpoint(workdir), None
  if not own:
    pipeline.require_used_pauses(config.data)
  if rollback_to is not None:
    errors.require(not url, "--rollback_to: not for a run in a bucket")
    rollback, own = plan_rollback(rollback_to, path, own, values)
  errors.require(
    config.data.num_pause_ids == 1
    or not (config.optim.pause_only_steps or config.checkpoint.export_every),
    f"data.num_pause_ids {config.data.num_pause_ids}: optim.pause_only_steps "
    "and checkpoint.export_every support only one id of <pause>; set them to "
    "0, or data.num_pause_ids to 1",
  )
  initial = None
  if not own:
    wants_average = config.init_load == "average"
    initial = _initial(config.init_from, average=wants_average)
  if initial is not None:
    _check_tokenizer(tokenizer, initial)
    if config.init_load == "state":
      resume.require_continuable(initial, config, values)
  if source := own or (config.init_load == "state" and initial):
    resume.require_same_batches(source, config)
  distributed.require_agreement(
    {
      "JAX_NUM_PROCESSES": distributed.num_processes(),
      "config": values,
      "--workdir": url or str(path),
      "--rollback_to": rollback_to,
      "checkpoint to resume from": own and own.step,
      "--init_from": initial and f"step {initial.step} of {initial.place}",
      "tokenizer": tokenizer.fingerprint(),
      "versions": provenance.versions(),
    }
  )
  return Inputs(
    config=config,
    values=values,
    tokenizer=tokenizer,
    workdir=path,
    url=url,
    own=own,
    initial=initial,
    rollback=rollback,
  )


def pause_row_init(
  config: FinetuneConfig, tokenizer: tokenizers.PauseTokenizer
) -> str | int:
  """Returns `finetune.pause_init`, a named token as its id.

  Raises:
    UsageError: the text is not one token.
  """
  if text := config.pause_init_token:
    return prompts.token_id(tokenizer, text, "finetune.pause_init: the text")
  return tokenizer.eos_id if config.pause_init == "eos" else config.pause_init


def inherit(
  config: Any, *, init_from: str, workdir: str, is_saved: bool
) -> None:
  """Sets the fields that a config inherits from the run it starts from.

  A run that has a checkpoint inherits them from there, since the other run may
  no longer exist.

  Args:
    config: `ConfigDict` of the run, changed in place.
    init_from: the run to start from; "" for the one in the config.
    workdir: folder of the run.
    is_saved: whether a run saved the config, which then has these fields.
  """
  check_fields(config.to_dict())
  config.init_from = init_from or config.init_from
  own = _own_checkpoint(workdir)
  if own and not config.skip_batches:
    config.skip_batches = own.meta["config"]["skip_batches"]
  if not config.init_from:
    return
  source = own or (None if is_saved else _initial(config.init_from))
  if source is not None:
    config.data.tokenizer = (
      resume.tokenizer_spec(own) if own else source.tokenizer_spec
    )
  if source is None or is_saved:
    return
  config.data.num_pause_ids = max(
    config.data.num_pause_ids, len(source.tokenizer.pause_ids)
  )
  if config.finetune.pauses_behind_tokens and source.behind_tokens.ids:
    tasks.import_module(config.tasks_module)
    if pipeline.is_finetuning(DataConfig(**config.data).rates):
      for name in _PAUSES_BEHIND_TOKENS:
        config.data[name] = source.meta["config"]["data"][name]
  # The model was trained on positions below this limit.
  limit = source.model.max_seq_len
  if config.data.seq_len > limit:
    print(
      f"data.seq_len {config.data.seq_len} of the config becomes {limit}, the "
      f"model.max_seq_len of {source.place}"
    )
    config.data.seq_len = limit
  for name in architecture_fields(ModelConfig):
    config.model[name] = getattr(source.model, name)


def reads_pauses(config: TrainConfig) -> bool:
  """Returns whether the sequences of this run contain `<pause>`."""
  if not pipeline.is_finetuning(config.data.rates):
    return config.data.pauses.uses_pause_token
  mixed = [tasks.downstream(n) for n in config.data.rates]
  pauses = [config.finetune.trained_pauses(t.num_pauses) for t in mixed]
  behind = config.behind_tokens(0)
  return behind.uses_pause_token or any(p.num_pause_tokens for p in pauses)


def _own_checkpoint(workdir: str) -> saved_run.SavedRun | None:
  """Returns the newest readable checkpoint of a run, None if there is none."""
  folder = copies.local_run(workdir, "--workdir", required=False)
  return resume.own_checkpoint(folder)


def _initial(spec: str, *, average: bool = False) -> saved_run.SavedRun | None:
  """Returns the run whose parameters to use, None if `spec` is empty."""
  if not spec:
    return None
  return saved_run.find_run(
    spec, "--init_from", average=average, average_name="init_load=average"
  )


def _check_tokenizer(tokenizer, initial: saved_run.SavedRun) -> None:
  """Raises unless both have the same ids, except for `<pause>`."""
  names = ("tokenizer", "sha256")
  own, theirs = tokenizer.fingerprint(), initial.tokenizer.fingerprint()
  require_same(
    f"data.tokenizer of this run and of {initial.place}",
    {n: own[n] for n in names},
    {n: theirs[n] for n in names},
  )
