"""Decides which steps are kept, and deletes the others.

A score that is not finite counts as no score, so its step is never among the
best. Of equal scores, the newest ranks highest.
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
  """Deletes the intact steps that are not kept; damaged ones stay.

  Args:
    folder: the folder of the checkpoints.
    config: how many steps to keep.
    last_finite: the newest step up to this one is kept in any case.

  Raises:
    OSError: a step cannot be read or moved.
  """
  scores = {}
  for step in folders.numbered(folder):
    try:
      meta = folders.read_step(folder, step).meta
    except folders.Damaged:
      continue
    scores[step] = meta.get("answers", {}).get("score", math.nan)
  for step in scores.keys() - kept(scores, config, last_finite):
    # Renamed first: an interrupted deletion must not leave a partial step.
    trash = folder / TRASH
    trash.mkdir(exist_ok=True)
    (folder / str(step)).rename(trash / str(step))
  empty_trash(folder)


def kept(
  scores: Mapping[int, float], config: CheckpointConfig, last_finite: int
) -> set[int]:
  """Returns the newest, the periodic and the best of the steps.

  Args:
    scores: step -> score of its held-out answers, larger is better; NaN if
      there are none, which is never among the best.
    config: how many of each kind to keep.
    last_finite: the last step that was not skipped; the newest step up to it is
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
  """Deletes the trash and the remains of failed saves.

  Threads of a failed save may still be writing, so this retries for a second.
  """
  shutil.rmtree(folder / TRASH, ignore_errors=True)
  for _ in range(20):
    left = list(folder.glob("[0-9]*.orbax-checkpoint-tmp"))
    if not left:
      return
    for path in left:
      shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)
