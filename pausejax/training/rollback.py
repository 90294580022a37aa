"""Going back to an earlier step of a run: `train --rollback_to=STEP`.

The later checkpoints are moved to `set_aside`, and the run resumes from STEP,
usually with `skip_batches`, so that it is not trained on the batches around a
spike of the loss (PaLM, arXiv:2204.02311, section 5.1: from about 100 steps
before the spike, without 200 to 500 batches). Launchers repeat a command, so a
rollback that the newest checkpoint already records, with the same settings, is
not made again.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from pausejax import errors
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders, saved_run
from pausejax.training import resume


@dataclasses.dataclass(frozen=True)
class Rollback:
  """A rollback that a start of a run makes.

  Attributes:
    to: the step to resume from.
    before: the step of the newest checkpoint.
    skip_batches: the batches that are left out from then on.
  """

  to: int
  before: int
  skip_batches: str

  def summary(self) -> str:
    """Returns a line on it."""
    skipped = self.skip_batches or "none"
    return (
      f"rollback from step {self.before} to step {self.to}; batches left out: "
      f"{skipped}"
    )


def plan_rollback(
  step: int,
  workdir: pathlib.Path,
  own: saved_run.SavedRun | None,
  values: Mapping[str, Any],
) -> tuple[Rollback | None, saved_run.SavedRun]:
  """Returns (the rollback to make, the checkpoint to resume from).

  Args:
    step: the step to go back to.
    workdir: the folder of the run.
    own: its newest readable checkpoint.
    values: the fields of its config.

  Raises:
    UsageError: no checkpoint of that step.
  """
  folder = workdir / CHECKPOINTS
  errors.require(
    own is not None, f"--rollback_to={step}: no checkpoint in {folder}"
  )
  assert own is not None, "checked above"
  latest = [r["to"] for r in own.meta.get("rollbacks", [])][-1:]
  is_same = not resume.differences(own.meta["config"], values)
  if is_same and latest == [step]:
    return None, own
  steps = folders.numbered(folder)
  errors.require(
    step in steps,
    f"--rollback_to={step}: no such checkpoint in {folder}; available: "
    f"{', '.join(map(str, steps))}",
  )
  rollback = Rollback(step, own.step, values["skip_batches"])
  return rollback, saved_run.find_run(str(folder / str(step)))
