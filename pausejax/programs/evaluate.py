"""Answers a task's examples, or scores plain text, with a trained model.

  pausejax evaluate --checkpoint=runs/squad50 --task=squad --pauses=0,2,10,50
  pausejax evaluate --checkpoint=runs/squad50 --task=squad --filler=. \\
    --position=prepend --pauses=10
  pausejax evaluate --checkpoint=runs/pause-1b --task=all --local_dir=/data
  pausejax evaluate --checkpoint=runs/pause-1b --text='/data/held_out/*.txt' \\
    --pause_fraction=0,0.1

`--checkpoint` is the workdir of a run (its newest checkpoint), or
WORKDIR/checkpoints/STEP. Prints one line per condition. Each result, with its
condition, is written as JSON to WORKDIR/evaluations/, with its predictions in
another file. With several tasks, local copies are read from LOCAL_DIR/TASK.
Several processes share the work if the environment defines them
(`runtime/environment.py`).

With --track=tensorboard,wandb the results in the folder appear there, metrics
over M, as a run beside that of the training (docs/tracking.md).

With --text, every token of the files is scored once without pauses, and once
with pauses at random places (--pause_fraction). Perplexity and bits per byte
compare runs that were trained with different pauses. Results are written to
WORKDIR/text_scores/.

With --average, the average of the parameters answers (optim.ema_decay), and the
results are in WORKDIR/evaluations_average/ and WORKDIR/text_scores_average/.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence

import pausejax
from pausejax import commandline, errors, files, tasks
from pausejax.buckets import urls
from pausejax.checkpoints import saved_run
from pausejax.config import (
  DataConfig,
  FinetuneConfig,
  LogConfig,
)
from pausejax.data.finetuning import examples, prompts
from pausejax.evaluation import results
from pausejax.programs import evaluate_text
from pausejax.prompt_pauses import (
  FILLERS,
  POSITIONS,
  PromptPauses,
  TokenPauses,
)
from pausejax.runtime import (
  accelerators,
  distributed,
  phases,
  tables,
  trackers,
  watchdog,
)
from pausejax.tasks import records


def main(argv: list[str]) -> int:
  """Checks the command line, then evaluates every task and condition."""
  options, _ = parser().parse(argv)
  errors.require_in_range("--batch_size", options.batch_size, 1)
  errors.require_in_range("--limit", options.limit, 0)
  errors.require(
    not (options.track and urls.is_url(options.checkpoint)),
    "--track: cannot be used with a checkpoint in a bucket",
  )
  _check_combination(options)
  errors.require(
    not (options.track and options.average),
    "--track: it would replace the curve of the parameters by that of their "
    "average; leave out one of --track and --average",
  )
  for name in options.track:
    errors.require_one_of("--track", name, trackers.NAMES)
  run = saved_run.find_run(options.checkpoint, average=options.average)
  distributed.require_agreement(
    {
      "JAX_NUM_PROCESSES": distributed.num_processes(),
      "options": vars(options),
      "step": run.step,
    }
  )
  if options.text:
    return evaluate_text.main(options, run)
  config = run.meta["config"]
  tasks.import_module(options.tasks_module or config["tasks_module"])
  names = task_names(
    options.task,
    DataConfig(**config["data"]),
    ", or score plain text with --text",
  )
  plans = [
    (tasks.downstream(name), list(requested_pauses(options, run, name)))
    for name in names
  ]
  for task, _ in plans:
    known = examples.splits(task)
    errors.require_one_of("--split", options.split or known[-1], known)
  for task, conditions in plans:
    for pauses in conditions:  # Checked before anything is read or compiled.
      prompts.Format(task, run.tokenizer, pauses, run.behind_tokens)
  run.warn_of_pauses(max(p.num_pause_tokens for _, ps in plans for p in ps))
  files.require_writable("--out", _folder(options, run))
  if distributed.process_index() == 0:
    trackers.require_usable(options.track, "--track={}")
  accelerators.require_used()
  with watchdog.watch(run.limits), devices(options):
    phases.enter("evaluating", run.step)
    splits = {
      task.name: examples.read_split(
        task,
        options.split or examples.scoring_split(task),
        task_data(options, config, task.name, len(names)),
      )
      for task, _ in plans
    }
    _evaluate(options, run, plans, splits)
    run.upload(_folder(options, run))
  if options.track and distributed.process_index() == 0:
    points = results.sweep_points(_folder(options, run))
    log = LogConfig(**config["log"])
    trackers.send_sweep(options.track, run.workdir, log, points)
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("evaluate", __doc__, config=False)
  add = made.add_argument
  made.add_checkpoint()
  add(
    "--task",
    type=commandline.name_list,
    default="",
    help="TASK[,TASK...] or all (the run's task)",
  )
  add("--split", default="", help="split (test, else validation)")
  add(
    "--pauses",
    type=commandline.whole_numbers,
    default="",
    help="M[,M...] at inference (as finetuned)",
  )
  add("--position", default="", help=f"{' or '.join(POSITIONS)} (as finetuned)")
  add(
    "--filler",
    default=None,
    help=f"text, {' or '.join(FILLERS)} in place of <pause> (as finetuned)",
  )
  add("--local_dir", default="", help="published files (as in the run)")
  add("--tasks_module", default="", help="registers tasks of your own")
  add("--batch_size", type=int, default=32, help="examples at a time (32)")
  add("--limit", type=int, default=0, help="only the first N examples; 0: all")
  add("--out", default="", help="folder of results (in WORKDIR)")
  add(
    "--track",
    type=commandline.name_list,
    default="",
    help=f"also show results in {' or '.join(trackers.NAMES)}, or both (none)",
  )
  add("--text", default="", help="score plain text: a folder, glob or files")
  add(
    "--field", default="text", help="field of JSON lines with the text (text)"
  )
  add(
    "--pause_fraction",
    type=commandline.fractions,
    default="",
    help="F[,F...] of the positions with --text (0, and as pretrained)",
  )
  add(
    "--seq_len",
    type=int,
    default=0,
    help="positions of a window with --text (as pretrained)",
  )
  return made


def _check_combination(options: argparse.Namespace) -> None:
  """Raises if options of tasks and options of plain text are mixed."""
  tasks_only = ("task", "split", "pauses", "position", "filler", "track")
  text_only = ("pause_fraction", "seq_len")
  how = "with" if options.text else "without"
  for name in tasks_only if options.text else text_only:
    errors.require(
      not getattr(options, name), f"--{name}: cannot be used {how} --text"
    )


def task_names(
  given: Sequence[str], own: DataConfig, others: str = ""
) -> Sequence[str]:
  """Returns the tasks in --task; none stands for those of the training run.

  "all" stands for the tasks with published data, without generated ones.
  """
  if given == ("all",):
    names = tasks.downstream_names()
    return [n for n in names if _is_published(tasks.downstream(n))]
  names = given or list(own.rates)
  errors.require(
    bool(given) or isinstance(tasks.get(names[0]), tasks.Task),
    f"--task: the run was trained on {own.task!r}, which has no answers; name "
    f"a downstream task{others}",
  )
  for name in names:
    tasks.downstream(name)  # Raises for an unknown name.
  return names


def _is_published(task: tasks.Task) -> bool:
  return isinstance(task.source, records.Files)


def requested_pauses(
  options: argparse.Namespace, run: saved_run.SavedRun, name: str
) -> Iterator[PromptPauses]:
  """Yields the conditions (pauses) that the command line requests."""
  finetune = FinetuneConfig(**run.meta["config"]["finetune"])
  pauses = finetune.pauses(tasks.downstream(name).num_pauses)
  if options.position:
    pauses = dataclasses.replace(pauses, position=options.position)
  if options.filler is not None:
    pauses = dataclasses.replace(pauses, filler=options.filler)
  for count in options.pauses or (pauses.num_pauses,):
    yield dataclasses.replace(pauses, num_pauses=count)


def task_data(options, config: dict, name: str, num_tasks: int) -> DataConfig:
  """Returns the data config of a task."""
  data = DataConfig(**config["data"])
  folder = options.local_dir or data.local_dir
  if folder and num_tasks > 1:
    folder = examples.folder_of(folder, name)
  folder = str(pathlib.Path(folder).resolve()) if folder else ""
  return dataclasses.replace(data, local_dir=folder)


def _folder(options, run: saved_run.SavedRun) -> pathlib.Path:
  """Returns the folder of the results."""
  return pathlib.Path(options.out or run.results_folder("evaluations"))


@contextlib.contextmanager
def devices(options) -> Iterator[None]:
  """Puts all devices in scope as a mesh, over which a batch must divide."""
  import jax

  from pausejax import sharding

  with jax.set_mesh(sharding.data_mesh()):
    sharding.check_divisible({"--batch_size": (options.batch_size, "batch")})
    yield


def _evaluate(options, run: saved_run.SavedRun, plans, splits) -> None:
  """Loads the model and writes one result per condition."""
  import jax

  from pausejax.evaluation.answers import Predictor
  from pausejax.runtime.progress import CountBar

  def predictor(task, pauses: PromptPauses) -> Predictor:
    return Predictor(
      format=prompts.Format(task, run.tokenizer, pauses, run.behind_tokens),
      tokenizer=run.tokenizer,
      batch_size=options.batch_size,
    )

  def rows_of(task) -> list[tasks.Example]:
    return splits[task.name].rows[: options.limit or None]

  for task, conditions in plans:  # Refused before the first is answered.
    most = max(conditions, key=lambda pauses: pauses.num_pauses)
    predictor(task, most).check(rows_of(task), run.model.max_seq_len)
  folder = _folder(options, run)
  model = run.load()
  for task, conditions in plans:
    loaded, rows = splits[task.name], rows_of(task)
    print(
      f"{task.name} {loaded.summary()}; {len(rows):,} to answer", flush=True
    )
    data = task_data(options, run.meta["config"], task.name, len(plans))
    for pauses in conditions:
      began = time.perf_counter()
      with CountBar("examples", len(rows)) as bar:
        answers = predictor(task, pauses).answer(model, rows, bar.update)
      seconds = time.perf_counter() - began
      stem = results.name(task.name, loaded.split, pauses, run.step)
      stem += "-average" * run.average
      result = {
        **_condition(run, task, loaded, pauses, data.local_dir),
        "n": len(rows),
        "primary_metric": task.primary_metric,
        "metrics": answers.metrics,
        "intervals": results.score_intervals(answers.rows),
        "num_cut": answers.num_cut,
        "num_cut_tokens": answers.num_cut_tokens,
        "seconds": seconds,
        "flops_per_example": answers.flops_per_example,
        "seconds_per_example": answers.seconds_per_example,
        "batch_size": options.batch_size,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
      }
      if jax.process_index() == 0:
        results.write_result(folder, stem, result, answers.rows)
      print(_line(pauses, run.behind_tokens, result), flush=True)
  print(f"results are in {run.shown(folder)}")


def _condition(
  run: saved_run.SavedRun, task, loaded, pauses: PromptPauses, local_dir
) -> dict:
  """Returns all fields that define the condition of a result."""
  config = run.meta["config"]
  trained_on = DataConfig(**config["data"]).rates
  finetune = FinetuneConfig(**config["finetune"])
  own = finetune.pauses(task.num_pauses) if task.name in trained_on else None
  return {
    "task": task.name,
    "split": loaded.split,
    "examples_sha256": loaded.sha256,
    "num_unusable": loaded.num_unusable,
    **pauses.condition(),
    "filler": pauses.token,
    "pauses_behind_tokens": run.behind_tokens.num_per_token,
    **run.behind_tokens.note(),
    "finetuned": own and own.condition(),
    "seed": config["seed"],
    "local_dir": local_dir,
    "checkpoint": run.place,
    "step": run.step,
    "average": run.average,
    "tokenizer": run.meta["tokenizer"],
    "prefix_attention": run.model.prefix_attention,
    "pausejax": pausejax.__version__,
  }


def _interval(limits: tuple[float, float] | None) -> str:
  """Returns " [low, high]", 95% over examples; "" for a perplexity."""
  return f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else ""


def _line(pauses: PromptPauses, behind: TokenPauses, result: dict) -> str:
  """Returns one line for the terminal: condition, metrics, n."""
  metrics = "  ".join(
    f"{name} {tables.compact(value)}{_interval(result['intervals'].get(name))}"
    for name, value in result["metrics"].items()
  )
  num_cut = result["num_cut"]
  cut = f", {num_cut} prompts truncated on the left" if num_cut else ""
  return (
    f"  M={pauses.num_pauses} {pauses.position} {pauses.token}"
    f"{f', {behind}' if behind.ids else ''}: {metrics}  "
    f"(n={result['n']:,}{cut}, {result['seconds']:.1f} s)"
  )
