"""Pretrains or finetunes a decoder, and resumes by itself.

  pausejax train --config=configs/smoke.py --workdir=run
  pausejax train --config=configs/pretrain_c4.py:size=130m,pause=true \\
    --config.optim.learning_rate=3e-4 --config.batch_size=256 --workdir=run
  pausejax train --config=configs/finetune.py:task=squad,pauses=50 \\
    --init_from=run --config.data.local_dir=/data/squad --workdir=squad50

With --init_from the model's shape and the tokenizer are those of the run named
there. The workdir gets config.json, the tokenizer, metrics.jsonl (a line a
step) and checkpoints/. Start the same command again, after a crash or a kill,
and it goes on from the newest checkpoint as if nothing had happened: on the
same devices the losses are the same to the last bit, and the run named by
--init_from is no longer needed. Settings that differ are printed; those that
decide what is computed are refused (docs/resume.md). Several processes run
together where SLURM, a TPU or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID say so (`runtime/environment.py`).
"""

import argparse
import functools
import pathlib
from typing import Any

from pausejax import commandline, errors, tasks
from pausejax.checkpoints import loaded_run
from pausejax.config import (
  ModelConfig,
  TrainConfig,
  architecture_fields,
  check_fields,
  train_config,
)
from pausejax.data import pipeline, tokenizers
from pausejax.data.finetuning import prompts
from pausejax.errors import require_same
from pausejax.runtime import (
  accelerators,
  distributed,
  provenance,
  run_folder,
  signals,
)
from pausejax.training import resume


def main(argv: list[str]) -> int:
  """Checks all that costs nothing, the devices last; then trains."""
  stop = signals.StopFlag(at_once=True)
  options, tree = parser().parse(argv, _take_over)
  # As the run is read from other folders, too.
  folder = tree.data.local_dir
  errors.require_local("data.local_dir", folder)
  tree.data.local_dir = str(pathlib.Path(folder).resolve()) if folder else ""
  if tree.init_from:
    tree.init_from = str(pathlib.Path(tree.init_from).resolve())
  values = tree.to_dict()
  config = train_config(values)
  tasks.import_module(config.tasks_module)
  pipeline.check(config.data)
  tokenizer = tokenizers.load(config.data.tokenizer)
  errors.require(bool(options.workdir), "--workdir: got '', name a folder")
  workdir = pathlib.Path(options.workdir).resolve()
  own = resume.own_checkpoint(workdir)
  initial = _initial(config.init_from) if not own else None
  if initial is not None:
    _check_tokenizer(tokenizer, initial)
  distributed.require_agreement(
    {
      "JAX_NUM_PROCESSES": distributed.num_processes(),
      "config": values,
      "--workdir": str(workdir),
      "--init_from": initial and f"step {initial.step} of {initial.workdir}",
      "tokenizer": tokenizer.fingerprint(),
      "versions": provenance.versions(),
    }
  )
  accelerators.require_used()
  from pausejax.training import parts  # The command line is checked: JAX.

  made = parts.make(config, tokenizer.vocab_size)
  with run_folder.opened(workdir):
    if distributed.process_index() == 0 and own is not None:
      resume.require_resumable(workdir, own.meta["config"], values)
      _check_tokenizer(tokenizer, own)
    return _train(config, values, tokenizer, initial, workdir, stop, made)


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("train", __doc__, config=True)
  made.add_argument("--workdir", required=True, help="folder of the run")
  made.add_argument(
    "--init_from", default="", help="run to take parameters from"
  )
  return made


def _take_over(options: argparse.Namespace, config: Any) -> None:
  """Sets what a config takes over from the run it starts from.

  A run that has a checkpoint takes it from there: the other run may be gone.
  """
  check_fields(config.to_dict())
  config.init_from = options.init_from or config.init_from
  if not config.init_from:
    return
  is_saved = options.config.endswith(".json")
  own = resume.own_checkpoint(pathlib.Path(options.workdir).resolve())
  source = own or (None if is_saved else _initial(config.init_from))
  if source is not None:
    config.data.tokenizer = (
      resume.tokenizer_spec(own) if own else source.tokenizer_spec
    )
  if source is None or is_saved:
    return
  # Positions are learned up to there.
  limit = source.model.max_seq_len
  config.data.seq_len = min(config.data.seq_len, limit)
  for name in architecture_fields(ModelConfig):
    config.model[name] = getattr(source.model, name)


def _initial(spec: str) -> loaded_run.Trained | None:
  """Returns the run to take parameters from, None where none is named."""
  if not spec:
    return None
  errors.require_local("init_from", spec)
  path = pathlib.Path(spec)
  siblings = [str(p) for p in path.parent.glob("*") if p.is_dir()]
  errors.require(
    path.is_dir(),
    f"--init_from: no folder {spec!r}{errors.nearest(spec, siblings)}",
  )
  return loaded_run.find(spec)


def _check_tokenizer(tokenizer, initial: loaded_run.Trained) -> None:
  """Raises unless both have the same ids, `<pause>` apart."""
  names = ("tokenizer", "sha256")
  found, wanted = tokenizer.fingerprint(), initial.tokenizer.fingerprint()
  require_same(
    f"data.tokenizer of this run and of {initial.workdir}",
    {n: found[n] for n in names},
    {n: wanted[n] for n in names},
  )


def _train(
  config: TrainConfig, values, tokenizer, initial, workdir, stop, made
) -> int:
  """Puts the run together, restores what there is, and runs the loop."""
  import jax

  from pausejax import optimizer, sharding
  from pausejax.checkpoints.store import Store
  from pausejax.runtime import flops, metric_writer
  from pausejax.runtime.agreement import Agreement
  from pausejax.runtime.progress import ProgressBar
  from pausejax.training import loop, meter, step

  model_config, mesh = made.model, made.mesh
  store = Store(workdir / "checkpoints", config.checkpoint)
  is_new = not (workdir / "checkpoints").exists()
  if distributed.everyone(is_new)[0]:  # A complete run stays as it is.
    store.prepare(made.abstract)
  if jax.process_index() == 0:
    pipeline.prepare(config, values, workdir)
  distributed.everyone("prepared")
  door = pipeline.open_door(config, tokenizer, workdir, made.host)
  batches = door.batches
  distributed.require_agreement(
    {"devices": jax.local_device_count(), "data": batches.fingerprint()}
  )
  agreement = Agreement(stop, mesh)
  with jax.set_mesh(mesh):
    restored = store.restore(made.abstract)
    history = run_folder.History(workdir)
    if restored is None:
      print(f"starting at step 0: no checkpoint in {workdir / 'checkpoints'}")
      counters, owed, start = meter.Counters(), False, 0
    else:
      resume.require_resumable(workdir, restored.meta["config"], values)
      require_same(
        f"the run in {workdir} (choose another --workdir, or its settings): "
        "the data of the checkpoint",
        restored.meta["data"],
        batches.fingerprint(),
      )
      batches.restore(restored.data)
      counters = meter.Counters(**restored.meta["counters"])
      owed = restored.meta.get("owed", False)
      start = int(restored.state.step)
      print(f"resuming from step {start}: {restored.reason}")
      for line in resume.notes(config, values, restored.meta):
        print(line)
    if restored is not None and resume.is_over(config, start) and not owed:
      print(resume.nothing_to_do(config, start, workdir / "checkpoints"))
      return 0
    if restored is None:
      train_state = _first_state(config, made, initial)
    else:
      train_state = restored.state
    store.prepare(made.abstract)
    if jax.process_index() == 0:
      if restored is not None:
        history.begin(restored.meta["config"])
      history.add(start, values)
      run_folder.keep_inputs(workdir, config.data.tokenizer, values)
    for line in door.summary:
      print(line)
    _print_size(train_state.model, mesh, restored)
    print(*optimizer.treatments(config.optim, train_state.model), sep="\n")
    writer = metric_writer.open_writer(
      workdir,
      start,
      config.log.tensorboard,
      owed=owed,
      every=history.largest_interval(),
    )
    for line in writer.notes():
      print(line)
    with ProgressBar(start, config.num_steps) as progress:
      final = loop.Loop(
        config=config,
        train_step=made.train_step,
        evaluate_batch=jax.jit(
          functools.partial(
            step.evaluate_batch,
            loss=config.loss,
            pause_id=tokenizer.pause_id,
          )
        ),
        put=functools.partial(sharding.put_batch, mesh=mesh),
        batches=batches,
        evaluation=door.evaluation,
        plain_evaluation=door.plain_evaluation,
        answer=_answering(config, door, tokenizer, mesh),
        store=store,
        meta=_identity(
          config,
          values,
          tokenizer,
          batches,
          mesh,
          restored,
          initial,
        ),
        counters=counters,
        meter=meter.Meter(
          writer,
          progress,
          counters,
          every=config.log.every,
          trims=config.data.pause_mode == "insert_trim" and not door.held_out,
          unigram_entropy=door.unigram_entropy,
          flops_per_token=flops.per_token(model_config, config.data.seq_len),
          peak_flops=flops.peak(),
        ),
        stop=agreement,
        owed=owed,
      ).run(train_state)
    writer.close()
  print(resume.ending(config, final, workdir / "checkpoints"))
  return agreement.exit_code


def _first_state(config: TrainConfig, made, initial):
  """Returns fresh parameters, or those of the run to start from."""
  from pausejax import train_state as states
  from pausejax.checkpoints.store import Store
  from pausejax.training import initial as initials

  if initial is None:
    print("fresh parameters: no --init_from")
    return states.init_on_mesh(
      made.model, made.optimizer, config.seed, made.mesh
    )
  print(f"parameters from step {initial.step} of {initial.workdir}")
  return initials.from_checkpoint(
    Store(initial.workdir / "checkpoints", None),
    initial.meta,
    made.model,
    made.optimizer,
    made.mesh,
    pause_init=config.finetune.pause_init,
    seed=config.seed,
  )


def _identity(
  config: TrainConfig, values, tokenizer, batches, mesh, restored, initial
) -> dict:
  """Returns what meta.json says of the run, enough to rebuild it."""
  from pausejax.model import products

  first = initial and {"workdir": str(initial.workdir), "step": initial.step}
  before = restored or initial
  seen = before is not None and before.meta["pauses_seen"]
  return {
    "config": values,
    "model": {"vocab_size": tokenizer.vocab_size, **config.model},
    "tokenizer": tokenizer.fingerprint(),
    "pause_id": tokenizer.pause_id,
    "initial": restored.meta.get("initial") if restored else first,
    "pauses_seen": seen or _reads_pauses(config),
    "data": batches.fingerprint(),
    "mesh": dict(mesh.shape),
    "compute_dtype": products.compute_dtype(config.model["dtype"]),
    "versions": provenance.versions(),
    "commit": provenance.commit(),
    "devices": provenance.devices(),
  }


def _answering(config: TrainConfig, door: pipeline.Door, tokenizer, mesh):
  """Returns (model, show) -> metrics of its answers to held-out examples."""
  if not (door.held_out and config.eval.num_examples):
    return lambda model, show: {}
  from pausejax.evaluation.answers import Answerer

  def answer(model, show) -> dict[str, float]:
    found, first = {}, []
    for task in door.held_out:
      answerer = Answerer(
        format=task.format,
        tokenizer=tokenizer,
        batch_size=config.eval.batch_size,
        pauses_in_prefix=config.finetune.pauses_in_prefix,
        mesh=mesh,
      )
      rows = task.examples.rows[: config.eval.num_examples]
      answers = answerer.answer(model, rows, show)
      found |= {f"{task.name}_{n}": v for n, v in answers.metrics.items()}
      first.append(next(iter(answers.metrics.values())))
    return {"score": sum(first) / len(first), **found}

  return answer


def _reads_pauses(config: TrainConfig) -> bool:
  """Returns whether the sequences of this run hold `<pause>`."""
  if not pipeline.is_finetuning(config.data.task):
    return config.data.pause_fraction > 0
  found = [tasks.downstream(n) for n in tasks.mixture(config.data.task)]
  waits = [prompts.waiting(config.finetune, task) for task in found]
  return any(wait.num_pauses and not wait.filler for wait in waits)


def _print_size(model, mesh, restored) -> None:
  """Prints how large the model is, where it lies, and the compute dtype."""
  import jax

  from pausejax.model import products

  count = sum(x.size for x in jax.tree.leaves(model))
  device, dtype = jax.devices()[0], products.compute_dtype(model.config.dtype)
  before = restored and restored.meta.get("compute_dtype", dtype)
  print(
    f"{count:,} parameters on {jax.device_count()} {device.device_kind} "
    f"device(s), mesh {dict(mesh.shape)}, computing in {dtype}"
    + (
      f" (the checkpoint: in {before})" if before not in (None, dtype) else ""
    ),
    flush=True,
  )
