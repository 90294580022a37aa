"""Pretrains a decoder, with pauses or without, and resumes by itself.

  pausejax train --config=configs/smoke.py --workdir=run
  pausejax train --config=configs/pretrain_c4.py:size=130m,pause=true \\
    --config.optim.learning_rate=3e-4 --config.batch_size=256 --workdir=run

The workdir gets config.json, the tokenizer, metrics.jsonl (a line a step) and
checkpoints/. Start the same command again, after a crash or a kill, and it
goes on from the newest checkpoint as if nothing had happened: on the same
devices the losses are the same to the last bit.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

from pausejax import commandline, errors, settings, tasks
from pausejax.data import tokenizers
from pausejax.errors import require_same
from pausejax.runtime import signals
from pausejax.settings import TrainConfig


def main(argv: list[str]) -> int:
  """Checks everything that needs no device, then trains."""
  parser = commandline.Parser("train", __doc__, config=True)
  parser.add_argument("--workdir", required=True, help="folder of the run")
  options, tree = parser.parse(argv)
  values = tree.to_dict()
  config = settings.train_config(values)
  tasks.get(config.data.task).source(config.data)
  tokenizer = tokenizers.load(config.data.tokenizer)
  stop = signals.StopFlag()
  errors.require(bool(options.workdir), "--workdir: got '', name a folder")
  with _opened(pathlib.Path(options.workdir).resolve()) as workdir:
    if config.data.door == "segments" and not config.data.segments_dir:
      _prepare_segments(workdir, values)
    return _train(config, values, tokenizer, workdir, stop)


def _train(config: TrainConfig, values, tokenizer, workdir, stop) -> int:
  """Puts the run together, restores what there is, and runs the loop."""
  # Imported here: the command line is checked before JAX starts.
  import jax
  from etils import epath

  from pausejax import optimizer as optimizers
  from pausejax import sharding
  from pausejax.checkpoints.store import Store
  from pausejax.runtime import flops
  from pausejax.runtime.metric_writer import MetricWriter
  from pausejax.runtime.progress import ProgressBar
  from pausejax.training import loop, meter, state, step

  model_config = config.model_config(tokenizer.vocab_size)
  optimizer, schedule = optimizers.make(config.optim, config.num_steps)
  mesh = sharding.make_mesh(config.mesh)
  _check_mesh(config, model_config, mesh)
  host = (jax.process_index(), jax.process_count())
  batches, evaluation, entropy = _open_door(config, tokenizer, workdir, host)
  store = Store(epath.Path(workdir) / "checkpoints", config.checkpoint)
  with jax.set_mesh(mesh):
    abstract = state.abstract(model_config, optimizer, mesh)
    restored = store.restore(abstract)
    if restored is None:
      print(f"starting at step 0: no checkpoint in {workdir / 'checkpoints'}")
      counters = meter.Counters()
      train_state = state.init_on_mesh(
        model_config, optimizer, config.seed, mesh
      )
    else:
      require_same(
        "the data of the checkpoint",
        restored.meta["data"],
        batches.fingerprint(),
      )
      batches.restore(restored.data)
      counters = meter.Counters(**restored.meta["counters"])
      train_state = restored.state
      print(f"resuming from step {train_state.step}: {restored.reason}")
    _keep_inputs(workdir, config, values)
    start = int(train_state.step)
    _print_size(train_state.model, mesh)
    writer = MetricWriter(workdir, start, config.log.tensorboard)
    with ProgressBar(start, config.num_steps) as progress:
      final = loop.Loop(
        config=config,
        train_step=step.jit_train_step(
          functools.partial(
            step.train_step,
            optimizer=optimizer,
            schedule=schedule,
            loss=config.loss,
            num_microbatches=config.optim.num_microbatches,
            pause_id=tokenizer.pause_id,
          ),
          jax.tree.map(lambda x: x.sharding, abstract),
          mesh,
        ),
        evaluate_batch=jax.jit(
          functools.partial(
            step.evaluate_batch,
            loss=config.loss,
            pause_id=tokenizer.pause_id,
          )
        ),
        put=functools.partial(sharding.put_batch, mesh=mesh),
        batches=batches,
        evaluation=evaluation,
        store=store,
        meta=_identity(config, values, tokenizer, batches, mesh),
        counters=counters,
        meter=meter.Meter(
          writer,
          progress,
          counters,
          every=config.log.every,
          trims=config.data.pause_mode == "insert_trim",
          unigram_entropy=entropy,
          flops_per_token=flops.per_token(model_config, config.data.seq_len),
          peak_flops=flops.peak(),
        ),
        stop=stop,
      ).run(train_state)
    writer.close()
  print(f"step {final.step} is saved in {workdir / 'checkpoints'}")
  return stop.exit_code


def _identity(config: TrainConfig, values, tokenizer, batches, mesh) -> dict:
  """Returns what meta.json says of the run, enough to rebuild it."""
  packages = ("pausejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  return {
    "config": values,
    "model": {"vocab_size": tokenizer.vocab_size, **config.model},
    "tokenizer": tokenizer.fingerprint(),
    "pause_id": tokenizer.pause_id,
    "data": batches.fingerprint(),
    "mesh": dict(mesh.shape),
    "versions": {name: metadata.version(name) for name in packages},
  }


def _print_size(model, mesh) -> None:
  import jax

  count = sum(x.size for x in jax.tree.leaves(model))
  device = jax.devices()[0]
  print(
    f"{count:,} parameters on {jax.device_count()} {device.device_kind} "
    f"device(s), mesh {dict(mesh.shape)}",
    flush=True,
  )


@contextlib.contextmanager
def _opened(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes the folder and keeps a second run out of it."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / "lock").open("w")
  except OSError as e:
    raise errors.UserError(f"--workdir: cannot write {workdir}: {e}") from e
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(
        f"--workdir: another run is using {workdir}; wait for it or choose "
        "another folder"
      ) from None
    yield workdir


def _prepare_segments(workdir: pathlib.Path, values: dict) -> None:
  """Makes `<workdir>/segments` unless it is there, in a process of its own.

  Reading TFDS takes TensorFlow, which must not enter the training process.
  """
  out = workdir / "segments"
  if out.exists():
    return
  print(f"preparing segments in {out}", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    config = pathlib.Path(folder) / "config.json"
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pausejax", "segments"]
    command += [f"--config={config}", f"--out={out}"]
    code = subprocess.run(command, check=False).returncode
  if code:
    raise errors.UserError(f"segments could not be prepared (exit {code})")


def _keep_inputs(workdir: pathlib.Path, config: TrainConfig, values) -> None:
  """Puts the resolved config and the tokenizer into the workdir.

  Only once the run is known to fit what is there, and each in one rename.
  """
  files = {"config.json": (json.dumps(values, indent=2) + "\n").encode()}
  tokenizer = pathlib.Path(config.data.tokenizer)
  if tokenizer.is_file():
    files[f"tokenizer{tokenizer.suffix}"] = tokenizer.read_bytes()
  for name, content in files.items():
    temporary = workdir / f"{name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(workdir / name)


def _open_door(config: TrainConfig, tokenizer, workdir, host):
  """Returns (training batches, a function that makes the held-out ones, the
  unigram entropy of the held-out text if it is known)."""
  data = config.data
  if data.door == "seqio":
    from pausejax.data.seqio.stream import SeqioBatches

    stream = functools.partial(
      SeqioBatches,
      data,
      tasks.get(data.task),
      batch_size=config.batch_size,
      seed=config.seed,
      shard=host,
    )
    num_batches = config.eval.num_batches or None
    evaluation = lambda: itertools.islice(
      stream(split="validation"), num_batches
    )
    return stream(), evaluation, None
  from pausejax.data import batches, segments

  folder = pathlib.Path(data.segments_dir or workdir / "segments")
  train, held_out = (
    batches.SegmentSource(
      data=data,
      store=segments.load(folder, split, data, tokenizer),
      tokenizer=tokenizer,
      batch_size=config.batch_size,
      seed=config.seed,
      host=host,
    )
    for split in ("train", "validation")
  )
  evaluation = functools.partial(
    held_out.evaluation_batches, config.eval.num_batches
  )
  entropy = held_out.store.index["validation"]["unigram_entropy"]
  return batches.SegmentBatches(train), evaluation, entropy


def _check_mesh(config: TrainConfig, model, mesh) -> None:
  from pausejax import sharding

  sharding.check_divisible(
    mesh,
    {
      "batch_size": (
        config.batch_size // config.optim.num_microbatches,
        "batch",
      ),
      "model.num_heads": (model.num_heads, "heads"),
      "model.num_kv_heads": (model.num_kv_heads, "kv_heads"),
      "model.d_ff": (model.d_ff, "mlp"),
      "model.d_model": (model.d_model, "embed"),
      "vocabulary rows": (model.num_vocab_rows, "vocab"),
    },
  )
