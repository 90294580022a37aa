"""A trained run, found by its workdir: tokenizer, model shape, parameters."""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from pausejax import errors, json_files
from pausejax.checkpoints import folders
from pausejax.config import ModelConfig, saved
from pausejax.data import tokenizers

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from pausejax.model.decoder import Decoder

# What is read of meta.json; what `folders.py` and `store.py` add is theirs.
_META = {
  "config": dict,
  "model": dict,
  "tokenizer": {str: str},
  "pauses_seen": bool,
}


@dataclasses.dataclass(frozen=True)
class Trained:
  """One checkpoint of a run.

  Attributes:
    workdir: the run's folder.
    step: of the checkpoint.
    meta: its meta.json.
    tokenizer: the one the run kept.
    tokenizer_spec: what `data.tokenizer` must say to load the same.
    model: the decoder's shape and choices.
  """

  workdir: pathlib.Path
  step: int
  meta: dict[str, Any]
  tokenizer: tokenizers.PauseTokenizer
  tokenizer_spec: str
  model: ModelConfig

  def load(self, mesh: "Mesh") -> "Decoder":
    """Returns the decoder with its parameters on the mesh; imports JAX.

    Raises:
      CheckpointUnusable: a parameter is not the one that was saved.
    """
    import jax

    from pausejax import sharding
    from pausejax.checkpoints.store import Store
    from pausejax.model import decoder

    store = Store(self.workdir / "checkpoints", None)
    shapes = jax.eval_shape(lambda: decoder.init(self.model, 0))
    return store.restore_params(sharding.placed(shapes, mesh), self.step)

  def warn_of_pauses(self, num_pauses: float, what: str = "pauses") -> None:
    """Says on standard error that the model never read the pauses it will.

    Args:
      num_pauses: that an answer waits for; 0 for none.
      what: they are called in the message.
    """
    if num_pauses and not self.meta["pauses_seen"]:
      print(
        f"pausejax: warning: step {self.step} of {self.workdir} never read a "
        f"<pause> in training, so what it answers after {num_pauses:g} {what} "
        "says nothing about pauses",
        file=sys.stderr,
      )


def find(spec: str) -> Trained:
  """Returns the run at `WORKDIR` or `WORKDIR/checkpoints/STEP`, without JAX.

  Of a workdir it takes the newest checkpoint, and no older one in its place.

  Raises:
    CheckpointUnusable: the checkpoint is damaged.
    UserError: no checkpoint there, or its tokenizer is gone or another one.
  """
  workdir, step = folders.locate(spec)
  meta = checked(folders.require(workdir / "checkpoints", step).meta)
  files = sorted(workdir.glob("tokenizer.*"))
  tokenizer_spec = str(files[0]) if files else "bytes"
  tokenizer = tokenizers.load(tokenizer_spec)
  errors.require_same(
    f"the tokenizer in {workdir}", tokenizer.fingerprint(), meta["tokenizer"]
  )
  model = ModelConfig(**meta["model"])
  return Trained(workdir, step, meta, tokenizer, tokenizer_spec, model)


def checked(meta: dict[str, Any]) -> dict[str, Any]:
  """Returns meta.json with every field that this version reads.

  Raises:
    UserError: it is of another shape, or of a newer version.
  """
  problem = json_files.mismatch(meta, _META, "meta.json")
  try:
    if problem:
      raise errors.UserError(problem)
    config = saved.read(meta["config"]).to_dict()
    model = {**config["model"], **meta["model"]}
    ModelConfig(**model)
  except (ValueError, TypeError, OverflowError) as e:
    raise errors.UserError(
      f"the checkpoint's meta.json: {errors.first_line(e)}; it is damaged, or "
      "of a newer pausejax"
    ) from e
  return {**meta, "config": config, "model": model}
