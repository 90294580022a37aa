"""Finds out what the pauses of a trained model do, by changing them.

  pausejax probe --checkpoint=runs/parity/both
  pausejax probe --checkpoint=runs/squad10 --limit=500 --maps=cut
  pausejax probe --checkpoint=runs/smollm2 --task=piqa --pauses=10 \\
    --local_dir=/data/piqa

Answers are scored under four lesions of the pauses, in all layers together, by
layer, by pause and by both: their attention is cut, their vectors are replaced
by the mean or by zero, or their keys and values come from another example.
Also measured: accuracy with only the first j pauses, the logit lens at every
pause, and the attention on it. Prints a verdict by a fixed rule: the model uses
its pauses, ignores them, ignores what they hold, or the data cannot tell
(docs/probe.md).

`--checkpoint` is the workdir of a run (its newest checkpoint), or
WORKDIR/checkpoints/STEP. Pauses are those of the finetuning, if no option
changes them. The result is written as JSON to WORKDIR/probes/, which `pausejax
report` draws. There are 2 + 4 (1 + L) (1 + P) + P passes for L layers and P
pauses; --maps= leaves 2 + 4 (1 + L + P) + P of them, and --maps= --by= the
6 + P that the verdict needs.
"""

import argparse
import pathlib
import shlex
import time
from typing import Any

import pausejax
from pausejax import commandline, errors, files, tasks
from pausejax.checkpoints import saved_run
from pausejax.config import DataConfig, FinetuneConfig
from pausejax.data.finetuning import examples, prompts
from pausejax.evaluation import results as evaluations
from pausejax.inspection.sequences import Detokenizer
from pausejax.probe import results, verdict
from pausejax.programs import evaluate
from pausejax.prompt_pauses import FILLERS, POSITIONS, PromptPauses
from pausejax.runtime import accelerators, phases, tables, watchdog


def main(argv: list[str]) -> int:
  """Checks the command line, then probes one task and condition."""
  options, _ = parser().parse(argv)
  errors.require_in_range("--batch_size", options.batch_size, 1)
  errors.require_in_range("--limit", options.limit, 0)
  for name in options.maps:
    errors.require_one_of("--maps", name, results.LESIONS)
  for name in options.by:
    errors.require_one_of("--by", name, results.AXES)
  run = saved_run.find_run(options.checkpoint, average=options.average)
  config = run.meta["config"]
  tasks.import_module(options.tasks_module or config["tasks_module"])
  task, pauses = _condition(options, run)
  known = examples.splits(task)
  errors.require_one_of("--split", options.split or known[-1], known)
  format_ = prompts.Format(task, run.tokenizer, pauses, run.behind_tokens)
  run.warn_of_pauses(pauses.num_pause_tokens)
  folder = pathlib.Path(options.out or run.results_folder(results.FOLDER))
  files.require_writable("--out", folder)
  accelerators.require_used()
  with watchdog.watch(run.limits), evaluate.devices(options):
    phases.enter("evaluating", run.step)
    data = evaluate.task_data(options, config, task.name, 1)
    split = options.split or examples.scoring_split(task)
    loaded = examples.read_split(task, split, data)
    began = time.perf_counter()
    found = _probe(options, run, format_, loaded)
  result = {
    "task": task.name,
    "split": split,
    "examples_sha256": loaded.sha256,
    **pauses.condition(),
    "filler": pauses.token,
    "pauses_behind_tokens": run.behind_tokens.num_per_token,
    **run.behind_tokens.note(),
    **found,
    "local_dir": data.local_dir,
    "checkpoint": run.place,
    "step": run.step,
    "average": run.average,
    "seed": config["seed"],
    "seconds": time.perf_counter() - began,
    "pausejax": pausejax.__version__,
    "command": shlex.join(["pausejax", "probe", *argv]),
  }
  stem = evaluations.name(task.name, split, pauses, run.step)
  stem += results.extent(found["n"], options.maps, options.by)
  stem += "-average" * run.average
  results.write_probe(folder, stem, result)
  run.upload(folder)
  print("\n".join(_lines(result)))
  print(f"the result is {run.shown(folder)}/{stem}.json")
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("probe", __doc__, config=False)
  add = made.add_argument
  made.add_checkpoint()
  add("--task", default="", help="a downstream task (the run's task)")
  add("--split", default="", help="split (test, else validation)")
  add(
    "--pauses",
    type=commandline.whole_numbers,
    default="",
    help="M (as finetuned)",
  )
  add("--position", default="", help=f"{' or '.join(POSITIONS)} (as finetuned)")
  add(
    "--filler",
    default=None,
    help=f"text, {' or '.join(FILLERS)} in place of <pause> (as finetuned)",
  )
  add(
    "--maps",
    type=commandline.name_list,
    default=tuple(results.LESIONS),
    help="lesions to repeat for each layer and pause (all)",
  )
  add(
    "--by",
    type=commandline.name_list,
    default=results.AXES,
    help=f"repeat all lesions by {' and by '.join(results.AXES)} (both)",
  )
  add("--local_dir", default="", help="published files (as in the run)")
  add("--tasks_module", default="", help="registers tasks of your own")
  add("--batch_size", type=int, default=32, help="rows at a time (32)")
  add("--limit", type=int, default=1000, help="first N examples; 0: all (1000)")
  add("--out", default="", help="folder of results (in WORKDIR)")
  return made


def _condition(
  options: argparse.Namespace, run: saved_run.SavedRun
) -> tuple[tasks.Task, PromptPauses]:
  """Returns the task and its pauses; raises UsageError if none is probed."""
  own = DataConfig(**run.meta["config"]["data"])
  names = evaluate.task_names((options.task,) if options.task else (), own)
  errors.require(
    len(names) == 1, f"--task: one task at a time, as in --task={names[0]}"
  )
  errors.require(
    len(options.pauses) < 2, "--pauses: one number at a time, as in --pauses=10"
  )
  errors.require(
    run.model.num_loops == 1,
    f"{run.place} has model.num_loops {run.model.num_loops}; only runs with 1 "
    "can be probed",
  )
  (pauses,) = evaluate.requested_pauses(options, run, names[0])
  inside = run.behind_tokens
  others = f" but {inside}, which are not probed," if inside.ids else ""
  errors.require(
    pauses.num_pauses > 0 or inside.num_per_token > 0,
    f"{run.place} answers {names[0]} without pauses (M = 0),{others} so there "
    "is nothing to probe; name a number, as in --pauses=10",
  )
  errors.require(
    pauses.num_pauses > 0 or not (options.position or options.filler),
    "--position and --filler apply to the M pauses around the prefix, but M is "
    "0: leave them out, or name a number, as in --pauses=10",
  )
  errors.require(
    pauses.num_pauses != 1 or not pauses.is_read,
    f"M = 1, pause position {pauses.position!r}: the answer is read at the "
    "only pause, which no lesion can remove; compare pausejax evaluate "
    "--pauses=0,1, or probe a run with more pauses",
  )
  return tasks.downstream(names[0]), pauses


def _probe(
  options: argparse.Namespace,
  run: saved_run.SavedRun,
  format_: prompts.Format,
  loaded: examples.Examples,
) -> dict[str, Any]:
  """Runs all passes; returns what they show."""
  from pausejax.probe import measure, summary
  from pausejax.runtime.progress import CountBar

  rows = loaded.rows[: options.limit or None]
  finetune = FinetuneConfig(**run.meta["config"]["finetune"])
  if finetune.curriculum_steps:  # The run answers without them.
    rows = [tasks.without_steps(row, len(row.steps)) for row in rows]
  print(f"{format_.task.name} {loaded.summary()}; {len(rows):,} to probe")
  prober = measure.Prober(
    model=run.load(),
    format=format_,
    examples=rows,
    pause_id=run.tokenizer.pause_id,
    batch_size=options.batch_size,
  )
  num_rows = len(prober.encoded.rows)  # Refused before the first pass.
  specs = measure.specs_of(
    run.model.num_layers,
    prober.num_groups,
    prober.num_probed,
    options.maps,
    options.by,
  )
  probed = _probed(format_, prober.num_probed)
  print(f"{probed}; {len(specs) + 2:,} passes of {num_rows:,} rows", flush=True)
  with CountBar("rows without a lesion", num_rows) as bar:
    unchanged = prober.unchanged(bar.update)
  with CountBar("rows with lesions", num_rows * len(specs)) as bar:
    lesioned = prober.lesioned(
      [*specs.values()], unchanged.means_LGD, bar.update
    )
  cut = prober.encoded.prompts
  return {
    "n": len(rows),
    "num_probed": prober.num_probed,
    "num_cut": cut.num_cut,
    "num_cut_tokens": cut.num_cut_tokens,
    **summary.summarize(
      unchanged,
      [*specs],
      lesioned,
      [row.group or row.id for row in rows],
      Detokenizer(run.tokenizer),
    ),
  }


def _probed(format_: prompts.Format, num_probed: int) -> str:
  """Returns which pauses are probed, as text."""
  pauses, behind = format_.pauses, format_.filler.behind
  if not pauses.num_pauses:
    return (
      f"{behind} of the prompt, all probed but the last, where the answer is "
      "read"
    )
  others = f"; {behind} not probed" if behind.ids else ""
  return (
    f"{pauses.num_pauses} x {pauses.token} {pauses.place}, {num_probed} of "
    f"them probed{others}"
  )


def _lines(result: dict[str, Any]) -> list[str]:
  """Returns the result as text."""
  level = result["accuracy"]
  lines = [
    f"no lesion: accuracy {level['mean']:.2f} [{level['low']:.2f}, "
    f"{level['high']:.2f}] %, log-likelihood {result['log_likelihood']:.3f} "
    f"nats (n={result['n']:,})"
  ]
  if result["num_cut"]:
    lines.append(f"{result['num_cut']:,} prompts truncated on the left")
  table = [["lesion", "accuracy drop, points", "log-likelihood drop, nats"]]
  for kind, effect in result["lesions"].items():
    table.append([f"{kind}, everywhere", *map(_drop, effect.values())])
  for kind, effects in result["by_layer"].items():
    for layer, effect in enumerate(effects):
      table.append([f"{kind}, layer {layer}", *map(_drop, effect.values())])
  lines += tables.table_lines(table)
  kept = result["kept"]
  lines.append("accuracy with only the first j pauses, %:")
  lines.append(
    "  ".join(f"{k['num_kept']}: {k['accuracy']['mean']:.1f}" for k in kept)
  )
  lens = result["lens"]
  lines.append("logit lens of the output at each pause, most frequent token:")
  lines.append("  ".join(lens["top"][-1]))
  lines.append("and how often it is the first one of the right answer, %:")
  lines.append("  ".join(f"{x:.1f}" for x in lens["accuracy"][-1]))
  lines.append("attention of the reading position to all probed pauses, %:")
  lines += [_attention(i, heads, result) for i, heads in _by_layer(result)]
  lines.append(f"rule: {result['rule']}")
  lines.append(f"{result['reason']}")
  lines.append(f"verdict: {result['verdict']}")
  return lines


def _drop(drop: dict[str, float]) -> str:
  return verdict.format_drop(verdict.Drop(**drop))


def _by_layer(result: dict[str, Any]) -> list[tuple[int, list[float]]]:
  """Returns (layer, the attention of each head to all probed pauses)."""
  return [
    (layer, [sum(of_head) for of_head in heads])
    for layer, heads in enumerate(result["attention"]["by_head"])
  ]


def _attention(layer: int, heads: list[float], result: dict[str, Any]) -> str:
  even = sum(result["attention"]["even"][layer])
  shares = "  ".join(f"{100 * share:.1f}" for share in heads)
  return f"  layer {layer}: {shares}  (evenly: {100 * even:.1f})"
