"""A small study, which several test files plan, run and read."""

import pathlib

from pausejax.config import default
from pausejax.evaluation import results
from pausejax.study import plan as plans
from pausejax.study.config import StudyConfig


def fields(**changes) -> dict:
  """A study of one task with two pretrainings and three finetunings."""
  return {
    **default(StudyConfig).to_dict(),
    "title": "test",
    "prepare": (("one", "segments --out={workdir}/prepare/one/store"),),
    "pretrain_words": "--config.data.segments_dir={workdir}/prepare/one/store",
    "finetune_words": "--config.num_steps=2",
    "evaluate_words": "--limit=4",
    "pretrainings": {"std": ("a.py:pause=false",), "pause": ("a.py",)},
    "tasks": ("stdlib_cloze",),
    "finetunings": {
      "m0": ("b.py:task={task},pauses=0",),
      "m2": ("b.py:task={task},pauses=2",),
      "m4": ("b.py:task={task},pauses=4",),
    },
    "evaluations": {"m2": ("--pauses=0,1",)},
    "seeds": (0, 1),
    "variants": (
      ("StdPT_StdFT", "std", "m0"),
      ("PausePT_PauseFT", "pause", "m2", "m4"),
    ),
    **changes,
  }


def plan(workdir: pathlib.Path, **changes) -> plans.Study:
  return plans.make_plan(workdir, fields(**changes))


def read_all(built) -> dict[str, list[dict]]:
  return {
    c.id: results.read_results(c.workdir / "evaluations")
    for c in built.finetuning_cells()
  }
