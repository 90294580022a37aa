"""Does a drawn number of pauses in training help to answer without pauses?

  JAX_PLATFORMS=cpu python -m benchmarks.zero_pauses \\
    --workdir=runs/zero_pauses --picture=docs/zero_pauses.svg

Two tasks: parity of 8 bits (`benchmarks/short_parity.py`, pauses with
targets), and the last word of a passage (`stdlib_cloze`, finetuned from a small
pretrained model). Each is trained with M pauses, with a number drawn for each
example from 0 to M, with 0 or M, and without pauses; every model answers the
held-out examples with several numbers of pauses. Five seeds. A run takes
about 35 seconds of CPU time, so expect half an hour on two idle cores.
The program may be stopped and started again; complete runs and answers are
skipped. Prints the tables in Markdown; --show does so before the end.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from benchmarks import line_chart, measure
from pausejax import cli
from pausejax.evaluation import results

SEEDS = (0, 1, 2, 3, 4)
_BITS, _MOST = 8, 10  # Of short_parity; pauses of stdlib_cloze.
_SMALL = (
  "--config.model.num_layers=2",
  "--config.model.d_model=64",
  "--config.model.num_heads=4",
  "--config.data.seq_len=192",
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A task with its arms.

  Attributes:
    title: of the chart.
    metrics: names of values in a saved result; the first is in the chart.
    train: words of every `pausejax train`, where {workdir} is the folder of
      all runs.
    arms: name -> what is trained, and its words.
    sweep: the numbers of pauses of the answers.
    has_log_scale: of the chart.
  """

  title: str
  metrics: tuple[str, ...]
  train: tuple[str, ...]
  arms: Mapping[str, tuple[str, ...]]
  sweep: tuple[int, ...]
  has_log_scale: bool = False


def _arms(most: int) -> dict[str, tuple[str, ...]]:
  fixed = f"--config.finetune.num_pauses={most}"
  drawn = "--config.finetune.train_num_pauses="
  return {
    f"{most}": (fixed,),
    f"0 to {most}": (fixed, f"{drawn}0-{most}"),
    f"0 or {most}": (fixed, f"{drawn}0,{most}"),
    "0": ("--config.finetune.num_pauses=0",),
  }


EXPERIMENTS = {
  "parity": Experiment(
    title="parity of 8 bits: accuracy, percent",
    metrics=("accuracy",),
    train=(
      "--config=configs/parity.py:arm=both",
      "--config.tasks_module=benchmarks.short_parity",
      "--config.data.task=short_parity",
      f"--config.data.seq_len={2 * _BITS + 2}",
      "--config.model.d_model=32",
      "--config.batch_size=64",
      "--config.num_steps=1500",
      "--config.optim.learning_rate=3e-3",
      "--config.optim.warmup_steps=100",
      "--config.checkpoint.every=1500",
      "--config.eval.every=0",
      "--config.eval.num_examples=0",
      "--config.log.every=100",
    ),
    arms=_arms(_BITS),
    sweep=tuple(range(_BITS + 1)),
  ),
  "cloze": Experiment(
    title="last word of a passage: perplexity",
    metrics=("perplexity", "em"),
    train=(
      "--config=configs/finetune_smoke.py",
      "--init_from={workdir}/pretrained",
      "--config.num_steps=100",
      "--config.checkpoint.every=100",
    ),
    arms=_arms(_MOST),
    sweep=(0, 1, 2, 5, 10, 20),
    has_log_scale=True,
  ),
}

Metrics = dict[int, dict[str, float]]  # Number of pauses -> metrics.
Answers = dict[tuple[str, int], Metrics]  # (arm, seed) -> metrics.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is missing; prints the tables and draws the charts."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--workdir", type=pathlib.Path, required=True)
  add("--picture", type=pathlib.Path, required=True)
  add("--show", action="store_true", help="train nothing, show what is there")
  options = parser.parse_args(argv)
  if not options.show:
    compiled = str((options.workdir / "compiled").absolute())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    pretrain(options.workdir)
    for seed, name in itertools.product(SEEDS, EXPERIMENTS):
      for arm in EXPERIMENTS[name].arms:
        run(name, arm, seed, options.workdir)
  answers = read_answers(options.workdir)
  print(*table_lines(answers), "", measure.conditions(), sep="\n")
  if any(answers.values()):
    options.picture.write_text(picture(answers))


def pretrain(workdir: pathlib.Path) -> None:
  """Makes a vocabulary and a pretrained decoder for the last words."""
  tokenizer = workdir / "tokenizer.model"
  if not tokenizer.exists():
    config = ("--config=configs/smoke.py", "--vocab_size=1024")
    pausejax("tokenizer", "train", *config, f"--out={tokenizer}")
  pausejax(
    "train",
    "--config=configs/smoke.py",
    *_SMALL,
    f"--config.data.tokenizer={tokenizer}",
    "--config.num_steps=400",
    "--config.eval.every=400",
    f"--workdir={workdir / 'pretrained'}",
  )


def run(name: str, arm: str, seed: int, workdir: pathlib.Path) -> None:
  """Trains a run and answers, unless it is complete."""
  experiment, folder = EXPERIMENTS[name], _folder(name, arm, seed, workdir)
  answered = _metrics(folder)
  missing = [str(m) for m in experiment.sweep if m not in answered]
  if missing:
    words = [word.format(workdir=workdir) for word in experiment.train]
    seeded = (f"--config.seed={seed}", f"--workdir={folder}")
    pausejax("train", *words, *experiment.arms[arm], *seeded)
    pauses = f"--pauses={','.join(missing)}"
    pausejax("evaluate", f"--checkpoint={folder}", pauses, "--batch_size=64")


def read_answers(workdir: pathlib.Path) -> dict[str, Answers]:
  """Returns the metrics of all runs that have some, by experiment."""
  answers: dict[str, Answers] = {}
  for name, experiment in EXPERIMENTS.items():
    runs = {
      (arm, seed): _metrics(_folder(name, arm, seed, workdir))
      for arm, seed in itertools.product(experiment.arms, SEEDS)
    }
    answers[name] = {key: metrics for key, metrics in runs.items() if metrics}
  return answers


def _folder(
  name: str, arm: str, seed: int, workdir: pathlib.Path
) -> pathlib.Path:
  return workdir / f"{name}-{arm.replace(' ', '-')}-s{seed}"


def _metrics(folder: pathlib.Path) -> Metrics:
  found = results.read_results(folder / "evaluations")
  return {result["num_pauses"]: result["metrics"] for result in found}


def pausejax(*words: str) -> None:
  """Runs a command in this process; ends it if the command fails."""
  exit_code = cli.main(list(words))
  if exit_code:
    raise SystemExit(exit_code)


def table_lines(answers: Mapping[str, Answers]) -> list[str]:
  """Returns tables in Markdown: mean over seeds, least and greatest."""
  lines = []
  for name, experiment in EXPERIMENTS.items():
    for metric in experiment.metrics:
      cells = [f"{name}, {metric}", "seeds", *map(str, experiment.sweep)]
      lines += ["", _row(cells), _row(["---"] * len(cells))]
      for arm in experiment.arms:
        runs = [m for (other, _), m in answers[name].items() if other == arm]
        cells = [
          _cell([r[m][metric] for r in runs if m in r])
          for m in experiment.sweep
        ]
        lines.append(_row([arm, str(len(runs)), *cells]))
  return lines


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _cell(values: Sequence[float]) -> str:
  """Returns the mean, and the least and the greatest value if they differ."""
  if not values:
    return "-"
  digits = 1 if max(values) < 1000 else 0
  mean, low, high = (
    f"{v:,.{digits}f}"
    for v in (statistics.mean(values), min(values), max(values))
  )
  return mean if low == high else f"{mean} ({low} to {high})"


def picture(answers: Mapping[str, Answers]) -> str:
  """Returns an SVG: each experiment's first metric over M, every seed."""
  return line_chart.picture(
    "Answers with fewer pauses than in training, every seed",
    [
      line_chart.Panel(
        title=experiment.title,
        x_title="pauses at inference",
        lines=[
          (arm, [(m, of_m[m][experiment.metrics[0]]) for m in sorted(of_m)])
          for (arm, _), of_m in answers[name].items()
        ],
        names={arm: f"trained with {arm}" for arm in experiment.arms},
        has_log_scale=experiment.has_log_scale,
      )
      for name, experiment in EXPERIMENTS.items()
      if answers[name]
    ],
  )


if __name__ == "__main__":
  main()
