"""The commands of a study, checked before the first of them runs.

So a mistake in the last finetuning command is reported before days of
pretraining. Errors that depend on devices or on the output of earlier commands
are reported when the command runs.
"""

import argparse
import contextlib
import io
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from pausejax import cli, errors, tasks
from pausejax.config import DataConfig, loader, train_config
from pausejax.data import pipeline, tokenizers
from pausejax.data.finetuning import examples
from pausejax.study.cells import Cell
from pausejax.study.plan import Study
from pausejax.tasks import records


def check_cells(plan: Study) -> None:
  """Checks the commands of every cell that is not done, for one seed.

  Raises:
    UsageError: a command is wrong; the message names its cell.
  """
  for cell in plan.cells():
    if not cell.is_done() and cell.seed in (0, plan.seeds[0]):
      for words in cell.commands:
        _check_command(cell, words, plan)


def _check_command(cell: Cell, words: Sequence[str], plan: Study) -> None:
  verb, *rest = words or [""]
  try:
    errors.require_one_of("verb", verb, cli.VERBS)
    if verb == "tokenizer":
      rest = rest[1:]
    if verb in ("train", "evaluate", "segments", "tokenizer"):
      program = cli.program(verb)
      # The command prints its warnings again when it runs.
      with contextlib.redirect_stderr(io.StringIO()):
        options, tree = program.parser().parse(rest)
      _check_options(verb, options, tree, plan)
  except errors.UserError as e:
    raise errors.UsageError(f"{cell.id}: {verb}: {e.message}") from e


def _check_options(
  verb: str, options: argparse.Namespace, tree: ConfigDict, plan: Study
) -> None:
  """Checks the options of a command, except files that do not exist yet."""
  if verb == "evaluate":
    errors.require(
      not options.average,
      "--average: the table of a study has the parameters only; leave it out",
    )
    tasks.import_module(options.tasks_module)
    for name in options.task:
      known = examples.splits(tasks.downstream(name))
      errors.require_one_of("--split", options.split or known[-1], known)
    return
  config = train_config(tree.to_dict())
  tasks.import_module(config.tasks_module)
  pipeline.check_data(config.data, config.finetune)
  pipeline.require_used_pauses(config.data)
  _check_files(config.data, plan)
  if not _is_made_by_study(config.data.tokenizer, plan) and verb != "tokenizer":
    tokenizers.load_for(config.data)
  source = options.init_from if verb == "train" else ""
  if source and not _is_made_by_study(source, plan):
    errors.require(
      pathlib.Path(source).is_dir(),
      f"--init_from: no folder {source!r}, nor a config of this name"
      f"{errors.nearest(source, loader.shipped())}",
    )


def _check_files(data: DataConfig, plan: Study) -> None:
  """Checks that the published files of downstream tasks are in their folder."""
  folder = data.local_dir
  if data.segments_dir or (folder and _is_made_by_study(folder, plan)):
    return  # Training reads a store, or files that do not exist yet.
  for name in data.rates:
    source = tasks.get(name).source
    if isinstance(source, records.Files) and (folder or not source.tfds):
      source.paths("train", data)


def _is_made_by_study(name: str, plan: Study) -> bool:
  """Returns whether the study itself makes a file or folder."""
  return pathlib.Path(name).resolve().is_relative_to(plan.workdir)
