"""The commands that reproduce the runs of a folder, in dependency order."""

import pathlib
import shlex
from collections.abc import Sequence

from pausejax.buckets.layout import CHECKPOINTS
from pausejax.probe.results import AXES
from pausejax.prompt_pauses import PromptPauses
from pausejax.study.report.runs import StudyRun

_AGAIN = "-again"


def commands_of_runs(runs: Sequence[StudyRun]) -> dict[str, list[str]]:
  """Returns run id -> its commands: training, then every evaluation.

  A run comes after the run that it is initialized from. New folders are named
  after the old ones, and a run is initialized from the new folder.
  """
  return {run.id: _commands(run, runs) for run in ordered(runs)}


def ordered(runs: Sequence[StudyRun]) -> list[StudyRun]:
  """Returns the runs, each after the one that it is initialized from."""
  remaining, result = list(runs), []
  while remaining:
    needed = [r for r in remaining if _initial(r, remaining) is None]
    # Two runs that name each other cannot be ordered.
    result += needed or remaining
    remaining = [r for r in remaining if r not in needed] if needed else []
  return result


def _commands(run: StudyRun, runs: Sequence[StudyRun]) -> list[str]:
  again = f"{run.workdir}{_AGAIN}"
  train = ["train", f"--config={run.workdir / 'config.json'}"]
  train.append(f"--workdir={again}")
  initial = _initial(run, runs)
  if initial is not None:
    train.append(f"--init_from={initial.workdir}{_AGAIN}")
  lines = [train, *(_evaluation(again, run, r) for r in run.results)]
  lines += [_text(again, run, score) for score in run.text_scores]
  lines += [_probe(again, run, probe) for probe in run.probes]
  return [shlex.join(["pausejax", *words]) for words in lines]


def _initial(run: StudyRun, runs: Sequence[StudyRun]) -> StudyRun | None:
  """Returns the run among `runs` that a run is initialized from."""
  spec = run.config.get("init_from")
  if not spec:
    return None
  path = pathlib.Path(spec).resolve()
  folders = (path, path.parent.parent)  # A workdir, or a step in one.
  return next(
    (r for r in runs if r is not run and r.workdir.resolve() in folders), None
  )


def _probe(again: str, run: StudyRun, result: dict) -> list[str]:
  """Returns the words of the command that probes the pauses again."""
  by = [axis for axis in AXES if result[f"by_{axis}"]]
  maps = f"--maps={','.join(result['by_layer_and_pause'])}"
  words = _evaluation(again, run, result, verb="probe")
  return [*words, maps, f"--by={','.join(by)}"]


def _evaluation(
  again: str, run: StudyRun, result: dict, verb: str = "evaluate"
) -> list[str]:
  """Returns the words of the command that reproduces a result."""
  words = [
    verb,
    _checkpoint(again, run, result),
    f"--task={result['task']}",
    f"--split={result['split']}",
    *PromptPauses.from_saved(result).options,
    f"--limit={result['n']}",
  ]
  if result.get("local_dir"):
    words.append(f"--local_dir={result['local_dir']}")
  if run.config.get("tasks_module"):
    words.append(f"--tasks_module={run.config['tasks_module']}")
  return words


def _text(again: str, run: StudyRun, score: dict) -> list[str]:
  """Returns the words of the command that scores plain text again."""
  return [
    "evaluate",
    _checkpoint(again, run, score),
    f"--text={score['text']}",
    f"--field={score.get('field', 'text')}",
    f"--pause_fraction={score['pause_fraction']:g}",
    f"--seq_len={score['seq_len']}",
    f"--limit={score['num_documents'] + score['num_empty']}",
  ]


def _checkpoint(again: str, run: StudyRun, result: dict) -> str:
  is_last = result["step"] == run.config.get("num_steps")
  step = "" if is_last else f"/{CHECKPOINTS}/{result['step']}"
  return f"--checkpoint={again}{step}"
