"""Which steps are kept, and how the others are deleted.

A score that is not a finite number is no score: it is never the best, and never
takes the place of one that is. Of equal scores the newest is the better.
"""

import math
import pathlib
import shutil
import time
from collections.abc import Mapping

from pausejax.checkpoints import folders
from pausejax.config import CheckpointConfig

TRASH = "trash"


def delete_old(
  folder: pathlib.Path, config: CheckpointConfig, last_finite: int
) -> None:
  """Deletes the whole steps that are not to be kept; a damaged one stays.

  Args:
    folder: of the checkpoints.
    config: what to keep.
    last_finite: the newest step up to here is kept in any case.

  Raises:
    OSError: a step cannot be read or moved.
  """
  scores = {}
  for step in folders.numbered(folder):
    try:
      meta = folders.read(folder, step).meta
    except folders.Damaged:
      continue
    scores[step] = meta.get("answers", {}).get("score", math.nan)
  for step in scores.keys() - kept(scores, config, last_finite):
    # Renamed first: a deletion cut short must not leave what looks like a step.
    trash = folder / TRASH
    trash.mkdir(exist_ok=True)
    (folder / str(step)).rename(trash / str(step))
  empty_trash(folder)


def kept(
  scores: Mapping[int, float], config: CheckpointConfig, last_finite: int
) -> set[int]:
  """Returns the newest, the periodic and the best of the steps.

  Args:
    scores: step -> score of its held-out answers, larger is better; NaN where
      nothing was answered, which is never among the best.
    config: how many of each kind.
    last_finite: the last step that was not skipped; the newest up to there is
      kept, too.
  """
  newest = sorted(scores)[-config.keep :]
  finite = sorted(s for s in scores if s <= last_finite)[-1:]
  period = config.keep_period
  periodic = [s for s in scores if period and s % period == 0]
  measured = [s for s in scores if math.isfinite(scores[s])]
  best = sorted(measured, key=lambda s: (scores[s], s), reverse=True)
  return {*newest, *finite, *periodic, *best[: config.keep_best]}


def empty_trash(folder: pathlib.Path) -> None:
  """Deletes what was moved to the trash, and what a failed save left.

  Threads of a save that failed may still be writing: it is tried for a second.
  """
  shutil.rmtree(folder / TRASH, ignore_errors=True)
  for _ in range(20):
    left = list(folder.glob("[0-9]*.orbax-checkpoint-tmp"))
    if not left:
      return
    for path in left:
      shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)
