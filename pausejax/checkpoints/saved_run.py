"""Loads a trained run from its workdir: tokenizer, model shape, parameters."""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from pausejax import errors, json_files
from pausejax.buckets import copies
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders
from pausejax.config import DataConfig, ModelConfig, WatchdogConfig, saved
from pausejax.data import tokenizers
from pausejax.prompt_pauses import (
  BEHIND_TOKENS,
  NO_TOKEN_PAUSES,
  TokenPauses,
)
from pausejax.runtime import distributed, phases

if TYPE_CHECKING:
  from pausejax.model.decoder import Decoder

# The fields of meta.json that are read here; `folders.py` and `store.py` check
# the fields that they add.
_META = {
  "config": dict,
  "data?": dict,
  "model": dict,
  "tokenizer": {str: str},
  "pauses_seen": bool,
}


@dataclasses.dataclass(frozen=True)
class SavedRun:
  """One checkpoint of a run.

  Attributes:
    workdir: the run's folder; of a run in a bucket, its copy here.
    step: the step of the checkpoint.
    meta: its meta.json.
    tokenizer: the tokenizer that the run saved.
    tokenizer_spec: the value of `data.tokenizer` that loads the same one.
    model: the decoder's shape and options.
    average: whether `load` returns the average of the parameters.
    url: the URL of a run in a bucket, else "".
  """

  workdir: pathlib.Path
  step: int
  meta: dict[str, Any]
  tokenizer: tokenizers.PauseTokenizer
  tokenizer_spec: str
  model: ModelConfig
  average: bool = False
  url: str = ""

  @property
  def place(self) -> str:
    """The path or URL of the run's folder, for messages and results."""
    return self.url or str(self.workdir)

  @property
  def limits(self) -> WatchdogConfig:
    """The limits of the watchdog, for a program that reads the run."""
    return WatchdogConfig(**self.meta["config"]["watchdog"])

  def fetch(self, *items: str) -> None:
    """Downloads arrays of a run in a bucket, by default those of `load`.

    Args:
      *items: the items of the step whose arrays to download.
    """
    if self.url:
      items = items or ("average" if self.average else "params",)
      copies.fetch_arrays(self.url, self.step, items)

  def upload(self, folder: pathlib.Path) -> None:
    """Copies results to the bucket if they were written to a run in one.

    Process 0 does, which wrote them.
    """
    if distributed.process_index():
      return
    if self.url and folder.is_relative_to(self.workdir):
      copies.upload(self.url, self.workdir, folder)

  def shown(self, path: pathlib.Path) -> str:
    """Returns a path below the run as in the bucket, if the run is in one."""
    return str(path).replace(str(self.workdir), self.place)

  def load(self) -> "Decoder":
    """Returns the decoder, its parameters on the mesh in scope; imports JAX.

    Raises:
      CheckpointUnusable: a parameter differs from what was saved.
    """
    import jax

    from pausejax import sharding
    from pausejax.checkpoints import restoring
    from pausejax.model import decoder

    with phases.phase("restoring"), copies.named(self.url, self.workdir):
      self.fetch()
      shapes = jax.eval_shape(lambda: decoder.init(self.model, 0))
      return restoring.restore_params(
        self.workdir / CHECKPOINTS,
        self.step,
        sharding.placed(shapes),
        average=self.average,
      )

  @property
  def behind_tokens(self) -> TokenPauses:
    """The pauses inside the text in training, which answers have, too."""
    saved, pause_id = self.meta.get("data", {}), self.tokenizer.pause_id
    pauses = DataConfig(**self.meta["config"]["data"]).pauses
    if BEHIND_TOKENS in saved:  # Only a finetuning that has them saves this.
      return pauses.in_examples(pause_id)
    is_pretrained = "pause_mode" in saved
    return pauses.behind_tokens(pause_id) if is_pretrained else NO_TOKEN_PAUSES

  def results_folder(self, name: str) -> pathlib.Path:
    """Returns the folder of results in the workdir, apart for the average."""
    return self.workdir / (f"{name}_average" if self.average else name)

  def warn_of_pauses(self, num_pauses: float, what: str = "pauses") -> None:
    """Warns on standard error if the model was never trained on pauses.

    Args:
      num_pauses: number of pauses before the answer; 0 for none.
      what: the name of the pauses in the message.
    """
    if num_pauses and not self.meta["pauses_seen"]:
      print(
        f"pausejax: warning: step {self.step} of {self.place} was not "
        f"trained on <pause>; its answers after {num_pauses:g} {what} do not "
        "show the effect of pauses",
        file=sys.stderr,
      )


def find_run(
  spec: str,
  name: str = "--checkpoint",
  *,
  average: bool = False,
  average_name: str = "--average",
) -> SavedRun:
  """Returns the run at `WORKDIR` or `WORKDIR/checkpoints/STEP`, without JAX.

  For a workdir, this is its newest checkpoint, even if that is damaged.

  Args:
    spec: the run or the checkpoint.
    name: the option or argument that gave it, for messages.
    average: whether to use the average of the parameters.
    average_name: the option or argument that asked for it.

  Raises:
    CheckpointUnusable: the checkpoint is damaged.
    UsageError: there is no such folder, or the run has no average.
    UserError: there is no checkpoint, or its tokenizer is missing or differs.
  """
  workdir, step = folders.locate_checkpoint(spec, name)
  with copies.named(copies.run_url(spec), workdir):
    run = _read_run(workdir, copies.run_url(spec), step)
  errors.require(
    not average or folders.has_item(run.meta, "average"),
    f"{average_name}: step {step} of {run.place} has no average of the "
    "parameters; it is kept by runs with optim.ema_decay above 0",
  )
  return dataclasses.replace(run, average=average)


def _read_run(workdir: pathlib.Path, url: str, step: int) -> SavedRun:
  """Returns a run without its parameters."""
  meta = checked(folders.require_step(workdir / CHECKPOINTS, step).meta)
  files = sorted(workdir.glob("tokenizer.*"))
  tokenizer_spec = str(files[0]) if files else "bytes"
  num_pause_ids = meta["config"]["data"]["num_pause_ids"]
  tokenizer = tokenizers.load_tokenizer(
    tokenizer_spec, num_pause_ids=num_pause_ids
  )
  errors.require_same(
    f"the tokenizer in {workdir}", tokenizer.fingerprint(), meta["tokenizer"]
  )
  model = ModelConfig(**meta["model"])
  return SavedRun(
    workdir, step, meta, tokenizer, tokenizer_spec, model, url=url
  )


def checked(meta: dict[str, Any]) -> dict[str, Any]:
  """Returns meta.json with every field that this version reads.

  Raises:
    UserError: it has another structure, or a newer version wrote it.
  """
  problem = json_files.mismatch(meta, _META, "meta.json")
  try:
    if problem:
      raise errors.UserError(problem)
    config = saved.read_saved(meta["config"]).to_dict()
    model = {**config["model"], **meta["model"]}
    ModelConfig(**model)
  except (ValueError, TypeError, OverflowError) as e:
    raise errors.UserError(
      f"the checkpoint's meta.json: {errors.first_line(e)}; it is damaged, or "
      "was saved by a newer pausejax"
    ) from e
  return {**meta, "config": config, "model": model}
