"""Sets up a training run from its inputs: devices, data, first state."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pausejax import errors, sharding
from pausejax.buckets import copies
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.buckets.mirror import Mirror
from pausejax.checkpoints.bucket_store import BucketStore
from pausejax.checkpoints.restoring import Restored
from pausejax.checkpoints.store import Store
from pausejax.data import pipeline
from pausejax.data.pipeline import RunData
from pausejax.evaluation import held_out_answers, samples
from pausejax.runtime import (
  compilation,
  distributed,
  flops,
  metric_writer,
  phases,
  run_folder,
  watchdog,
)
from pausejax.runtime.agreement import Agreement
from pausejax.runtime.goodput import Goodput
from pausejax.runtime.progress import ProgressBar
from pausejax.runtime.signals import StopFlag, Stopped
from pausejax.training import (
  bucket_folder,
  description,
  initial,
  parts,
  profiling,
  resume,
  step,
)
from pausejax.training.exports import Exports, check_exports
from pausejax.training.held_out import HeldOut
from pausejax.training.inputs import Inputs
from pausejax.training.loop import Run
from pausejax.training.meter import Counters, Meter
from pausejax.training.parts import Parts
from pausejax.training.saver import Saver


@contextlib.contextmanager
def open_run(
  inputs: Inputs, stop: StopFlag, started: float
) -> Iterator[Run | None]:
  """Yields the run, its newest checkpoint restored; None if no step is left.

  Until the context ends, the workdir is locked and the mesh is in scope.

  Args:
    inputs: the inputs of the run.
    stop: the flag that signals set.
    started: time.time() when the program started.

  Raises:
    UserError: devices, data or checkpoint do not match the config.
  """
  with (
    watchdog.watch(inputs.config.watchdog),
    jax.set_mesh(sharding.make_mesh(inputs.config.mesh)),
    compilation.CompileWatch() as compiled,
  ):
    goodput = Goodput(started, compiled)
    made = parts.make_parts(inputs.config, inputs.tokenizer.vocab_size)
    check_exports(inputs)
    with (
      copies.named(inputs.url, inputs.workdir),
      run_folder.hold_workdir(inputs.workdir),
      bucket_folder.mirrored(inputs) as (inputs, mirror),
      compilation.use_cache(
        inputs.config.compilation_cache, inputs.workdir
      ) as cache,
    ):
      if distributed.process_index() == 0 and inputs.own is not None:
        inputs.require_resumable(inputs.own)
      store = _open_store(inputs, made, mirror)
      _roll_back(inputs, store)
      data, fingerprint = _open_data(inputs, made, mirror)
      agreement = Agreement(stop)
      with goodput.measure("restoring"):
        restored = store.restore(made.abstract) or _continued(inputs, made)
      _resume(inputs, data, fingerprint, restored)
      meta = description.run_meta(inputs, fingerprint, restored)
      exports = _exports(inputs, meta)
      if restored and _is_over(inputs, restored, exports):
        yield None
        return
      state = (
        restored.state
        if restored
        else initial.first_state(inputs.config, made, inputs.initial)
      )
      held_out = _held_out(inputs, data)
      store.prepare(made.abstract)
      _keep_inputs(inputs, restored, started)
      for line in description.start_lines(inputs, data, state, restored):
        print(line, flush=True)
      profiler = profiling.Profiler(
        inputs.workdir, inputs.config.profile, inputs.place
      )
      with (
        _meter(inputs, data, made, restored, agreement, goodput) as meter,
        profiler,
      ):
        if mirror is not None:
          mirror.begin()
        if note := profiler.note(
          int(state.step), resume.last_step(inputs.config)
        ):
          print(note)
        try:
          yield Run(
            config=inputs.config,
            train_step=_train_step(inputs, made),
            state=state,
            evaluation_due=_is_evaluation_due(restored),
            batches=data.batches,
            held_out=held_out,
            saver=Saver(
              store=store,
              batches=data.batches,
              meta=meta,
              optim=inputs.config.optim,
              goodput=goodput,
            ),
            meter=meter,
            goodput=goodput,
            profiler=profiler,
            cache=cache,
            stop=agreement,
            exports=exports,
          )
        except errors.UserError:
          # A save in progress ends before the other processes are notified.
          store.wait()
          raise
        except Exception:
          if mirror is not None and distributed.is_single_process():
            with contextlib.suppress(Exception):
              store.wait()
          raise


def _open_store(inputs: Inputs, made: Parts, mirror: Mirror | None) -> Store:
  """Returns the run's checkpoints; prepares the folder of a new run."""
  folder, config = inputs.checkpoints, inputs.config.checkpoint
  store = (
    BucketStore(folder, config, inputs.url, mirror)
    if inputs.url
    else Store(folder, config)
  )
  is_new = not inputs.checkpoints.exists()
  if distributed.all_gather(is_new)[0]:
    store.prepare(made.abstract)
  return store


def _roll_back(inputs: Inputs, store: Store) -> None:
  """Sets the checkpoints after the step of the rollback aside."""
  if inputs.rollback is None:
    return
  to = inputs.rollback.to
  _, moved = store.set_aside_after(to, f"rolled back to step {to}")
  steps = ", ".join(map(str, moved)) or "none"
  print(f"{inputs.rollback.summary()}; moved to set_aside: {steps}")


def _continued(inputs: Inputs, made: Parts) -> Restored | None:
  """Returns the checkpoint of another run that this run continues, if any."""
  if inputs.initial is None or inputs.config.init_load != "state":
    return None
  return initial.continued_state(made, inputs.initial)


def _open_data(
  inputs: Inputs, made: Parts, mirror: Mirror | None
) -> tuple[RunData, dict[str, Any]]:
  """Returns the run's data, prepared by process 0, and its fingerprint."""
  with phases.phase(phases.PREPARING):
    if distributed.process_index() == 0:
      pipeline.prepare(inputs.config, inputs.values, inputs.workdir)
    bucket_folder.share_segments(mirror)
  data = pipeline.open_run_data(
    inputs.config, inputs.tokenizer, inputs.workdir, made.host
  )
  fingerprint = data.batches.fingerprint()
  distributed.require_agreement(
    {"devices": jax.local_device_count(), "data": fingerprint}
  )
  return data, fingerprint


def _resume(
  inputs: Inputs,
  data: RunData,
  fingerprint: dict[str, Any],
  restored: Restored | None,
) -> None:
  """Moves the data to the checkpoint's position; prints where the run starts.

  Raises:
    UserError: the checkpoint's settings or data differ from the run's.
  """
  if restored is None:
    print(f"starting at step 0: no checkpoint in {inputs.place}/{CHECKPOINTS}")
    return
  resume.require_resumable(inputs.place, restored.meta["config"], inputs.values)
  errors.require_same(
    f"the run in {inputs.place} (choose another --workdir, or its "
    "settings): the data of the checkpoint",
    restored.meta["data"],
    fingerprint,
  )
  data.batches.restore(restored.data)
  print(f"resuming from step {int(restored.state.step)}: {restored.reason}")
  for line in resume.resume_notes(inputs.config, inputs.values, restored.meta):
    print(line)


def _exports(inputs: Inputs, meta: dict[str, Any]) -> Exports | None:
  """Returns the exports of the run; None if it has none."""
  if not inputs.config.checkpoint.export_every:
    return None
  return Exports(inputs=inputs, meta=meta)


def _is_over(
  inputs: Inputs, restored: Restored, exports: Exports | None
) -> bool:
  """Returns whether the run is over; prints a line if so."""
  start = int(restored.state.step)
  is_over = resume.is_over(inputs.config, start)
  if not is_over or _is_evaluation_due(restored):
    return False
  if exports and exports.is_missing(start):
    return False
  folder = f"{inputs.place}/{CHECKPOINTS}"
  print(resume.nothing_to_do(inputs.config, start, folder))
  return True


def _train_step(inputs: Inputs, made: Parts) -> Callable[..., Any]:
  """Returns the train step, which writes its programs on request."""
  if not inputs.config.profile.hlo:
    return made.train_step
  return profiling.with_hlo(made.train_step, inputs.workdir, inputs.place)


def _is_evaluation_due(restored: Restored | None) -> bool:
  return restored is not None and restored.meta.get("owed", False)


def _keep_inputs(
  inputs: Inputs, restored: Restored | None, started: float
) -> None:
  """Writes the config, its history and the tokenizer into the workdir."""
  if distributed.process_index() > 0:
    return
  history = run_folder.History(inputs.workdir)
  if restored is not None:
    history.begin(restored.meta["config"], started)
  step = int(restored.state.step) if restored else 0
  history.add(step, inputs.values, started)
  run_folder.keep_inputs(
    inputs.workdir, inputs.config.data.tokenizer, inputs.values
  )


@contextlib.contextmanager
def _meter(
  inputs: Inputs,
  data: RunData,
  made: Parts,
  restored: Restored | None,
  stop: Agreement,
  goodput: Goodput,
) -> Iterator[Meter]:
  """Yields the meter of the run, on its metrics file and progress bar."""
  config, skips = inputs.config, inputs.config.batch_skips
  start = int(restored.state.step) if restored else 0
  history = run_folder.History(inputs.workdir)
  # A run that continues another one has a time of its own.
  own = restored.meta if restored and not inputs.initial else {}
  goodput.resume(history.first_start(), own.get("time"))
  writer = metric_writer.open_writer(
    inputs.workdir,
    start,
    config.log,
    inputs.values,
    evaluation_due=_is_evaluation_due(restored),
    every=history.largest_interval(),
    continues=config.init_load == "state",
  )
  goodput.lost_steps = writer.num_lost_steps(goodput.lost_steps)
  for line in writer.notes():
    print(line)
  exit_code = 1
  try:
    with ProgressBar(
      start, config.num_steps, resume.last_step(config)
    ) as progress:
      yield Meter(
        writer,
        progress,
        Counters(**restored.meta["counters"]) if restored else Counters(),
        every=config.log.every,
        trims=config.data.pauses.displaces_text and not data.held_out,
        unigram_entropy=data.unigram_entropy,
        flops_per_token=flops.per_token(made.model, config.data.seq_len),
        full_flops_per_token=flops.per_token(
          made.model, config.data.seq_len, full_attention=True
        ),
        peak_flops=flops.peak(),
        goodput=goodput,
        describe_batch=data.batches.describe,
        batch_of=skips.batch if skips.ranges else None,
      )
    writer.close()
    exit_code = stop.exit_code
  except (errors.UserError, Stopped) as e:
    exit_code = e.exit_code
    raise
  finally:
    writer.end(exit_code)


def _held_out(inputs: Inputs, data: RunData) -> HeldOut:
  """Returns the evaluator of the run."""
  config, tokenizer = inputs.config, inputs.tokenizer
  return HeldOut(
    evaluate_batch=step.jit_evaluate_batch(
      config.loss, pause_id=tokenizer.pause_id
    ),
    batches=data.evaluation,
    plain_batches=data.plain_evaluation,
    answer=held_out_answers.scorer(config, data.held_out, tokenizer),
    sample=samples.sampler(config, tokenizer),
  )
