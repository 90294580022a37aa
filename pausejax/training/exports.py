"""Exports of a run while it trains: WORKDIR/exports/STEP.

An export follows the checkpoint of its step. A run that was killed in between
resumes from that checkpoint and makes the export then.
"""

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax

from pausejax import errors
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.interop import export
from pausejax.interop.model_card import CardScore
from pausejax.model.decoder import Decoder
from pausejax.runtime import distributed
from pausejax.training.inputs import Inputs

FOLDER = "exports"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exports:
  """The exports of one run.

  Attributes:
    inputs: the inputs of the run.
    meta: fields of meta.json that describe the run.
  """

  inputs: Inputs
  meta: Mapping[str, Any]

  def is_due(self, step: int) -> bool:
    """Returns whether a step is exported."""
    every = self.inputs.config.checkpoint.export_every
    return every > 0 and step > 0 and step % every == 0

  def is_missing(self, step: int) -> bool:
    """Returns whether a step is due and has no export; equal in all processes.

    All processes call it together.
    """
    is_missing = self.is_due(step) and not self._folder(step).exists()
    return distributed.all_gather(is_missing)[0]

  def discard(self, step: int) -> None:
    """Removes the export that an earlier attempt at a step has left.

    It is called before that step is saved again, perhaps with other settings.
    """
    if self.is_due(step) and distributed.process_index() == 0:
      shutil.rmtree(self._folder(step), ignore_errors=True)

  def write(
    self, model: Decoder, step: int, answers: Mapping[str, float]
  ) -> None:
    """Writes an export; all processes call it together.

    A failure is reported on standard error, and training continues.

    Args:
      model: the parameters after the step.
      step: the step.
      answers: metrics of held-out answers at that step.

    Raises:
      UserError: it failed, and the run has several processes.
    """
    out = self._folder(step)
    try:
      export.write_export(self.prepare(step, answers), model, out)
    except OSError as e:
      message = f"step {step} was not exported to {out}: {e.strerror or e}"
      # The others wait for this process.
      if jax.process_count() > 1:
        raise errors.UserError(message) from e
      print(
        f"pausejax: {message}; training continues", file=sys.stderr, flush=True
      )

  def _folder(self, step: int) -> pathlib.Path:
    return self.inputs.workdir / FOLDER / str(step)

  def prepare(self, step: int, answers: Mapping[str, float]) -> export.Export:
    """Returns the export of a step, without parameters."""
    i = self.inputs
    saved = SavedRun(
      workdir=i.workdir,
      url=i.url,
      step=step,
      meta=dict(self.meta),
      tokenizer=i.tokenizer,
      tokenizer_spec=i.config.data.tokenizer,
      model=i.config.model_config(i.tokenizer.vocab_size),
      average=i.config.eval.average,
    )
    scores = [
      CardScore(
        what="held-out examples",
        condition="as in training",
        metric=name,
        value=value,
        count=i.config.eval.num_examples,
      )
      for name, value in answers.items()
    ]
    name = f"{i.workdir.name}-{step}"
    return export.prepare_export(saved, name, scores=scores)


def check_exports(inputs: Inputs) -> None:
  """Raises UserError if a run is to be exported and cannot be."""
  if inputs.config.checkpoint.export_every:
    meta = {"config": inputs.values, "pauses_seen": False}
    Exports(inputs=inputs, meta=meta).prepare(0, {})
