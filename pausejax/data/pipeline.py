"""Opens the data of a run: three pipelines with one interface.

  segments   pretraining text, prepared once (`pretraining/segments.py`)
  seqio      pretraining text, streamed (`seqio/stream.py`)
  finetuning examples of downstream tasks, packed (`finetuning/source.py`)

The task and `data.pipeline` select one.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence

from pausejax import errors, tasks
from pausejax.config import (
  DataConfig,
  FinetuneConfig,
  TrainConfig,
  mixtures,
  saved,
)
from pausejax.data import batch, record_store
from pausejax.data.finetuning import encoded, examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.data.pretraining import segments
from pausejax.data.pretraining.source import (
  Batches,
  MixedSource,
  SegmentSource,
  StepBatches,
)
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.tasks import file_lists


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
  """The data of a run.

  Attributes:
    batches: the training batches, without end.
    evaluation: returns a new iterator of the held-out batches.
    plain_evaluation: the same for the same held-out text without pauses;
      `evaluation` itself if there are none, None in finetuning.
    unigram_entropy: entropy of the held-out text in nats per token, if known.
    held_out: the held-out examples by task; empty in pretraining.
    summary: lines to print, with all counts, including what is left out.
  """

  batches: Batches
  evaluation: Callable[[], Iterator[batch.Batch]]
  plain_evaluation: Callable[[], Iterator[batch.Batch]] | None = None
  unigram_entropy: float | None = None
  held_out: Sequence[TaskSequences] = ()
  summary: Sequence[str] = ()


def is_finetuning(names: Collection[str]) -> bool:
  """Returns whether tasks are downstream tasks.

  Args:
    names: the tasks of a run, such as the keys of `data.rates`.

  Raises:
    UsageError: an unknown task, or pretraining and downstream mixed.
  """
  kinds = {isinstance(tasks.get(name), tasks.Task) for name in names}
  errors.require(
    len(kinds) == 1,
    f"data.task: {','.join(names)!r} mixes pretraining and downstream tasks; "
    "mix tasks of one kind",
  )
  return kinds == {True}


def require_used_pauses(data: DataConfig) -> None:
  """Raises UsageError if a finetuning would not use its way of pausing.

  Earlier versions ignored it, so it is not checked when a run resumes.
  """
  errors.require(
    not is_finetuning(data.rates)
    or data.pauses.is_uniform
    or data.pauses.way.num_per_token > 0
    or data.pauses.way.unit != "",
    f"data.pause_mode: {data.pause_mode!r} is for pretraining text; a "
    "finetuning has finetune.num_pauses, and inside its text those of "
    "every_token, repeat_token, after_sentences or after_paragraphs; leave it "
    "out",
  )


def check_data(data: DataConfig, finetune: FinetuneConfig) -> None:
  """Raises UsageError unless the settings select the data of a run."""
  if is_finetuning(data.rates):
    errors.require(
      data.pipeline == "segments",
      f"data.pipeline: {data.pipeline!r} reads pretraining text only, got task "
      f"{data.task!r}; use data.pipeline=segments",
    )
    if finetune.curriculum_steps:
      finetune.curriculum(tasks.downstream(data.only_task).num_pauses)
    only_one = len(data.stages) == 1
    errors.require(only_one, "data.later_rates: pretraining tasks only")
    if data.segments_dir:
      _require_stores(data)
    return
  errors.require(
    not finetune.curriculum_steps,
    f"finetune.curriculum_steps: task {data.task!r} is pretraining text, which "
    "has no worked steps; set it to 0",
  )
  for name in data.task_names:
    tasks.pretraining(name)
  expected = data.pauses.expected_pauses(data.seq_len)
  errors.require(
    not data.pauses.has_pauses or expected is None or expected[0] > 0,
    f"data.pause_fraction {data.pause_fraction} of data.seq_len {data.seq_len} "
    "is less than half a pause, so there are none; raise it, or set it to 0",
  )
  errors.require(
    data.pipeline != "seqio"
    or data.pauses.is_uniform
    or not data.pauses.has_pauses,
    f"data.pause_mode: {data.pause_mode!r} needs data.pipeline=segments",
  )
  errors.require(
    data.pipeline != "seqio" or data.num_pause_ids == 1,
    f"data.num_pause_ids: {data.num_pause_ids} needs data.pipeline=segments",
  )
  if len(data.task_names) > 1:
    errors.require(
      data.pipeline == "segments",
      f"data.pipeline: {data.pipeline!r} reads one task, got {data.task!r}; "
      "mix through data.pipeline=segments",
    )
    _require_stores(data)
  elif data.pipeline == "seqio" or not data.segments_dir:
    tasks.pretraining(data.only_task).source(data)


def _require_stores(data: DataConfig) -> None:
  """Raises UsageError unless every task has a store, and no other has."""
  if {*data.stores} != {*data.task_names}:
    raise mixtures.wrong_stores(data.segments_dir, data.task_names)


def prepare(config: TrainConfig, values: dict, workdir: pathlib.Path) -> None:
  """Prepares `<workdir>/segments` if a run needs them, in another process.

  Reading TFDS requires TensorFlow, which the training process must not import.

  Raises:
    UserError: preparing them failed.
  """
  out = workdir / "segments"
  data = config.data
  needed = data.pipeline == "segments" and not data.segments_dir
  made = (out / record_store.INDEX).exists()
  if not needed or made or is_finetuning(data.rates):
    return
  print(f"preparing segments in {out}", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "config.json"
    file.write_text(json.dumps(saved.config_to_json(values)))
    command = [sys.executable, "-m", "pausejax", "segments"]
    command += [f"--config={file}", f"--out={out}"]
    code = subprocess.run(command, check=False).returncode
  if code:
    raise errors.UserError(f"segments could not be prepared (exit {code})")


def open_run_data(
  config: TrainConfig,
  tokenizer: PauseTokenizer,
  workdir: pathlib.Path,
  host: tuple[int, int],
) -> RunData:
  """Opens the pipeline that the config selects.

  Args:
    config: config of the run.
    tokenizer: tokenizer of the run.
    workdir: where `prepare` stored the segments.
    host: (index, count) of this process.

  Raises:
    UserError: the data is missing, malformed, or for another tokenizer.
  """
  if is_finetuning(config.data.rates):
    return _open_finetuning(config, tokenizer, host)
  if config.data.pipeline == "seqio":
    return _open_seqio(config, host)
  return _open_segments(config, tokenizer, workdir, host)


def encode_split(
  config: TrainConfig, tokenizer: PauseTokenizer, name: str, split: str
) -> TaskSequences:
  """Returns a split of a downstream task as sequences for finetuning.

  M is drawn for "train" only.
  """
  task, finetune = tasks.downstream(name), config.finetune
  trains = split == "train"
  of = finetune.trained_pauses if trains else finetune.pauses
  return TaskSequences(
    _load_examples(config.data, tokenizer, task, split),
    prompts.Format(
      task,
      tokenizer,
      of(task.num_pauses),
      config.behind_tokens(tokenizer.pause_id),
    ),
    finetune,
    config.data.seq_len,
    finetune.train_numbers if trains else (),
  )


def _load_examples(
  data: DataConfig, tokenizer: PauseTokenizer, task: tasks.Task, split: str
) -> examples.Examples:
  """Reads a split from the task's store if there is one, else its files."""
  if not data.segments_dir:
    return examples.read_split(task, split, data)
  return encoded.open_encoded(
    data.stores[task.name], task, split, data, tokenizer
  )


def _open_finetuning(config: TrainConfig, tokenizer, host) -> RunData:
  rates = config.data.rates
  train, held_out = (
    [encode_split(config, tokenizer, name, split) for name in rates]
    for split in ("train", "validation")
  )
  source, held_out_source = (
    FinetuneSource(
      split,
      list(rates.values()),
      data=config.data,
      packing=config.finetune.packing,
      tokenizer=tokenizer,
      sizes=config.batch_sizes,
      seed=config.seed,
      host=host,
    )
    for split in (train, held_out)
  )
  starts = source.stage_starts(config.num_steps)
  errors.require(
    len(starts) == source.num_stages,
    f"finetune.curriculum_steps: {len(starts)} of {source.num_stages} stages "
    f"begin within the {config.num_steps:,} steps of the run, and answers are "
    "read as in the last stage; raise num_steps, or lower "
    "finetune.curriculum_epochs",
  )
  return RunData(
    batches=StepBatches(source, config.batch_skips),
    evaluation=functools.partial(
      held_out_source.evaluation_batches, config.eval.num_batches
    ),
    held_out=held_out,
    summary=[
      *(s.summary() for s in [*train, *held_out]),
      source.summary(starts),
    ],
  )


def _open_segments(config: TrainConfig, tokenizer, workdir, host) -> RunData:
  data = config.data
  train, held_out = (
    {
      name: SegmentSource(
        data=data,
        store=segments.open_segments(
          data.stores.get(name) or workdir / "segments",
          split,
          data.of_task(name),
          tokenizer,
        ),
        tokenizer=tokenizer,
        sizes=config.batch_sizes,
        seed=config.seed,
        host=host,
      )
      for name in data.task_names
    }
    for split in ("train", "validation")
  )
  first, *others = held_out.values()
  if others:
    training_source = MixedSource(sources=train, stages=data.stages)
    held_out_source = MixedSource(sources=held_out, stages=data.stages)
    entropy = None
  else:
    (training_source,) = train.values()
    held_out_source = first
    entropy = first.store.index["validation"]["unigram_entropy"]
  evaluation, plain_evaluation = (
    functools.partial(source.evaluation_batches, config.eval.num_batches)
    for source in (held_out_source, held_out_source.without_pauses())
  )
  return RunData(
    batches=StepBatches(training_source, config.batch_skips),
    evaluation=evaluation,
    plain_evaluation=(
      plain_evaluation if data.pauses.has_pauses else evaluation
    ),
    unigram_entropy=entropy,
  )


def _open_seqio(config: TrainConfig, host) -> RunData:
  from pausejax.data.seqio.stream import SeqioBatches

  task = tasks.pretraining(config.data.only_task)
  stream = functools.partial(
    SeqioBatches,
    config.data,
    task,
    batch_size=config.batch_size,
    seed=config.seed,
    shard=host,
  )

  def evaluation(*, pauses: bool = True) -> Iterator[batch.Batch]:
    held_out = stream(split="validation", pauses=pauses)
    return itertools.islice(held_out, config.eval.num_batches or None)

  plain_evaluation = functools.partial(evaluation, pauses=False)
  return RunData(
    batches=stream(),
    evaluation=evaluation,
    plain_evaluation=(
      plain_evaluation if config.data.pauses.has_pauses else evaluation
    ),
    summary=file_lists.left_out_reasons(task.source(config.data).left_out()),
  )
